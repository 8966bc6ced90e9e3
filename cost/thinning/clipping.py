"""Plug `clipping`: how large a part of a step a single response may be.

Contract: `scales(norms) -> [M]` in (0, 1], what each kept response's weight is multiplied by, and
`objective_preserving`. There is none by default.

The gradient of a step is a sum over the kept responses. The norm of each part is guessed as

    |advantage| sqrt(surprise) x aggregation factor x weight / n

with weight = ticket weight / keep probability, and n responses in the group: the surprise proxy at
its defaults, whichever proxy the thinning goes by. As parts of different responses are close to
orthogonal, their squares add up to the squared gradient. It is few responses, not large weights,
that make some steps many times as large as others: a lone slip on a short prompt has a large
advantage and a large factor at a weight of 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np

from cost.ranges import positive, require_ranges
from cost.thinning.proxies import SurpriseProxy
from cost.types import FloatArray, LengthReport, Selection


@runtime_checkable
class Clipping(Protocol):
    """Holds back responses that would make up too much of a step."""

    objective_preserving: ClassVar[bool]

    def scales(self, norms: FloatArray) -> FloatArray:
        """Return [M] what is left of each weight, in (0, 1]; `norms` [M] are not negative."""


@dataclass(frozen=True, slots=True)
class GradientShare:
    """No response makes up more than a share of the squared gradient; ours.

    The largest parts are scaled down to one norm t, with t^2 = max_share x (sum of the squares
    after that). Biased by design: what is held back is not made up for elsewhere, so that rare and
    strong lessons count less. Where m responses are kept the share is at least 2 / m, so that more
    than half of them stay as they are.
    """

    max_share: float = 0.1
    """Largest share of a pass's squared gradient that is one response's, in (0, 1]."""

    objective_preserving: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse settings that are out of range."""
        require_ranges("clipping.", self, {"max_share": positive(1)})

    def scales(self, norms: FloatArray) -> FloatArray:
        """Return [M] what is left of each weight, exactly 1 for those not above t."""
        scales = np.ones(len(norms))
        positive = np.flatnonzero(norms > 0)
        share = max(self.max_share, 2 / max(len(positive), 1))
        if share >= 1:
            return scales
        squares = (norms[positive] / norms[positive].max()) ** 2
        largest_first = np.sort(squares)[::-1]
        # With the k largest at t^2 and `rest` the others' sum: t^2 = share (k t^2 + rest). The
        # right k is the least for which no other is above t; there is one with share * k < 1.
        rest = np.cumsum(largest_first[::-1])[::-1]
        left = 1 - share * np.arange(len(rest))
        possible = left > 0
        caps = share * rest[possible] / left[possible]
        fits = caps >= largest_first[possible]
        # Rounding may spoil the last comparison alone.
        cap = caps[fits.argmax()] if fits.any() else caps[-1]
        above = squares > cap
        scales[positive[above]] = np.sqrt(cap / squares[above])
        return scales


def gradient_norms(reports: Sequence[LengthReport], selections: Sequence[Selection]) -> FloatArray:
    """Guess the norm of what each response of a batch adds to the step's gradient.

    Args:
        reports: Of G groups.
        selections: Of the same groups, in the same order.

    Returns:
        [R] float64 up to one common factor; 0 for responses that are not kept.
    """
    proxy, none = SurpriseProxy(), np.zeros(0)
    norms = [
        proxy.score(
            selection.advantages,
            report.own_lengths,
            report.surprise,
            selection.factors,
            selection.weight / max(report.num_responses, 1),
        )
        for report, selection in zip(reports, selections, strict=True)
    ]
    return np.concatenate([none, *norms])


def largest_share(norms: FloatArray) -> float:
    """Return the largest part's share of the sum of squares, in [0, 1]; 0 for no part."""
    largest = float(norms.max(initial=0.0))
    return 1 / float(((norms / largest) ** 2).sum()) if largest > 0 else 0.0


def clipped(
    clipping: Clipping | None, reports: Sequence[LengthReport], selections: list[Selection]
) -> tuple[list[Selection], dict[str, float]]:
    """Hold back what a clipping says, and describe the parts of the step.

    Args:
        clipping: None leaves the selections as they are.
        reports: Of G groups.
        selections: Of the same groups, in the same order.

    Returns:
        The selections with the weights to train with, and metrics by keys of `cost.ledger.METRICS`.
    """
    norms = gradient_norms(reports, selections)
    if clipping is None:
        return selections, {"cost/gradient_max_share": largest_share(norms)}
    scales = clipping.scales(norms)
    kept = np.concatenate([np.zeros(0, dtype=bool), *(each.keep for each in selections)])
    parts = np.split(scales, np.cumsum([report.num_responses for report in reports])[:-1])
    metrics = {
        "cost/gradient_max_share": largest_share(norms * scales),
        "cost/gradient_clipped_share": float((scales[kept] < 1).sum()) / max(int(kept.sum()), 1),
    }
    return [
        replace(each, weight=each.weight * part)
        for each, part in zip(selections, parts, strict=True)
    ], metrics
