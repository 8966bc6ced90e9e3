"""What plugs answer, held against their contracts before anything is made of it.

A number that is missing, not finite or negative would otherwise change draws and gradients without
a word, or fail far from the plug that gave it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cost.draws.allocators.types import Allocation
from cost.thinning.thinning import Thinning
from cost.types import FloatArray

LARGEST_ERROR = 1e-6
"""By which probabilities may miss a sum of 1, as those computed in float32 do."""


def numbers(what: str, answer: Any, count: int, *, signed: bool = True) -> FloatArray:
    """Return [count] float64 numbers that a plug gave, in an array of any type.

    Args:
        what: What they are, beginning with the plug's key.
        answer: What the plug returned.
        count: How many there must be.
        signed: Whether they may be negative.

    Raises:
        ValueError: If they are none, too few or too many, not finite, or negative.
    """
    try:
        found = np.asarray(answer, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{what} must be {count} numbers in an array, got {type(answer).__name__} ({error})"
        ) from error
    if found.shape != (count,):
        raise ValueError(
            f"{what} must be {count} numbers in an array of shape ({count},), got shape "
            f"{found.shape}"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        # Millions of prompts are looked at in every step; only a sum that is finite is in order.
        if np.isfinite(found.sum()) and (signed or found.min(initial=0.0) >= 0):
            return found
    wrong = ~np.isfinite(found) if signed else ~(np.isfinite(found) & (found >= 0))
    if wrong.any():
        allowed = "finite" if signed else "finite and not negative"
        place = int(wrong.argmax())
        raise ValueError(f"{what} must be {allowed}, got {float(found[place])!r} at place {place}")
    return found


def checked_allocation(answer: Any, num_prompts: int) -> Allocation:
    """Return an allocation with probabilities that sum to 1, and weights, of all N prompts.

    Raises:
        ValueError: If it is none, or its numbers are not those of N prompts.
    """
    if not isinstance(answer, Allocation):
        raise ValueError(
            "scheduler.allocator: allocate must return a cost.draws.allocators.types.Allocation, "
            f"got {type(answer).__name__}"
        )
    given = "scheduler.allocator: probabilities", "scheduler.allocator: weights"
    p = numbers(given[0], answer.probabilities, num_prompts, signed=False)
    weights = numbers(given[1], answer.weights, num_prompts, signed=False)
    total = float(p.sum())
    if abs(total - 1) > LARGEST_ERROR:
        raise ValueError(f"{given[0]} must sum to 1: divide them by their sum, got {total!r}")
    return Allocation(probabilities=p, weights=weights)


def checked_factors(answer: Any, sizes: Sequence[int]) -> list[FloatArray]:
    """Return one array of factors a group.

    Args:
        answer: What the aggregation returned.
        sizes: Responses of each group.

    Raises:
        ValueError: If there is not an array for each group, or one is not of its size.
    """
    if not isinstance(answer, Sequence) or len(answer) != len(sizes):
        raise ValueError(
            f"scheduler.aggregation: factors must be a list of {len(sizes)} arrays, one a group, "
            f"got {type(answer).__name__}"
        )
    what = "scheduler.aggregation: factors of a group"
    return [
        numbers(what, each, size, signed=False) for each, size in zip(answer, sizes, strict=True)
    ]


def checked_thinning(answer: Any, count: int) -> Thinning:
    """Return a thinning that keeps responses with a probability in (0, 1].

    Args:
        answer: What the rule returned.
        count: How many responses it chose from.

    Raises:
        ValueError: If it is none, of another number of responses, or keeps one without a chance.
    """
    if not isinstance(answer, Thinning):
        raise ValueError(
            "scheduler.thinning: thin must return a cost.thinning.thinning.Thinning, got "
            f"{type(answer).__name__}"
        )
    q = numbers("scheduler.thinning: probabilities", answer.probabilities, count, signed=False)
    keep = np.asarray(answer.keep)
    if keep.shape != (count,) or keep.dtype != bool:
        raise ValueError(
            f"scheduler.thinning: keep must be {count} truth values in an array, got "
            f"{keep.dtype} of shape {keep.shape}"
        )
    wrong = keep & ~((q > 0) & (q <= 1))
    if wrong.any():
        raise ValueError(
            "scheduler.thinning: probabilities must lie in (0, 1] where a response is kept, got "
            f"{float(q[wrong][0])!r}"
        )
    return answer
