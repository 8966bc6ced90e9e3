"""The typed shape of the configurations of studies: what is simulated or measured about runs."""

from dataclasses import dataclass, field, fields
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf

from conf.checks import ProfilePlug, require, require_path, require_plug
from conf.schema import RunConfig, check_run
from cost.ranges import SEED, Range, amount, count, positive, require_ranges
from cost.scheduler.config import MOST_RESPONSES, SchedulerConfig
from cost.thinning.thinning import KeepAll
from rollout.rewards.types import Reward
from rollout.sandbox.config import SandboxConfig
from rollout.tasks.prompts import Task


def require_simulated(scheduler: SchedulerConfig) -> None:
    """Raise a ValueError naming a setting that needs what is not simulated."""
    require(
        scheduler.entropy_control is None,
        "scheduler.entropy_control must be null: what is simulated has no entropy",
        scheduler.entropy_control,
    )
    require(
        not scheduler.prompt_features,
        "scheduler.prompt_features must be false: what is simulated has no features",
        scheduler.prompt_features,
    )


@dataclass(kw_only=True, slots=True)
class SimulateConfig:
    """What a study in simulated time runs; see `launch.simulate`."""

    name: str
    """Name of the study."""
    seed: int = 0
    """Random seed."""
    run_dir: str
    """Folder for config and results; must be new or empty."""
    profile: Any
    """Plug: machine, model and task (launch/study/simulation/profile.py)."""
    scheduler: SchedulerConfig
    accelerators: list[int] = field(default_factory=lambda: [1, 4, 16, 64, 256, 1024, 4096])
    """Numbers of accelerators to simulate, one row of the study each."""
    learner_share: float = 0.25
    """Share of the accelerators for learners, in (0, 1); the rest is for engines."""
    tickets_per_accelerator: float | None = None
    """Let the batch grow with the accelerators; None keeps scheduler.tickets_per_step."""
    num_steps: int = 20
    """Steps that are measured; some more are run before and after them."""
    max_staleness: int = 1
    """Versions that a batch may be behind when it is trained on."""
    num_epochs: int = 1
    """Passes over a batch."""
    num_minibatches: int = 1
    """Optimiser steps in a pass."""
    prefix_caching: bool = True
    """Whether engines prefill a group's prompt once."""
    update_mode: str = "recompute"
    """What happens to running requests when new weights arrive: "recompute" or "keep_kv"."""
    max_retries: int = 2
    """Retries of one ticket."""
    target_pass_rate: float | None = None
    """Mean pass rate to which steps and hours are extrapolated, by the profile's law."""
    fit: str | None = None
    """Folder of a real run, to which to fit a profile instead of simulating."""
    out: str | None = None
    """File for the fitted profile, such as conf/profile/NAME.yaml."""
    check: str | None = None
    """Folder of a real run, to predict instead of simulating a study."""
    plan: bool = False
    """Find the best split into engines and learners for each number of accelerators, with and
    without scheduler.thinning, instead of using learner_share."""

    def __post_init__(self) -> None:
        check_run(self.name, self.seed, self.run_dir)
        for key in ("fit", "out", "check"):
            path = getattr(self, key)
            if path is not None:
                require_path(key, path)
        require_plug("profile", self.profile, ProfilePlug)
        require(
            len(self.accelerators) >= 1 and all(1 <= number <= 1e6 for number in self.accelerators),
            "accelerators must name at least one number, each at least 1 and at most 1000000",
            self.accelerators,
        )
        require_simulated(self.scheduler)
        require(0 < self.learner_share < 1, "learner_share must lie in (0, 1)", self.learner_share)
        ranges = {
            "num_steps": count(1e6),
            "num_epochs": count(1000),
            "num_minibatches": count(1e6),
            "max_staleness": amount(1000),
            "max_retries": amount(1000),
            "tickets_per_accelerator": positive(1e6),
        }
        require_ranges("", self, ranges)
        target = self.target_pass_rate
        require(
            target is None or 0 < target < 1,
            "target_pass_rate must lie in (0, 1) or be null",
            target,
        )
        require(
            self.update_mode in ("recompute", "keep_kv"),
            "update_mode must be recompute or keep_kv, which are simulated",
            self.update_mode,
        )
        require(self.fit is None or self.check is None, "check must be null with fit", self.check)
        require(
            (self.fit is None) == (self.out is None),
            "out must name the file for the fitted profile, and be null without fit",
            self.out,
        )
        self._check_plan()

    def _check_plan(self) -> None:
        if not self.plan:
            return
        require(
            self.fit is None and self.check is None,
            "plan must be false with fit or check, which have a layout already",
            self.plan,
        )
        require(
            min(self.accelerators) > self.profile.engine.accelerators,
            f"accelerators must each be more than {self.profile.engine.accelerators}, what an "
            "engine of the profile takes, for a plan: there must be some left for learners",
            self.accelerators,
        )
        require(
            not isinstance(self.scheduler.thinning, KeepAll),
            "scheduler.thinning must leave something out for a plan, which compares with keeping "
            "all: set thinning@scheduler.thinning=cost_aware",
            self.scheduler.thinning,
        )


@dataclass(kw_only=True, slots=True)
class TheoryConfig:
    """How the theory is held against measurement; see `launch.theory`."""

    seeds: int = 20
    """Seeds of each method."""
    quick: bool = False
    """Two small data sets and one cost case."""
    out: str
    """Folder for theory.json and theory.png; must not exist yet, or be empty."""

    def __post_init__(self) -> None:
        require_ranges("", self, {"seeds": Range(2, 1e6)})
        require_path("out", self.out)


AGGREGATIONS = ("constant_length", "sequence_mean")
"""Members of conf/aggregation under which the variance of thinning is measured."""
LAYERS = ("all", "lm_head", "both")
"""By which weights gradients can be taken there."""


@dataclass(kw_only=True, slots=True)
class ProbedModelConfig:
    """The model whose gradients are taken."""

    path: str
    """Hugging Face folder."""


@dataclass(kw_only=True, slots=True)
class VarianceConfig:
    """What a measurement of thinning's variance samples; see `launch.variance`."""

    model: ProbedModelConfig
    task: Any
    """Plug: where prompts are from."""
    held_out: Any
    """The same again, for rewards that ask for it."""
    reward: Any
    """Plug: scores the responses."""
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)
    """Where code of the policy runs, for rewards that run it."""
    aggregations: list[str] = field(default_factory=lambda: [*AGGREGATIONS])
    """Members of conf/aggregation to measure under."""
    budgets: list[float] = field(default_factory=lambda: [0.3, 0.5, 0.7])
    """Shares of the tokens to keep, in (0, 1]."""
    num_batches: int = 6
    """Batches whose gradients are taken."""
    num_prompts: int = 16
    """Groups in a batch."""
    group_size: int = 8
    """Responses to a prompt."""
    max_tokens: int = 256
    """Longest response, tokens."""
    temperature: float = 1.0
    """Sampling temperature, positive."""
    seed: int = 0
    """Random seed of prompts and samples."""
    unbiased_only: bool = False
    """Leave PODS and D3S out, to save memory."""
    layer: str = "all"
    """Gradients by which weights: `all`; `lm_head`, the output head's alone, which takes no
    backward pass and leaves PODS, D3S, alignment and noise scale out; or `both`, one beside the
    other."""
    out: str | None = None
    """File for the figures as JSON, in a folder that exists."""

    def __post_init__(self) -> None:
        require_plug("task", self.task, Task)
        require_plug("reward", self.reward, Reward)
        require(
            len(self.aggregations) > 0 and set(self.aggregations) <= set(AGGREGATIONS),
            f"aggregations must be some of {AGGREGATIONS}",
            self.aggregations,
        )
        require(
            len(self.budgets) > 0 and all(0 < budget <= 1 for budget in self.budgets),
            "budgets must lie in (0, 1]",
            self.budgets,
        )
        require(self.layer in LAYERS, f"layer must be one of {', '.join(LAYERS)}", self.layer)
        ranges = {
            "num_batches": count(1e6),
            "num_prompts": count(1e6),
            "max_tokens": count(1e8),
            "group_size": Range(2, MOST_RESPONSES),
            "temperature": positive(100),
            "seed": SEED,
        }
        require_ranges("", self, ranges)
        if self.out is not None:
            require_path("out", self.out)


BENCHES = {
    "rollout": ("rollout",),
    "overlap": ("overlap",),
    "publish": ("publish",),
    "startup": ("startup",),
    "learner": ("learner", "gradient_norms", "long_context"),
    "layouts": ("learner",),
    "gradient_norms": ("gradient_norms",),
    "kernels": ("kernels",),
    "cost": ("cost",),
    "long_context": ("long_context",),
    "endurance": ("endurance",),
    "memory": ("memory",),
    "turns": ("turns",),
    "rewards": ("rewards",),
    "scaling": ("scaling",),
    "peer": ("peer",),
    "all": ("startup", "rollout", "publish", "learner", "gradient_norms", "cost"),
}
"""What a user names, and the benches that are run for it."""
PEERS = ("trl",)
"""Libraries that the bench `peer` trains beside."""


@dataclass(kw_only=True, slots=True)
class EnduranceConfig:
    """How long the runs are whose memory, work and files are measured step by step.

    Engines and learners only keep time; what draws, learns and writes down is what trains.
    """

    num_steps: int = 10_000
    """Of the long run."""
    num_prompts: int = 10_000
    """Prompts of the long run."""
    many_prompts: int = 1_000_000
    """Prompts of a short run."""
    many_steps: int = 100
    """Its steps; 0 leaves it out."""
    traced_steps: int = 2000
    """Steps of a run with every piece of memory traced, on `num_prompts`; 0 leaves it out."""
    cluster_steps: int = 0
    """Steps of a run with the scheduler and rollouts as Ray's actors, on `num_prompts`; 0 leaves it
    out."""

    def __post_init__(self) -> None:
        ranges = {
            "num_steps": count(1e6),
            "num_prompts": count(1e7),
            "many_prompts": count(1e7),
            "many_steps": amount(1e6),
            "traced_steps": amount(1e6),
            "cluster_steps": amount(1e6),
        }
        require_ranges("endurance.", self, ranges)


@dataclass(kw_only=True, slots=True)
class ScalingConfig:
    """How much the loop has to drive where its work is measured."""

    num_engines: int = 256
    """Simulated engines."""
    tickets_in_flight: int = 10_000
    """In two batches; most of them wait for room at an engine."""
    num_steps: int = 6
    """Measured steps, of half the tickets in flight each."""
    num_prompts: int = 20_000
    """Prompts that tickets are drawn from."""

    def __post_init__(self) -> None:
        ranges = {
            "num_engines": count(10_000),
            "tickets_in_flight": Range(2, 1e6),
            "num_steps": count(1e6),
            "num_prompts": count(1e7),
        }
        require_ranges("scaling.", self, ranges)


@dataclass(kw_only=True, slots=True)
class BenchConfig(RunConfig):
    """A run of which parts are measured, and how; see `launch.bench`."""

    benches: list[str] = field(default_factory=lambda: ["all"])
    """Keys of `BENCHES`."""
    peer: str | None = None
    """The library of the bench `peer`, "trl"; naming it asks for that bench in place of `all`."""
    repetitions: int = 9
    """Measured turns of each contestant."""
    warm_ups: int = 2
    """Turns before them that do not count."""
    endurance: EnduranceConfig = field(default_factory=EnduranceConfig)
    scaling: ScalingConfig = field(default_factory=ScalingConfig)

    def __post_init__(self) -> None:
        RunConfig.__post_init__(self)
        require(self.peer in (None, *PEERS), f"peer must be {', '.join(PEERS)} or null", self.peer)
        if self.peer is not None and "peer" not in self.benches:
            self.benches = [*(name for name in self.benches if name != "all"), "peer"]
        for name in self.benches:
            require(name in BENCHES, f"benches must be some of {', '.join(BENCHES)}", name)
        require(len(self.benches) > 0, "benches must name at least one", self.benches)
        require_ranges("", self, {"repetitions": count(1e6), "warm_ups": amount(1e6)})

    def expanded(self) -> set[str]:
        """Return the benches to run."""
        return {bench for name in self.benches for bench in BENCHES[name]}


def bench_schema() -> DictConfig:
    """Return the schema of conf/bench.yaml, to be laid over a whole conf/train.yaml.

    What describes the run is missing in it, or the defaults of `RunConfig` would undo what the
    training configuration and its experiment say.
    """
    schema: DictConfig = OmegaConf.structured(BenchConfig)
    for each in fields(RunConfig):
        schema[each.name] = MISSING
    return schema
