"""The parts of a running system as the loop sees them, and the loop's numbers."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from conf.schema import RunConfig
from cost.thinning.reuse import Reuse
from cost.types import Draw, Feedback, FloatArray, Selection, Ticket
from launch.run.compute import compute_of
from launch.run.rewards import RewardWatch
from learner.compute import LearnerCompute
from rollout.types import GroupRef, Prompt

Metrics = dict[str, float]


class Scheduler(Protocol):
    """The scheduler as the loop sees it; see `cost.scheduler.scheduler.Scheduler`."""

    async def draw(
        self, batch: int, folded: int, gradient_norms: Mapping[int, FloatArray] | None = None
    ) -> Draw:
        """Fold the first so many batches, then draw the next round of a batch."""

    async def select(
        self,
        batch: int,
        attempts: Sequence[int],
        epoch: int = 0,
        progress: float = 0.0,
        penalties: Sequence[FloatArray] | None = None,
    ) -> list[Selection]:
        """Choose and weigh the responses to train on, with penalties [n] of each plain group."""

    async def reuse(self, batch: int) -> list[list[Selection]]:
        """Choose what to train on once more beside the batch selected last, by earlier batch."""

    async def learned(self, batch: int, feedback: Feedback) -> None:
        """Take in what learning from a batch took and showed."""


class Rollouts(Protocol):
    """The rollout pool as the loop sees it."""

    async def run(self, ticket: Ticket, prompt: Prompt) -> GroupRef:
        """Turn a ticket into a group; an empty one if it fails for good."""

    def signs(self) -> int:
        """Return how often anything was heard of any ticket."""


class Learners(Protocol):
    """The learner team as the loop sees it."""

    async def update(
        self,
        groups: Sequence[GroupRef],
        selections: Sequence[Selection],
        *,
        step: int,
        epoch: int,
        progress: float,
    ) -> Metrics:
        """Take one pass over a batch; raises when the loss stays non-finite."""

    async def gradient_norms(self, groups: Sequence[GroupRef], *, layer: str) -> list[FloatArray]:
        """Norm of each response's summed score, one array a group."""

    async def reference_kl(self, groups: Sequence[GroupRef]) -> list[FloatArray]:
        """Estimate each response's divergence from the reference policy, one array a group."""


async def nothing() -> None:
    """Do nothing."""


def all_of_them() -> float:
    """Return 1: as many engines are in use as the run began with."""
    return 1.0


@dataclass(frozen=True, slots=True)
class Parts:
    """What the loop drives."""

    prompts: Sequence[Prompt]
    """[N] the task; a ticket's `prompt_index` points into it."""
    scheduler: Scheduler
    rollouts: Rollouts
    learners: Learners
    publish: Callable[[int, Sequence[GroupRef]], Awaitable[Metrics]]
    """Makes the given version available to the engines; with the groups that it was learned from,
    which show whether engines hold it."""
    sleep: Callable[[], Awaitable[None]] = nothing
    """Lets engines sleep until the next version is published, if they are to."""
    engine_share: Callable[[], float] = all_of_them
    """Engines in use, over those that the run began with."""
    watch: RewardWatch | None = None
    """Looks at what became of a batch's rewards before it is learned; None for nobody."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The loop's numbers."""

    num_steps: int
    """Batches to learn."""
    num_epochs: int
    """Passes over each batch."""
    max_staleness: int
    """Versions a batch may be behind when learned."""
    batch_deadline_seconds: float
    """Longest silence of all tickets while one round of a batch is awaited."""
    num_engine_accelerators: int = 1
    """Accelerators of all engines together that the run begins with."""
    num_learners: int = 1
    """Learners at work during an update."""
    reward_kl_coefficient: float = 0.0
    """What a nat of a response's divergence from the reference takes off its reward; 0 when there
    is nothing to take off."""
    gradient_norm_layer: str = "lm_head"
    """Layer whose gradient is measured per response."""
    calibrate_every: int = 0
    """Batches between measurements for the scheduler's calibration; 0 for none."""
    max_generated_tokens: int | None = None
    """No batch is drawn once those before it are expected to take so many generated tokens; None
    for no such bound."""
    max_trained_tokens: int | None = None
    """The same for tokens of kept responses with their prompts, every pass counted."""
    max_compute_flops: float | None = None
    """The same for FLOPs, as `launch.run.compute` counts them; `compute` must be there."""
    max_seconds: float | None = None
    """The same for seconds of waiting, learning and publishing."""
    target: float | None = None
    """No batch is drawn after an evaluation with this pass rate; None for no such bound."""
    reuse: Reuse | None = None
    """When earlier batches are learned from once more; None for never."""
    compute: LearnerCompute | None = None
    """Counts FLOPs; None where nobody knows the model's shape."""


def plan_of(config: RunConfig) -> Plan:
    """Return the numbers of the configuration that the loop goes by."""
    return Plan(
        num_steps=config.loop.num_steps,
        num_epochs=config.learner.num_epochs,
        max_staleness=config.loop.max_staleness,
        batch_deadline_seconds=config.loop.batch_deadline_seconds,
        num_engine_accelerators=config.resources.num_engines
        * config.resources.tensor_parallel_size,
        num_learners=config.resources.num_learners,
        reward_kl_coefficient=config.learner.reference.kl_in_reward,
        gradient_norm_layer=config.scheduler.gradient_norm_layer,
        calibrate_every=config.scheduler.calibrate_every,
        max_generated_tokens=config.loop.max_generated_tokens,
        max_trained_tokens=config.loop.max_trained_tokens,
        max_compute_flops=config.loop.max_compute_flops,
        max_seconds=config.loop.max_seconds,
        target=config.evaluation.target,
        reuse=config.scheduler.reuse,
        compute=compute_of(config),
    )
