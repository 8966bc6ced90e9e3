"""Plug `sizing`: how many tickets a batch has and how many responses a ticket.

    learned batches -> updated(state, overhead) -> sizes(state) -> the next batch that is opened

Sizes come from batches that were folded, never from the batch that they are of, so that given the
past each batch is drawn as with fixed sizes: its expected gradient is the objective's.

`Priced` makes cost times variance least, as `thinning=priced` does. With v the variance of a
prompt's rewards, S the expected square of psi, the gradient of a response's log-probability, h the
gradient of the prompt's expected reward, and leave-one-out advantages, whose expectation is h for
every n, the gradient g of a group of n has

    E |g|^2 - |h|^2 = v S / (n - 1) - (n - 2) / (n (n - 1)) |h|^2

It is the variance of a U-statistic (Hoeffding 1948) with the kernel (R1 - R2)(psi1 - psi2) / 2, for
rewards of two values and |psi| alike for both. The second part is left out, being small. With
|h|^2 = alignment v S, which stands for the variance between prompts, whose gradients are taken to
be about orthogonal, a batch of P groups has

    variance = V(n) / P,    V(n) ~ alignment + 1 / (n - 1)
    cost = P c(n),          c(n) ~ overhead + n

    least c V:  n = 1 + sqrt((overhead + 1) / alignment)

with the overhead of a group, what it costs beside its responses (the prompt, computed once), in
responses. So does Neyman's two-stage sampling (Cochran 1977, section 10.6), one response of each
group being what its baseline costs.

Tickets follow from how many steps lead to an end: by the noise scale B = V / |mean gradient|^2, as
1 + B / P (McCandlish et al. 2018, 1812.06162). If a step costs F beside its tickets,

    cost = (1 + B / P) (F + P c),    least at  P = sqrt(B F / c)

B F is what whoever configured P for the first n takes it for, so that P ~ sqrt(V(n) / c(n)). To
measure B while a run goes on would take directions of gradients: norms of batches this small are
nearly all noise, and how they go with surprise tells nothing. `launch.variance` measures it, and
the alignment.
"""

import math
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from cost.ranges import Range, positive, require_ranges


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large a batch is.

    Example: Sizes(tickets=16, group_size=8)
    """

    tickets: int
    """P, at least 1."""
    group_size: int
    """n, at least 2."""


@runtime_checkable
class Sizing(Protocol):
    """Decides how large batches are; learns once a folded batch."""

    def bounds(self, configured: Sizes) -> tuple[Sizes, Sizes]:
        """Return the smallest and the largest sizes there may be, each by itself."""

    def initial_state(self, configured: Sizes) -> Any:
        """Return the state before the first batch."""

    def updated(self, state: Any, overhead: float) -> Any:
        """Return the state after one more batch, given its groups' overhead, not negative."""

    def sizes(self, state: Any) -> Sizes:
        """Return the sizes of the next batch."""

    def metrics(self, state: Any) -> dict[str, float]:
        """Return metrics, by keys of `cost.ledger.METRICS`."""


@dataclass(frozen=True, slots=True)
class SizingState:
    """A group size on its way, and what learned batches showed.

    Example: SizingState(first=Sizes(16, 8), group_size=8.4, batches=1.0, overhead=0.13)
    """

    first: Sizes
    """As configured."""
    group_size: float
    batches: float = 0.0
    """Discounted number of batches."""
    overhead: float = 0.0
    """Discounted mean."""


@dataclass(frozen=True, slots=True)
class Priced:
    """Sizes of the least cost times variance; the group size moves slowly, tickets with it."""

    least_group_size: int = 2
    """At least 2."""
    most_group_size: int = 16
    """Of the sizes it may choose, the largest."""
    most_change: float = 1.05
    """Largest factor by which the group size changes from batch to batch, above 1 and at most 2."""
    decay: float = 0.95
    """What a batch counts after one more batch, in (0, 1)."""
    alignment: float = 0.05
    """|h|^2 over v S, in (0, 1]: how far responses to one prompt pull the same way. At the start of
    the chain task .057 +- .011, with two ends .050 +- .037 (`launch.variance num_batches=6`)."""

    def __post_init__(self) -> None:
        """Refuse settings that are out of range."""
        ranges = {
            "least_group_size": Range(2, 2**14),
            "most_group_size": Range(2, 2**14),
            "alignment": positive(1),
        }
        require_ranges("sizing.", self, ranges)
        if self.least_group_size > self.most_group_size:
            raise ValueError(
                "sizing.least_group_size must be at most sizing.most_group_size = "
                f"{self.most_group_size}, got {self.least_group_size!r}"
            )
        if not 1 < self.most_change <= 2:
            raise ValueError(f"sizing.most_change must lie in (1, 2], got {self.most_change!r}")
        if not 0 < self.decay < 1:
            raise ValueError(f"sizing.decay must lie in (0, 1), got {self.decay!r}")

    def bounds(self, configured: Sizes) -> tuple[Sizes, Sizes]:
        """Return the smallest and the largest sizes there may be, each by itself."""
        # Tickets differ most where a group costs nothing but its responses.
        ends = (self.least_group_size, self.most_group_size)
        small, large = (self.sizes(SizingState(configured, float(n))) for n in ends)
        return Sizes(large.tickets, small.group_size), Sizes(small.tickets, large.group_size)

    def initial_state(self, configured: Sizes) -> SizingState:
        """Begin with the configured sizes."""
        return SizingState(configured, float(configured.group_size))

    def updated(self, state: SizingState, overhead: float) -> SizingState:
        """Move towards the best group size by the overhead with this batch's."""
        weight = self.decay * state.batches
        overhead = (weight * state.overhead + overhead) / (weight + 1)
        wanted, now = self.best_group_size(overhead), state.group_size
        moved = min(max(wanted, now / self.most_change), now * self.most_change)
        size = min(max(moved, self.least_group_size), self.most_group_size)
        return SizingState(state.first, size, weight + 1, overhead)

    def sizes(self, state: SizingState) -> Sizes:
        """Return the sizes of the next batch."""
        variance, cost = self._ratios(state)
        tickets = round(state.first.tickets * math.sqrt(variance / cost))
        return Sizes(max(tickets, 1), round(state.group_size))

    def best_group_size(self, overhead: float) -> float:
        """Return the n of least cost times variance, of all numbers above 1."""
        return 1 + math.sqrt((overhead + 1) / self.alignment)

    def variance(self, group_size: float) -> float:
        """Return that of a group's gradient, over v S."""
        return self.alignment + 1 / (group_size - 1)

    def metrics(self, state: SizingState) -> dict[str, float]:
        """Return what was chosen and what it is expected to save."""
        sizes, (variance, cost) = self.sizes(state), self._ratios(state)
        return {
            "cost/sizing_group_size": float(sizes.group_size),
            "cost/sizing_tickets": float(sizes.tickets),
            "cost/sizing_saving_estimated": 1 - variance * cost,
        }

    def _ratios(self, state: SizingState) -> tuple[float, float]:
        """Return variance and cost of a group over those of one of the first size."""
        size, first = round(state.group_size), state.first.group_size
        return (
            self.variance(size) / self.variance(first),
            (state.overhead + size) / (state.overhead + first),
        )
