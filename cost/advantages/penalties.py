"""What penalties, as a divergence from a reference, add to advantages.

    A = A(rewards) - k (c - mean of c over the usable responses of the group)

with c a response's penalty and A(rewards) what the plug makes of the rewards alone: means,
deviations, thresholds and histories are of rewards. The penalty has no deviation of its own and is
not divided by that of the rewards, so that a nat costs the same in every group: one reward's unit
where the plug leaves rewards as they are, one deviation of the rewards where it divides by it. A
divergence in the loss counts the same way beside standardised rewards. Dividing a sum of both by
its deviation would make advantages of size 1 out of any penalty, however small, wherever rewards
are equal.

k = 1 gives the penalty the factor (n - 1) / n that the group's mean gives the rewards. Plugs whose
gradient does not depend on the group's size (`size_free`) get k = n / (n - 1), the mean of the
others for baseline. Either way the expected gradient is k (n - 1) / n times that of
A(rewards) - c: the mean of the group moves no expectation but for that factor.

Penalties come from the learners. Reports stay as they are: what the scheduler learns of a prompt,
its ledger and its metrics are about the reward that the task gave.
"""

from collections.abc import Sequence

import numpy as np

from cost.advantages.types import GroupBatch, moments
from cost.types import BoolArray, FloatArray, IntArray, LengthReport


def laid_out(
    reports: Sequence[LengthReport], penalties: Sequence[FloatArray] | None
) -> FloatArray | None:
    """Lay the penalties of a batch end to end, as its responses.

    Args:
        reports: Of one batch.
        penalties: One [n] array a report, in units of advantage, negative to favour a response;
            None for none.

    Returns:
        [R] float64; None for none.

    Raises:
        ValueError: If the penalties do not fit the reports, or one is not finite.
    """
    if penalties is None:
        return None
    sizes = [report.num_responses for report in reports]
    if [len(penalty) for penalty in penalties] != sizes:
        raise ValueError(
            f"penalties must have one number a response, {sizes!r}, "
            f"got {[len(penalty) for penalty in penalties]!r}"
        )
    for report, penalty in zip(reports, penalties, strict=True):
        if not np.isfinite(penalty).all():
            raise ValueError(
                f"penalties must be finite, got {penalty!r} for ticket {report.ticket_id}"
            )
    flat: FloatArray = np.concatenate([np.zeros(0), *penalties])
    return flat


def penalised(
    of_rewards: FloatArray, groups: GroupBatch, penalties: FloatArray, size_free: bool
) -> FloatArray:
    """Return [R] float64 advantages of rewards less penalties; 0 where not usable.

    Args:
        of_rewards: [R] advantages of the rewards alone.
        groups: The groups that they are of.
        penalties: [R] in units of advantage, finite; negative to favour a response.
        size_free: Of the plug that made them; see `Advantage`.
    """
    excess = excess_penalties(penalties, groups.usable, groups.sizes)
    if size_free:
        num_usable = groups.num_usable
        excess *= np.repeat(num_usable / np.maximum(num_usable - 1, 1), groups.sizes)
    return of_rewards - excess


def excess_penalties(penalties: FloatArray, usable: BoolArray, sizes: IntArray) -> FloatArray:
    """Return [R] penalties less the mean of their group's usable; exactly 0 where not usable.

    Args:
        penalties: [R] of all groups end to end.
        usable: [R] True for responses that count.
        sizes: [G] responses of each group; they add up to R.
    """
    means = np.repeat(moments(penalties, usable, sizes).means, sizes)
    return np.where(usable, penalties - means, 0.0)
