"""What was found, for a person."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from launch.study.chaos.outcomes import Trial, deviation, faults

COLUMNS = ("", "struck", "with", "at", "first", "statuses", "named after", "named by", "restarts",
           "lost", "unscored", "seconds", "faults")  # fmt: skip


def table_of(trials: Sequence[Trial], num_steps: int, tickets: int) -> Table:
    """Return one row a trial; the rest as for `faults`."""
    table = Table(*COLUMNS)
    for trial in trials:
        table.add_row(*row_of(trial, faults(trial, num_steps, tickets)))
    return table


def row_of(trial: Trial, found: Sequence[str]) -> list[str]:
    """Return the cells of a trial.

    Args:
        trial: The trial.
        found: Its faults.
    """
    strike = trial.strike
    if strike is None:
        what, at = ["-", "-"], "-"
    else:
        what = [strike.part, strike.signal]
        at = f"{trial.at_step + 1}" if trial.pid is not None else "never"
    named = f"{trial.named_seconds:.1f} s" if trial.named_seconds is not None else "-"
    return [
        str(trial.number),
        *what,
        at,
        "went on" if trial.went_on else "ended" if trial.statuses[0] is not None else "hung",
        " ".join("hung" if status is None else str(status) for status in trial.statuses),
        named,
        trial.named[:100],
        str(trial.trained.restarts),
        str(trial.trained.lost),
        str(trial.trained.unscored),
        f"{trial.seconds:.0f}",
        "; ".join(found) or "none",
    ]


def sentence_of(trials: Sequence[Trial]) -> str:
    """Return how the responses of disturbed runs compare with the undisturbed one's."""
    whole, *struck = trials
    lengths = [trial.trained.length for trial in struck if trial.statuses[-1] == 0]
    z = deviation(lengths, whole.trained.length)
    mean = sum(lengths) / len(lengths) if lengths else float("nan")
    told = "no spread to compare it with" if z is None else f"z = {z:+.2f}"
    return (
        f"mean response: {mean:.2f} tokens in {len(lengths)} disturbed runs that ended, "
        f"{whole.trained.length:.2f} in the undisturbed one; {told}"
    )
