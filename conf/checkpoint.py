"""When a run is saved so that it can go on exactly, and what it does when it must stop."""

from dataclasses import dataclass

from cost.ranges import SECONDS, amount, count, positive, require_ranges


@dataclass(kw_only=True, slots=True)
class CheckpointConfig:
    """Checkpoints of everything a run goes on from; see `python -m launch.train resume=RUN`."""

    every_steps: int = 0
    """Save every so many steps; 0 for only `every_seconds`."""
    every_seconds: float | None = 600.0
    """Save after the first step that ends this long after the last checkpoint; None for only
    `every_steps`."""
    at_end: bool = True
    """Save after the last step too, so that the run can be resumed to make it longer."""
    keep_last: int = 2
    """How many checkpoints to keep, the newest ones."""
    keep_best: str | None = None
    """Keep the policy with the best pass@1 on this set, "held_out" or one of `evaluation.sets`, as
    policy-best-STEP. Evaluations are those of `evaluation.every` and that after the run. While the
    run goes on, so is the best one before each checkpoint. None keeps none."""
    grace_seconds: float = 30.0
    """After a first SIGINT or SIGTERM: longest wait for the current step to end, and the same again
    for the checkpoint to be written."""
    max_recoveries: int = 3
    """How often in a row, without a step in between, a run resumes by itself from its newest
    checkpoint after its scheduler or learners died; 0 for never."""
    deadline_seconds: float = 1800.0
    """Longest time to write a checkpoint."""

    def __post_init__(self) -> None:
        ranges = {
            "every_steps": amount(),
            "every_seconds": positive(),
            "keep_last": count(1000),
            "grace_seconds": SECONDS,
            "max_recoveries": amount(1000),
            "deadline_seconds": SECONDS,
        }
        require_ranges("checkpoint.", self, ranges)
