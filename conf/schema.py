"""The typed shape of a run's configuration, and an evaluation's; `conf.programs` has the others.

YAML in this folder fills these dataclasses; hydra refuses an unknown key or a wrong type at
composition, and `launch.program.build` turns the result into a `RunConfig`, each plug made from its
`_target_`. Range checks sit in `__post_init__` and begin with the key. What concerns several rooms
at once is checked in `RunConfig.__post_init__`.
"""

import math
from dataclasses import dataclass, field
from typing import Any

from conf.checkpoint import CheckpointConfig
from conf.checks import (
    ObjectivePlug,
    TrackerPlug,
    require,
    require_name,
    require_path,
    require_plug,
)
from conf.evaluation import HELD_OUT, EvaluationConfig
from conf.loop import LoopConfig
from conf.resources import ResourcesConfig
from cost.aggregations import counts_responses_alike
from cost.ranges import SECONDS, SEED, Range, amount, count, positive, require_ranges
from cost.scheduler.config import SchedulerConfig
from learner.config import LearnerConfig
from learner.numerics import Numerics
from rollout.config import RolloutConfig
from rollout.environments import Environment
from rollout.rewards.code import CodeReward
from rollout.rewards.types import Reward
from rollout.rewards.weighted_sum import with_parts
from rollout.sandbox.config import SandboxConfig
from rollout.tasks.prompts import Task


@dataclass(kw_only=True, slots=True)
class ModelConfig:
    """The policy to start from."""

    path: str
    """Hugging Face folder with tokenizer and chat template, or OWNER/NAME[@REVISION] of the hub."""
    dtype: str = "bfloat16"
    """Precision of engine and learner: "float32", "bfloat16", or "float16" on GPUs."""
    float32_head: bool = False
    """Compute logits in float32 even if the rest has 16 bits, in engine and learner. The two then
    differ less (ScaleRL, 2510.13786), at the cost of a float32 copy of the output head and slower
    products with it. No effect in float32."""
    max_model_len: int = 2048
    """Longest prompt plus response, tokens."""
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    """Variables of the chat template, by name, e.g. {enable_thinking: false} for Qwen3."""
    stop_strings: list[str] = field(default_factory=list)
    """Texts that end a response, besides what ends it by the model's own files. They are part of
    the response that is trained on, and of no text that a reward sees."""

    def __post_init__(self) -> None:
        require(
            self.dtype in ("float32", "bfloat16", "float16"),
            "model.dtype must be float32, bfloat16 or float16",
            self.dtype,
        )
        require_ranges("model.", self, {"max_model_len": Range(2, 1e8)})
        require(
            all(self.stop_strings), "model.stop_strings must not be empty texts", self.stop_strings
        )


@dataclass(kw_only=True, slots=True)
class ParityConfig:
    """How to check that engine and learner compute the same at the same version."""

    every: int = 1
    """Check after every so many publishes; 0 for only at start."""
    num_sequences: int = 4
    """Responses per check: of the last batch, or at start newly sampled ones."""
    num_tokens: int = 16
    """Tokens to check of each response, from its beginning."""
    max_difference: float = 1e-3
    """Largest difference of one token's log-probability that passes in float32, nats."""
    slack: float = 2.0
    """In 16 bits, mean and 99th percentile may be this many times those measured at start."""
    self_test: bool = True
    """At start, publish changed weights, check that the engine follows, and restore them."""
    deadline_seconds: float = 600.0
    """Longest time for engines to answer one check, and the same again for learners."""

    def __post_init__(self) -> None:
        ranges = {
            "every": amount(),
            "num_sequences": count(10_000),
            "num_tokens": count(1e6),
            "max_difference": positive(100),
            "slack": count(1e6),
            "deadline_seconds": SECONDS,
        }
        require_ranges("parity.", self, ranges)


def check_run(name: str, seed: int, run_dir: str) -> None:
    """Refuse what names no run: its name, the seed of its chance, and its folder.

    Raises:
        ValueError: Beginning with the key.
    """
    require_name("name", name)
    fault = SEED.fault(seed)
    require(fault is None, f"seed {fault}", seed)
    require_path("run_dir", run_dir)


def check_seconds(config: "RunConfig | EvaluateConfig") -> None:
    """Refuse a reward of code whose own time is not over before that of its process.

    Raises:
        ValueError: Beginning with the key.
    """
    sets = config.evaluation.sets.items()
    own = {f"evaluation.sets.{name}.reward": chosen.reward for name, chosen in sets}
    rewards = {"reward": config.reward, **own}.items()
    for key, reward in (each for pair in rewards for each in with_parts(*pair)):
        seconds = reward.seconds if isinstance(reward, CodeReward) else 0.0
        require(
            seconds < config.rollout.reward_timeout_seconds,
            f"{key}.seconds must be less than rollout.reward_timeout_seconds = "
            f"{config.rollout.reward_timeout_seconds:g}, or late responses are not scored at all",
            seconds,
        )


@dataclass(kw_only=True, slots=True)
class RunConfig:
    """Everything a training run depends on."""

    name: str
    """Name of the run, in its folder, on pages and in trackers."""
    seed: int = 0
    """Random seed of draws, samples and everything else that is random."""
    run_dir: str
    """Folder for config, metrics, summary, picture and the trained policy; must be new or empty,
    unless the run is resumed."""
    resume: str | None = None
    """A run folder to resume from its newest checkpoint; "auto" resumes the run in run_dir if there
    is one, and starts one otherwise."""
    model: ModelConfig
    task: Any
    """The plug that makes the training prompts."""
    held_out: Any
    """The plug that makes the prompts of evaluations."""
    reward: Any
    """The plug that scores responses."""
    environment: Any
    """The plug that plays what follows a prompt: one response or several turns."""
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)
    """Where code that the policy wrote is run, for rewards and tools that run it."""
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    scheduler: SchedulerConfig
    objective: Any
    """The plug that gives each token's loss."""
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    parity: ParityConfig = field(default_factory=ParityConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    resources: ResourcesConfig = field(default_factory=ResourcesConfig)
    tracker: Any
    """The plugs that metrics go to, by name."""

    def __post_init__(self) -> None:
        check_run(self.name, self.seed, self.run_dir)
        self._check_plugs()
        self._check_lengths()
        self._check_precision()
        self._check_steps()
        self._check_estimates()
        self._check_sleep()

    def _check_plugs(self) -> None:
        require_plug("task", self.task, Task)
        require_plug(HELD_OUT, self.held_out, Task)
        require_plug("reward", self.reward, Reward)
        check_seconds(self)
        require_plug("environment", self.environment, Environment)
        require_plug("objective", self.objective, ObjectivePlug)
        require(
            isinstance(self.tracker, dict),
            "tracker must be plugs by name: add one of yours with "
            "+tracker@tracker.NAME=FILE.py:CLASS, beside those that are there",
            self.tracker,
        )
        for name, plug in self.tracker.items():
            require_name("tracker", name)
            require_plug(f"tracker.{name}", plug, TrackerPlug)

    def _check_lengths(self) -> None:
        longest = self.model.max_model_len
        require(
            self.rollout.max_tokens < longest,
            f"rollout.max_tokens must leave room for a prompt in model.max_model_len = {longest}",
            self.rollout.max_tokens,
        )
        require(
            self.learner.row_tokens >= longest,
            f"learner.row_tokens must be at least model.max_model_len = {longest}, so that every "
            "response fits a row",
            self.learner.row_tokens,
        )

    def _check_precision(self) -> None:
        require(
            self.model.dtype == "float32" or self.learner.zero_stage > 0,
            f"learner.zero_stage must be 1, 2 or 3 when model.dtype is {self.model.dtype}, to keep "
            "float32 master weights",
            self.learner.zero_stage,
        )
        require(
            self.model.dtype != "float16" or self.resources.use_gpu is not False,
            "model.dtype must be float32 or bfloat16 when resources.use_gpu is false: DeepSpeed "
            "trains in float16 on GPUs only",
            self.model.dtype,
        )

    def _check_steps(self) -> None:
        require(
            not self.evaluation.background or self.rollout.update_mode != "drain",
            "evaluation.background must be false with rollout.update_mode=drain, where publishing "
            "waits for every response",
            self.evaluation.background,
        )
        best = self.checkpoint.keep_best
        require(
            best is None or best in (HELD_OUT, *self.evaluation.sets),
            "checkpoint.keep_best must be held_out or the name of a set in evaluation.sets",
            best,
        )
        require(
            best is None or (self.evaluation.every > 0 and not self.evaluation.background),
            "checkpoint.keep_best must be null without evaluation.every, or with "
            "evaluation.background, whose results are of weights that are gone by then",
            best,
        )
        require(
            self.learner.num_minibatches <= (fewest := self.scheduler.bounds[0].tickets),
            f"learner.num_minibatches must not exceed scheduler.tickets_per_step = {fewest}, or "
            "what scheduler.sizing makes of it: every optimiser step needs a group",
            self.learner.num_minibatches,
        )

    def _check_estimates(self) -> None:
        require(
            not self.learner.terms_for_all or self.scheduler.thinning.keeps_zero_advantage,
            "scheduler.thinning must keep responses of advantage 0 with "
            f"{' and '.join(self.learner.terms_for_all)}, which concerns them too: set "
            "thinning@scheduler.thinning=keep_all, or scheduler.thinning.keep_zero_advantage=true "
            "where the thinning has that key",
            self.scheduler.thinning,
        )
        reuse, learner = self.scheduler.reuse, self.learner
        require(
            reuse is None or (learner.behaviour == "rollout" and not learner.terms_for_all),
            "scheduler.reuse must be null with learner.behaviour=recomputed, whose ratio is not to "
            "the policy that sampled, and with terms that concern responses of advantage 0",
            reuse,
        )
        for plug in (self.objective, self.scheduler.advantage):
            require(
                not getattr(plug, "needs_sequence_mean", False)
                or counts_responses_alike(self.scheduler.aggregation),
                "scheduler.aggregation must count every response the same, as sequence_mean does, "
                f"for the formula of {type(plug).__name__}",
                self.scheduler.aggregation,
            )

    def _check_sleep(self) -> None:
        asleep = "with resources.engines_sleep=true, where engines sleep while learners work"
        require(
            not self.resources.engines_sleep or self.loop.max_staleness == 0,
            f"loop.max_staleness must be 0 {asleep}",
            self.loop.max_staleness,
        )
        require(
            not self.resources.engines_sleep or not self.evaluation.background,
            f"evaluation.background must be false {asleep}",
            self.evaluation.background,
        )

    @property
    def numerics(self) -> Numerics:
        """How the learner computes log-probabilities."""
        return Numerics(
            dtype=self.model.dtype,
            temperature=self.rollout.temperature,
            float32_head=self.model.float32_head,
            max_model_len=self.model.max_model_len,
        )

    @property
    def max_prompt_tokens(self) -> int:
        """Tokens of the longest prompt that leaves room for a whole response."""
        return self.model.max_model_len - self.rollout.max_tokens

    @property
    def responses_per_step(self) -> int:
        """Responses generated in one step at the configured sizes, exploring ones included."""
        num_tickets = self.scheduler.tickets_per_step + self.scheduler.num_exploring
        return num_tickets * self.scheduler.group_size

    @property
    def num_rows_at_most(self) -> int:
        """Packed rows per learner in one pass if every response had the full length."""
        tokens = self.responses_per_step * self.model.max_model_len
        return math.ceil(tokens / self.learner.row_tokens / self.resources.num_learners)


@dataclass(kw_only=True, slots=True)
class EvaluateConfig:
    """Everything an evaluation depends on."""

    name: str
    """Name of the run, in its folder, on pages and in trackers."""
    seed: int = 0
    """Random seed of draws, samples and everything else that is random."""
    run_dir: str
    """Folder for config and results; must be new or empty."""
    model: ModelConfig
    held_out: Any
    """The plug that makes the prompts."""
    reward: Any
    """The plug that scores responses."""
    environment: Any
    """The plug that plays what follows a prompt: one response or several turns."""
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)
    """Where code that the policy wrote is run, for rewards and tools that run it."""
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    resources: ResourcesConfig = field(default_factory=ResourcesConfig)

    def __post_init__(self) -> None:
        check_run(self.name, self.seed, self.run_dir)
        require_plug(HELD_OUT, self.held_out, Task)
        require_plug("reward", self.reward, Reward)
        check_seconds(self)
        require_plug("environment", self.environment, Environment)

    @property
    def max_prompt_tokens(self) -> int:
        """Tokens of the longest prompt that leaves room for a whole response."""
        return self.model.max_model_len - self.rollout.max_tokens
