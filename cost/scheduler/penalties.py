"""What is taken off rewards before advantages are made of them, as a divergence from a reference.

The reports themselves stay as they are: what the scheduler learns of a prompt, its ledger and its
metrics are about the reward that the task gave.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cost.types import FloatArray, LengthReport


def lowered(
    reports: Sequence[LengthReport], penalties: Sequence[FloatArray] | None
) -> list[LengthReport]:
    """Return reports whose rewards are lower by the penalties.

    Args:
        reports: Of one batch.
        penalties: One [n] array a report, in units of reward, negative to raise it; None for no
            change.

    Raises:
        ValueError: If the penalties do not fit the reports, or one is not finite.
    """
    if penalties is None:
        return list(reports)
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
    return [
        replace(report, rewards=report.rewards - penalty)
        for report, penalty in zip(reports, penalties, strict=True)
    ]
