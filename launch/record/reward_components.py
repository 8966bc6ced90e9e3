"""What the named parts of rewards came to in a step.

A reward that returns {"reward": 0.5, "correct": 0.0, "format": 1.0} has two:

    rollout/reward_components/correct, rollout/reward_components/format
"""

from collections.abc import Sequence

from cost.types import LengthReport

PREFIX = "rollout/reward_components"
MOST = 64
"""Names that a step's metrics have at most, the first ones: trackers keep a column for each."""


def component_metrics(reports: Sequence[LengthReport]) -> dict[str, float]:
    """Return the mean of each part over the responses that have it; nothing without any.

    Args:
        reports: Of a step's groups.
    """
    sums: dict[str, tuple[float, int]] = {}
    for report in reports:
        for name, (total, count) in report.reward_components.items():
            before = sums.get(name, (0.0, 0))
            sums[name] = (before[0] + total, before[1] + count)
    means = {name: total / count for name, (total, count) in sums.items() if count}
    return {f"{PREFIX}/{name}": means[name] for name in sorted(means)[:MOST]}
