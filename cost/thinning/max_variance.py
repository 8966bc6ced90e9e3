"""Subsets of largest variance, found without trying them all.

Of all subsets of m numbers, one of largest variance consists of the m - k lowest and the k highest
for some k (PODS, Xu et al. 2025, 2504.13818): moving a member of the subset away from the subset's
mean never lowers the variance. Sorting and prefix sums give all k at once, O(n log n).
"""

import numpy as np

from cost.types import BoolArray, FloatArray, IntArray


def max_variance_subsets(values: FloatArray, groups: IntArray, size: int) -> BoolArray:
    """Choose in every group the `size` values of largest variance.

    Among equal values those that come first count as lower, so whoever wants ties broken at random
    shuffles beforehand.

    Args:
        values: [M] float64 numbers to choose from, finite.
        groups: [M] int64, which group a value belongs to; any integers.
        size: Values to choose in each group, at least 1; a smaller group is chosen whole.

    Returns:
        [M] bool, min(size, values of the group) True in each group.

    Raises:
        ValueError: If the size is below 1.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size!r}")
    if len(values) == 0:
        return np.zeros(0, dtype=bool)
    order = np.lexsort((values, groups))
    _, starts, counts = np.unique(groups[order], return_index=True, return_counts=True)
    ends, chosen_counts = starts + counts, np.minimum(size, counts)
    means = np.add.reduceat(values[order], starts) / counts
    # Variance ignores a shift; centred values keep the difference of the two sums below exact.
    centred = values[order] - np.repeat(means, counts)
    sums = np.concatenate([[0.0], np.cumsum(centred)])
    squares = np.concatenate([[0.0], np.cumsum(centred**2)])

    num_highest = np.arange(chosen_counts.max() + 1)[None, :]
    within = num_highest <= chosen_counts[:, None]
    lowest_end = np.maximum((starts + chosen_counts)[:, None] - num_highest, starts[:, None])
    highest_start = np.maximum(ends[:, None] - num_highest, starts[:, None])

    def total(prefix: FloatArray) -> FloatArray:
        lowest = prefix[lowest_end] - prefix[starts][:, None]
        result: FloatArray = lowest + prefix[ends][:, None] - prefix[highest_start]
        return result

    size_of = chosen_counts[:, None]
    variance = total(squares) / size_of - (total(sums) / size_of) ** 2
    best = np.where(within, variance, -np.inf).argmax(axis=1)

    rank = np.arange(len(values)) - np.repeat(starts, counts)
    chosen = np.empty(len(values), dtype=bool)
    chosen[order] = (rank < np.repeat(chosen_counts - best, counts)) | (
        rank >= np.repeat(counts - best, counts)
    )
    return chosen
