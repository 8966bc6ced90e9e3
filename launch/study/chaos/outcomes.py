"""What became of a trial: read from its run folder and output, and held against what it must be."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from launch.record.restarts import read_restarts
from launch.record.run_folder import METRICS, is_afterwards
from launch.study.chaos.strikes import DRIVER, Strike

NAMES = {
    DRIVER: r"stopped by|go on from|goes on|going on",
    "scheduler": r"scheduler",
    "rollout actor": r"rollout actor",
    "engine core": r"engine|rollout actor",
    "fork server": r"engine|rollout actor",
    "learner": r"learner",
    "raylet": r"raylet|cluster|node",
    "gcs": r"gcs|cluster",
    "reward": r"reward (?!-?[\d.]+ )",
}
"""What a line has in it that names a part; the line of a step, "reward 0.5", does not."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What a run folder says of what was trained.

    Example:
        Trained(steps=(1, 2), tickets=8, failed=0, unscored=0, length=31.5, restarts=1, lost=1)
    """

    steps: tuple[int, ...]
    """As in the metrics."""
    tickets: int
    """Learned, by the last step's ledger."""
    failed: int
    """Tickets that failed all retries."""
    unscored: int
    """Responses whose scoring crashed or ran out of time."""
    length: float
    """Mean over steps of the mean response's tokens."""
    restarts: int
    lost: int
    """Steps taken anew."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What became of one trial."""

    number: int
    """From 1; 0 is the run that nothing disturbs."""
    strike: Strike | None
    pid: int | None
    """Process that was struck; None if there was none in time."""
    at_step: int
    """Steps that were written down before."""
    statuses: tuple[int | None, ...]
    """Exit status of every start, negative of a signal; None where the deadline ended it."""
    named_seconds: float | None
    """From the signal to the first line that names the part."""
    named: str
    """That line; "" if there is none."""
    leftovers: tuple[str, ...]
    seconds: float
    trained: Trained

    @property
    def went_on(self) -> bool:
        """Whether the first start reached the end of training."""
        return self.statuses == (0,)


def read_trained(run_dir: Path) -> Trained:
    """Return what a run folder says; of one that has not begun, nothing."""
    path = run_dir / METRICS
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    whole = [json.loads(line) for line in lines if line.endswith("}")]
    metrics = [line for line in whole if not is_afterwards(line)]
    restarts = read_restarts(run_dir) if run_dir.is_dir() else []
    return trained_of(metrics, [restart.lost_steps for restart in restarts])


def trained_of(metrics: Sequence[Mapping[str, Any]], lost: Sequence[int]) -> Trained:
    """Return what metrics and restarts say.

    Args:
        metrics: Of every step.
        lost: Steps that each restart took anew.
    """
    last = metrics[-1] if metrics else {}
    unscored = ("rollout/reward_crashed", "rollout/reward_timed_out")
    return Trained(
        steps=tuple(int(line["step"]) for line in metrics),
        tickets=int(last.get("cost/tickets", 0)),
        failed=int(last.get("rollout/failed_tickets", 0)),
        unscored=int(sum(line.get(key, 0) for line in metrics for key in unscored)),
        length=float(np.mean([line["rollout/length_mean_tokens"] for line in metrics] or [0.0])),
        restarts=len(lost),
        lost=sum(lost),
    )


def names(part: str, line: str) -> bool:
    """Whether a line of a run's output, but for the result's table, names a part, in any case."""
    told = not line.startswith("│")
    return told and re.search(NAMES[part], line, re.IGNORECASE) is not None


def faults(trial: Trial, num_steps: int, tickets: int) -> list[str]:
    """Return what is wrong with a trial, in words; empty if nothing is.

    Args:
        trial: The trial.
        num_steps: Of a whole run.
        tickets: Of a whole run.
    """
    found, trained = [], trial.trained
    if trial.statuses[-1] is None:
        found.append("hung")
    elif trial.statuses[-1] != 0:
        found.append(f"ended with {trial.statuses[-1]}")
    missing = tickets - trained.tickets
    if missing:
        found.append(f"{abs(missing)} tickets {'lost' if missing > 0 else 'doubled'}")
    if trained.steps != tuple(range(1, num_steps + 1)):
        found.append("steps are not each there once")
    if trained.failed:
        found.append(f"{trained.failed} tickets failed")
    if trial.leftovers:
        found.append(f"{len(trial.leftovers)} left over")
    return found


def deviation(lengths: Sequence[float], undisturbed: float) -> float | None:
    """Return by how many standard errors disturbed runs' mean length differs from another run's.

    Args:
        lengths: Of disturbed runs, tokens.
        undisturbed: Of one run that nothing disturbs; it is taken to vary as they do.

    Returns:
        None where fewer than two runs, or no two that differ, say nothing of how they vary.
    """
    if len(lengths) < 2:
        return None
    spread = float(np.std(lengths, ddof=1)) * float(np.sqrt(1 + 1 / len(lengths)))
    return (float(np.mean(lengths)) - undisturbed) / spread if spread > 0 else None


def to_json(trial: Trial) -> dict[str, Any]:
    """Return a trial in JSON's types."""
    return asdict(trial)


def from_json(record: Mapping[str, Any]) -> Trial:
    """Return the trial of `to_json`."""
    trained, strike = record["trained"], record["strike"]
    lists = {key: tuple(record[key]) for key in ("statuses", "leftovers")}
    return Trial(
        **{
            **record,
            **lists,
            "strike": Strike(**strike) if strike else None,
            "trained": Trained(**{**trained, "steps": tuple(trained["steps"])}),
        }
    )
