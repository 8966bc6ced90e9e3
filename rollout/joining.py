"""Which actors may join a pool, and what becomes of one for which the cluster has no room.

added -> waits for as long as it takes
lost  -> waits until a deadline: left out; where actors may join it waits on; the last one ends
         the run
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass


class NoRoomError(RuntimeError):
    """A place finds no room, or none that is fit, and is waited for no longer."""


class UnfitError(RuntimeError):
    """The node that has room lacks what an actor needs."""


@dataclass(frozen=True, slots=True)
class Room:
    """What a cluster offers to the actors of a pool.

    Example:
        Room(most=4, deadline_seconds=120.0)  # of a pool that may begin with fewer
    """

    most: int = 0
    """Places there may be, those that wait included; the pool's own number where that is more."""
    deadline_seconds: float = 120.0
    """Longest wait for room of a place whose actor was lost."""
    look_at: Callable[[str], Awaitable[None]] | None = None
    """Called with the id of the node that an actor got; raises `UnfitError`."""
    give_back: Callable[[int], None] = lambda place: None
    """Called with a place that is left out for good."""

    def num_to_add(self, num_places: int) -> int:
        """Return how many places are added to those that there are."""
        return max(0, self.most - num_places)


def waits_on(*, joins: bool, num_others: int) -> bool:
    """Say whether a place waits for room when its deadline has passed; else it is left out.

    Args:
        joins: Whether actors may join.
        num_others: Places with an actor that has room: in use, or on its way to that.
    """
    return joins and num_others > 0
