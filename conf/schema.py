"""The typed shape of every program's configuration.

YAML in this folder fills these dataclasses; hydra refuses an unknown key or a wrong type at
composition, and `hydra.utils.instantiate(cfg, _convert_="object")` turns the result into a
`RunConfig`, building each plug from its `_target_`. Range checks sit in `__post_init__` and begin
with the key. What concerns several rooms at once is checked in `RunConfig.__post_init__`.
"""

import math
import re
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore

from cost.config import SchedulerConfig
from learner.config import LearnerConfig
from rollout.config import RolloutConfig


def _require(condition: bool, message: str, value: object) -> None:
    if not condition:
        raise ValueError(f"{message}, got {value!r}")


_PLUGS = {
    "task": "prompts",
    "held_out": "prompts",
    "reward": "score",
    "environment": "play",
    "objective": "token_losses",
}


def _require_plug(key: str, plug: object, method: str) -> None:
    _require(hasattr(plug, method), f"{key} must be a plug with the method {method}", plug)


@dataclass(kw_only=True, slots=True)
class ModelConfig:
    """The policy to start from."""

    path: str
    """Local folder in Hugging Face format, with tokenizer and chat template."""
    dtype: str = "bfloat16"
    """Precision of engine and learner: "float32" or "bfloat16"."""
    max_model_len: int = 2048
    """Longest prompt plus response, tokens."""

    def __post_init__(self) -> None:
        _require(
            self.dtype in ("float32", "bfloat16"),
            "model.dtype must be float32 or bfloat16",
            self.dtype,
        )
        _require(
            self.max_model_len >= 2, "model.max_model_len must be at least 2", self.max_model_len
        )


@dataclass(kw_only=True, slots=True)
class LoopConfig:
    """How long the run is, and how far generation may run ahead of learning."""

    num_steps: int = 100
    """Batches to learn, one published version each."""
    max_staleness: int = 0
    """Versions a batch may be behind when it is learned; 0 generates and learns in turn."""
    max_generated_tokens: int | None = None
    """Draw no further batch once those drawn are expected to take so many tokens of the engines,
    pilots and filtered groups included; None learns `num_steps` batches."""
    batch_deadline_seconds: float = 1800.0
    """Longest wait for a whole batch of groups, or for each of its rounds."""
    publish_deadline_seconds: float = 600.0
    """Longest time to bring one version of the weights to every engine."""
    save_every: int = 0
    """Save the policy after every so many steps; 0 saves at the end only."""
    save_final: bool = True
    """Save the policy at the end."""

    def __post_init__(self) -> None:
        _require(self.num_steps >= 1, "loop.num_steps must be at least 1", self.num_steps)
        _require(
            self.max_staleness >= 0, "loop.max_staleness must not be negative", self.max_staleness
        )
        _require(
            self.max_generated_tokens is None or self.max_generated_tokens > 0,
            "loop.max_generated_tokens must be positive or null",
            self.max_generated_tokens,
        )
        _require(self.save_every >= 0, "loop.save_every must not be negative", self.save_every)
        for key in ("batch_deadline_seconds", "publish_deadline_seconds"):
            _require(getattr(self, key) > 0, f"loop.{key} must be positive", getattr(self, key))


@dataclass(kw_only=True, slots=True)
class ParityConfig:
    """Does the engine compute what the learner computes, at the same version?"""

    every: int = 1
    """Check after every so many publishes; 0 checks at start only."""
    num_sequences: int = 4
    """Freshly sampled probe responses per check."""
    num_tokens: int = 16
    """Tokens of each probe response."""
    max_difference: float = 1e-3
    """float32: largest difference of one token's log-probability."""
    slack: float = 2.0
    """bfloat16: mean and 99th percentile may be so many times those measured at start."""
    self_test: bool = True
    """At start, publish halved weights, see the engine follow, and restore them."""

    def __post_init__(self) -> None:
        _require(self.every >= 0, "parity.every must not be negative", self.every)
        for key in ("num_sequences", "num_tokens"):
            _require(
                getattr(self, key) >= 1, f"parity.{key} must be at least 1", getattr(self, key)
            )
        _require(
            self.max_difference > 0, "parity.max_difference must be positive", self.max_difference
        )
        _require(self.slack >= 1, "parity.slack must be at least 1", self.slack)


@dataclass(kw_only=True, slots=True)
class EvaluationConfig:
    """How the policy is measured on held-out prompts."""

    num_samples: int = 8
    """Responses per prompt at `temperature`; pass@k is given for k = 1 and k = num_samples."""
    temperature: float = 1.0
    greedy: bool = True
    """Also take one greedy response per prompt."""
    before: bool = True
    """Evaluate the starting policy."""
    after: bool = True
    """Evaluate the trained policy."""

    def __post_init__(self) -> None:
        _require(
            self.num_samples >= 1, "evaluation.num_samples must be at least 1", self.num_samples
        )
        _require(self.temperature > 0, "evaluation.temperature must be positive", self.temperature)


@dataclass(kw_only=True, slots=True)
class ResourcesConfig:
    """What of the cluster the run takes: one placement group per engine, one for the learners."""

    num_engines: int = 1
    """Rollout actors, each with one vLLM engine."""
    tensor_parallel_size: int = 1
    """GPUs that hold one copy of the model; at least 1 also on CPU."""
    num_learners: int = 1
    """Learner workers."""
    use_gpu: bool | None = None
    """None takes GPUs when the cluster has any."""
    engine_cpus: float = 1.0
    """CPUs reserved for each engine."""
    learner_cpus: float = 1.0
    """CPUs reserved for each learner worker."""
    address: str | None = None
    """Ray address to join; None joins the cluster of RAY_ADDRESS, or starts one here."""
    dashboard: bool = False
    """Serve the dashboard of a cluster started here."""
    placement_deadline_seconds: float = 120.0
    """Longest wait for the cluster to reserve the resources."""

    def __post_init__(self) -> None:
        for key in ("num_engines", "tensor_parallel_size", "num_learners"):
            _require(
                getattr(self, key) >= 1, f"resources.{key} must be at least 1", getattr(self, key)
            )
        for key in ("engine_cpus", "learner_cpus", "placement_deadline_seconds"):
            _require(
                getattr(self, key) > 0, f"resources.{key} must be positive", getattr(self, key)
            )


@dataclass(kw_only=True, slots=True)
class RunConfig:
    """Everything a training run depends on."""

    name: str
    seed: int = 0
    run_dir: str
    """Folder for config, metrics, summary, picture and the trained policy; must not exist yet, or
    be empty."""
    model: ModelConfig
    task: Any
    """Plug: the training prompts."""
    held_out: Any
    """Plug: the evaluation prompts."""
    reward: Any
    environment: Any
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    scheduler: SchedulerConfig
    objective: Any
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    parity: ParityConfig = field(default_factory=ParityConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    resources: ResourcesConfig = field(default_factory=ResourcesConfig)
    tracker: Any
    """Plugs by name: where metrics go."""

    def __post_init__(self) -> None:
        for key, method in _PLUGS.items():
            _require_plug(key, getattr(self, key), method)
        trackers = dict(self.tracker)
        for name, plug in trackers.items():
            _require_plug(f"tracker.{name}", plug, "open")
        longest = self.model.max_model_len
        _require(
            self.rollout.max_tokens < longest,
            f"rollout.max_tokens must leave room for a prompt in model.max_model_len = {longest}",
            self.rollout.max_tokens,
        )
        _require(
            self.learner.row_tokens >= longest,
            f"learner.row_tokens must be at least model.max_model_len = {longest}, so that every "
            "response fits a row",
            self.learner.row_tokens,
        )
        _require(
            self.model.dtype == "float32" or self.learner.zero_stage > 0,
            "learner.zero_stage must be 1, 2 or 3 when model.dtype is bfloat16, to keep float32 "
            "master weights",
            self.learner.zero_stage,
        )
        _require(
            self.learner.num_minibatches <= self.scheduler.tickets_per_step,
            "learner.num_minibatches must not exceed scheduler.tickets_per_step = "
            f"{self.scheduler.tickets_per_step}: every optimiser step needs a group",
            self.learner.num_minibatches,
        )

    @property
    def max_prompt_tokens(self) -> int:
        """Longest prompt that leaves room for a whole response."""
        return self.model.max_model_len - self.rollout.max_tokens

    @property
    def responses_per_step(self) -> int:
        """Responses generated in one step at the configured group size."""
        return self.scheduler.tickets_per_step * self.scheduler.group_size

    @property
    def num_rows_at_most(self) -> int:
        """Packed rows per learner in one pass if every response had the full length."""
        tokens = self.responses_per_step * self.model.max_model_len
        return math.ceil(tokens / self.learner.row_tokens / self.resources.num_learners)


@dataclass(kw_only=True, slots=True)
class EvaluateConfig:
    """Everything an evaluation depends on."""

    name: str
    seed: int = 0
    run_dir: str
    model: ModelConfig
    held_out: Any
    reward: Any
    environment: Any
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    resources: ResourcesConfig = field(default_factory=ResourcesConfig)

    @property
    def max_prompt_tokens(self) -> int:
        """Longest prompt that leaves room for a whole response."""
        return self.model.max_model_len - self.rollout.max_tokens


@dataclass(kw_only=True, slots=True)
class CompareConfig:
    """What a comparison runs; every run is one of `conf/train.yaml`."""

    name: str
    run_dir: str
    """Folder of all runs. Started again with the same folder, a comparison goes on where it
    stopped."""
    base: list[str]
    """Overrides of conf/train.yaml that all arms share."""
    arms: dict[str, list[str]]
    """Overrides of each arm on top; the first arm is the baseline."""
    seeds: list[int]
    """Every arm runs once with each."""
    max_generated_tokens: int
    """Budget of every run: tokens that engines compute, pilots and filtered groups included."""
    max_steps: int = 100_000
    """Batches at which a run ends whatever it has generated."""

    def __post_init__(self) -> None:
        _require(len(self.arms) >= 1, "arms must name at least one arm", self.arms)
        for arm in self.arms:
            _require(
                re.fullmatch(r"[A-Za-z0-9_.-]+", arm) is not None,
                "arms must have names of letters, digits, '_', '.' and '-'",
                arm,
            )
        _require(len(self.seeds) >= 1, "seeds must name at least one seed", self.seeds)
        _require(
            len(set(self.seeds)) == len(self.seeds), "seeds must differ from each other", self.seeds
        )
        for key in ("max_generated_tokens", "max_steps"):
            _require(getattr(self, key) > 0, f"{key} must be positive", getattr(self, key))


def register() -> None:
    """Put the schemas where the YAML's defaults lists find them."""
    store = ConfigStore.instance()
    store.store(name="train_schema", node=RunConfig)
    store.store(name="evaluate_schema", node=EvaluateConfig)
    store.store(name="compare_schema", node=CompareConfig)
