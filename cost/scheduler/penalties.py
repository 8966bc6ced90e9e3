"""Penalties of responses, as a divergence from a reference, as they come from the learners.

The reports themselves stay as they are: what the scheduler learns of a prompt, its ledger and its
metrics are about the reward that the task gave. `cost.advantages.penalties` says what a penalty
does to advantages.
"""

from collections.abc import Sequence

import numpy as np

from cost.types import FloatArray, LengthReport


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
