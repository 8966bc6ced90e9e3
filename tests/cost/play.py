"""Short ways to the scheduler that several tests take."""

from collections.abc import Sequence
from typing import Any

from cost.scheduler.scheduler import Scheduler
from cost.types import LengthReport, Selection


def select(
    scheduler: Scheduler, batch: int, reports: Sequence[LengthReport], **rest: Any
) -> list[Selection]:
    """Observe the reports of a batch's members, and select from them."""
    for report in reports:
        scheduler.observe(report)
    return scheduler.select(batch, [report.attempt for report in reports], **rest)
