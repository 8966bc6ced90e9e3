"""Whole numbers of responses for the m drawn prompts of a batch, within a budget.

All functions spend `budget` in the unit of `costs`; with costs of 1 it is a number of responses and
is spent to the last one. Otherwise what is left is less than the largest cost.
"""

from collections.abc import Callable
from heapq import heapify, heappop, heapreplace

import numpy as np

from cost.types import FloatArray, IntArray

_SLACK = 1e-9
"""Share of the budget that forgives rounding and never pays for a response."""


def filled(
    counts: IntArray,
    priority: Callable[[int, int], float],
    upper: IntArray,
    costs: FloatArray,
    budget: float,
) -> IntArray:
    """Add responses one by one, the highest priority first, while the budget pays for them.

    Of equal priorities the smaller group goes first, then the one drawn first. Where the priority
    is the gain of a concave value over its cost, and costs are equal, the result has the most value
    of all within the budget: the best responses of each prompt come first.

    Args:
        counts: [m] int64 to start from.
        priority: Called with i and n, the priority of raising prompt i from n to n + 1 responses,
            which does not increase in n.
        upper: [m] int64 most responses of each.
        costs: [m] float64 cost of a response, positive.
        budget: What may be spent, in the unit of `costs`, on `counts` and all that is added.

    Returns:
        [m] int64, not less than `counts`.
    """
    result: list[int] = counts.tolist()
    limits, prices = upper.tolist(), costs.tolist()
    left = budget * (1 + _SLACK) - float(counts @ costs)
    heap = [(-priority(i, n), n, i) for i, n in enumerate(result) if n < limits[i]]
    heapify(heap)
    while heap:
        _, n, i = heap[0]
        if prices[i] > left:
            heappop(heap)
            continue
        left -= prices[i]
        n += 1
        result[i] = n
        if n < limits[i]:
            heapreplace(heap, (-priority(i, n), n, i))
        else:
            heappop(heap)
    return np.array(result, dtype=np.int64)


def evenly(index: int, count: int) -> float:
    """Return a priority for `filled` that raises the smallest group first."""
    return -float(count)


def proportional(
    shares: FloatArray, costs: FloatArray, budget: float, least: float = 0.0
) -> FloatArray:
    """Return n_i = max(least, s share_i) with s such that sum n_i c_i = budget.

    This minimises sum share_i^2 c_i / n_i, that is the variance sum u_i^2 / n_i for share_i =
    u_i / sqrt(c_i), under the budget and the lower bound (KKT conditions).

    Args:
        shares: [m] float64, not negative, one of them positive.
        costs: [m] float64, positive.
        budget: What to spend, at least the cost of `least` responses of every prompt.
        least: Lower bound of every n_i, not negative.

    Returns:
        [m] float64.
    """
    shares = shares / shares.max()
    free = np.ones(len(shares), dtype=np.bool_)
    while True:
        scale = (budget - least * costs[~free].sum()) / (shares * costs)[free].sum()
        below = free & (scale * shares < least)
        if not below.any():
            return np.where(free, scale * shares, least)
        # The scale only sinks as more prompts are held at the bound, so none returns.
        free &= ~below
        if not shares[free].any():
            return np.full(len(shares), least)


def rounded(amounts: FloatArray, costs: FloatArray, budget: float, order: IntArray) -> IntArray:
    """Round down, then give one more each to prompts in a given order, while the budget pays.

    Args:
        amounts: [m] float64, not negative, of cost `budget` in all.
        costs: [m] float64, positive.
        budget: What may be spent, in the unit of `costs`.
        order: Prompts that may get one more, the first to be served first.

    Returns:
        [m] int64, within 1 of `amounts`.
    """
    # An exact whole number must survive its own rounding error.
    counts = np.floor(amounts + _SLACK).astype(np.int64)
    left = budget * (1 + _SLACK) - float(counts @ costs)
    for index, cost in zip(order.tolist(), costs[order].tolist(), strict=True):
        if cost <= left:
            counts[index] += 1
            left -= cost
    return counts


def check_bounds(group_size: int, min_samples: int, max_samples: int | None = None) -> None:
    """Refuse bounds that groups of `group_size` on average cannot keep.

    Raises:
        ValueError: If they exclude that average; the message names the key to change.
    """
    if group_size < min_samples:
        raise ValueError(
            "allocator.min_samples must be at most scheduler.group_size, the mean of all groups "
            f"({group_size}), got {min_samples!r}"
        )
    if max_samples is not None and group_size > max_samples:
        raise ValueError(
            "allocator.max_samples must be at least scheduler.group_size, the mean of all groups "
            f"({group_size}), got {max_samples!r}"
        )
