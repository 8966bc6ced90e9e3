"""What the learners compute of responses beside learning from them, and what it takes of them.

pilots, calibrations -> gradient norms --+
rewards              -> reference_kl ----+-> learners, and the batch's account: FLOPs, seconds
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cost.types import FloatArray
from launch.run.clocks import LearnerClock
from launch.run.parts import Learners, Plan
from rollout.types import GroupRef


@dataclass(frozen=True, slots=True)
class ScoringCost:
    """What scoring the responses of a batch took.

    Example: ScoringCost(flops=3e9, seconds=0.4)
    """

    flops: float = 0.0
    """Of all learners; 0 where nobody counts them."""
    seconds: float = 0.0
    """In which each learner was at work."""


class ScoredBatches:
    """What scoring took for batches that are not learned yet."""

    def __init__(self) -> None:
        self._batches: dict[int, ScoringCost] = {}

    def add(self, batch: int, flops: float, seconds: float) -> None:
        """Count something for a batch."""
        before = self._batches.get(batch, ScoringCost())
        self._batches[batch] = ScoringCost(before.flops + flops, before.seconds + seconds)

    def take(self, batch: int) -> ScoringCost:
        """Return what was counted for a batch since the last call for it."""
        return self._batches.pop(batch, ScoringCost())

    def state_dict(self) -> dict[str, Any]:
        """Return everything as dicts of numbers."""
        return {str(batch): asdict(scored) for batch, scored in self._batches.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`."""
        self._batches = {int(batch): ScoringCost(**scored) for batch, scored in state.items()}


class Scoring:
    """Has responses scored, and counts what it takes.

    Args:
        plan: The loop's numbers.
        learners: Who scores.
        batches: Where it is counted.
    """

    def __init__(self, plan: Plan, learners: Learners, batches: ScoredBatches) -> None:
        self._plan, self._learners = plan, learners
        self.batches = batches
        self.clock = LearnerClock()
        """Of all that the learners are asked for."""

    async def gradient_norms(self, batch: int, groups: Sequence[GroupRef]) -> list[FloatArray]:
        """Measure the norm of each response's summed score, for a batch; [n] per group."""
        layer, compute = self._plan.gradient_norm_layer, self._plan.compute
        asked = self._learners.gradient_norms(groups, layer=layer)
        norms, seconds = await self.clock.of(asked)
        reports = [group.report for group in groups]
        flops = 0.0 if compute is None else compute.gradient_norms(reports, layer)
        self.batches.add(batch, flops, seconds)
        return norms

    async def reference_kl(self, batch: int, groups: Sequence[GroupRef]) -> list[FloatArray]:
        """Estimate each response's divergence from the reference, for a batch; [n] per group."""
        compute = self._plan.compute
        found, seconds = await self.clock.of(self._learners.reference_kl(groups))
        reports = [group.report for group in groups]
        self.batches.add(batch, 0.0 if compute is None else compute.scores(reports), seconds)
        return found
