"""What a comparison found: one row an arm, differences to the first arm over paired seeds.

summaries by arm and seed -> Row per arm -> table, JSON

A difference is paired by seed: runs of one seed start alike and draw the same held-out responses.
Its interval is Student's t over the seeds, without a correction for the number of arms; with few
seeds it is wide, and it says so rather than a test.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

# Quantile .975 of Student's t by degrees of freedom; beyond, the normal's is near enough.
T_QUANTILES = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
)  # fmt: skip
NORMAL_QUANTILE = 1.96
PASS_RATE = "pass_rate_after"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over runs with the half width of its 95% interval."""

    mean: float
    half_width: float
    """NaN with fewer than two runs."""
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Estimate":
        """Estimate the mean behind some values."""
        count = len(values)
        if count == 0:
            return cls(math.nan, math.nan, 0)
        mean = sum(values) / count
        if count == 1:
            return cls(mean, math.nan, 1)
        variance = sum((value - mean) ** 2 for value in values) / (count - 1)
        freedom = count - 1
        quantile = T_QUANTILES[freedom - 1] if freedom <= len(T_QUANTILES) else NORMAL_QUANTILE
        return cls(mean, quantile * math.sqrt(variance / count), count)

    def __str__(self) -> str:
        if math.isnan(self.half_width):
            return f"{self.mean:.3f}"
        return f"{self.mean:.3f} +- {self.half_width:.3f}"


@dataclass(frozen=True, slots=True)
class Row:
    """One arm, over its seeds."""

    arm: str
    pass_rate: Estimate
    """Held out, at temperature 1, after the run."""
    difference: Estimate
    """Of the pass rate to the first arm, over the seeds both have; nothing for the first."""
    pass_at_k: Estimate
    greedy: Estimate
    length: Estimate
    """Mean length of held-out responses, tokens."""
    steps: Estimate
    generated_tokens: Estimate
    selectable_tokens: Estimate
    trained_tokens: Estimate
    seconds: Estimate
    """Of generating, learning and publishing, without evaluations and starts."""


def rows(results: Mapping[str, Mapping[int, Mapping[str, Any]]], k: int) -> list[Row]:
    """Summarise finished runs.

    Args:
        results: By arm and seed the content of `summary.json`; the first arm is the baseline.
        k: Of pass@k.
    """
    baseline = next(iter(results.values()))

    def over_seeds(runs: Mapping[int, Mapping[str, Any]], key: str) -> Estimate:
        values = [run[key] for run in runs.values() if run.get(key) is not None]
        return Estimate.of([float(value) for value in values])

    found = []
    for arm, runs in results.items():
        paired = [
            float(run[PASS_RATE]) - float(baseline[seed][PASS_RATE])
            for seed, run in runs.items()
            if seed in baseline and runs is not baseline
        ]
        found.append(
            Row(
                arm=arm,
                pass_rate=over_seeds(runs, PASS_RATE),
                difference=Estimate.of(paired),
                pass_at_k=over_seeds(runs, f"pass_at_{k}_after"),
                greedy=over_seeds(runs, "greedy_after"),
                length=over_seeds(runs, "length_mean_after"),
                steps=over_seeds(runs, "num_steps"),
                generated_tokens=over_seeds(runs, "generated_tokens"),
                selectable_tokens=over_seeds(runs, "selectable_tokens"),
                trained_tokens=over_seeds(runs, "trained_tokens"),
                seconds=Estimate.of([run["seconds"]["loop"] for run in runs.values()]),
            )
        )
    return found


def verdict(row: Row) -> str:
    """Say in words what the paired difference shows."""
    interval = row.difference
    if interval.count == 0:
        return "baseline"
    if interval.count < 2 or math.isnan(interval.half_width):
        return "one seed: nothing shown"
    if abs(interval.mean) <= interval.half_width:
        return "no difference shown"
    return "better" if interval.mean > 0 else "worse"


def table(found: Sequence[Row], start: Mapping[str, Any] | None, k: int) -> Table:
    """Lay the rows out for the console.

    Args:
        found: One row an arm.
        start: Held-out results before any training, of `summary.json`; None if not measured.
        k: Of pass@k.
    """
    view = Table(title=None)
    view.add_column("arm")
    heads = ("pass@1", "to baseline", f"pass@{k}", "greedy", "steps", "generated", "selectable")
    for head in (*heads, "trained", "seconds", "verdict"):
        view.add_column(head, justify="right")
    if start is not None:
        view.add_row(
            "start",
            f"{start['pass_rate_before']:.3f}",
            "",
            f"{start[f'pass_at_{k}_before']:.3f}",
            f"{start['greedy_before']:.3f}",
        )
    for row in found:
        view.add_row(
            row.arm,
            str(row.pass_rate),
            f"{row.difference.mean:+.3f} +- {row.difference.half_width:.3f}"
            if row.difference.count
            else "",
            f"{row.pass_at_k.mean:.3f}",
            f"{row.greedy.mean:.3f}",
            f"{row.steps.mean:.0f}",
            *(
                f"{tokens.mean / 1000:.0f}k"
                for tokens in (row.generated_tokens, row.selectable_tokens, row.trained_tokens)
            ),
            f"{row.seconds.mean:.0f}",
            verdict(row),
        )
    return view


def comparison_json(found: Sequence[Row], start: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the content of `comparison.json`."""
    return {
        "start": dict(start) if start is not None else None,
        "arms": [asdict(row) | {"verdict": verdict(row)} for row in found],
    }
