"""One learned batch, as the loop hands it to whoever records it."""

from dataclasses import dataclass

from cost.types import LengthReport, Selection
from rollout.types import GroupRef


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one learned batch looked like."""

    step: int
    """Batches learned so far, from 1; equals the published version."""
    groups: list[GroupRef]
    """The members of the batch, in draw order, exploring ones last."""
    selections: list[Selection]
    """What the last pass trained on, in the same order."""
    metrics: dict[str, float]
    """Metrics of the learners and of the publish, with `loop/..._seconds`."""

    @property
    def reports(self) -> list[LengthReport]:
        """The groups' reports, in draw order."""
        return [group.report for group in self.groups]
