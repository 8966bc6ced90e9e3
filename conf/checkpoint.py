"""When a run is saved so that it can go on exactly, and what it does when it must stop."""

from dataclasses import dataclass

from cost.ranges import SECONDS, amount, count, positive, require_ranges


@dataclass(kw_only=True, slots=True)
class CheckpointConfig:
    """Checkpoints of everything a run goes on from; see `python -m launch.train resume=RUN`."""

    every_steps: int = 0
    """Save after every so many steps; 0 goes by `every_seconds` alone."""
    every_seconds: float | None = 600.0
    """Save after the first step that ends so long after the last checkpoint; None goes by
    `every_steps` alone."""
    at_end: bool = True
    """Save after the last step too, so that the run can be made longer."""
    keep_last: int = 2
    """Whole checkpoints that are kept, the newest ones."""
    keep_best: str | None = None
    """Set whose pass@1 decides, "held_out" or one of `evaluation.sets`: the policy that did best in
    the evaluations of `evaluation.every`, and after the run, is kept as policy-best-STEP; None
    keeps none."""
    grace_seconds: float = 30.0
    """After a first SIGINT or SIGTERM, longest wait for a step that is being learned to end, and
    again for the checkpoint to be written."""
    max_recoveries: int = 3
    """How often in a row, without a step in between, a run whose scheduler or learners died goes
    on from its newest checkpoint by itself; 0 ends it at once."""
    deadline_seconds: float = 1800.0
    """Longest time to write one."""

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
