"""What learned batches took, and whether that uses up what the run may take."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from cost.types import LengthReport
from launch.run.compute import Flops
from launch.run.parts import Plan


@dataclass(frozen=True, slots=True)
class Spent:
    """What some learned batches took."""

    generated_tokens: int = 0
    """By the engines."""
    pilot_tokens: int = 0
    """Of these, for pilots."""
    trained_tokens: int = 0
    """Of kept responses with their prompts, every pass counted."""
    flops: Flops = field(default_factory=Flops)
    """Of all that was computed."""
    seconds: float = 0.0
    """Of waiting, learning and publishing."""

    @classmethod
    def on(
        cls,
        reports: Sequence[LengthReport],
        pilots: frozenset[int],
        *,
        trained_tokens: int,
        flops: Flops,
        seconds: float,
    ) -> "Spent":
        """Return what one batch took.

        Args:
            reports: Of all tickets drawn for it.
            pilots: Ids of those that were pilots.
            trained_tokens: Of kept responses with their prompts, every pass counted.
            flops: Of all that was computed for it.
            seconds: Of waiting for it, learning and publishing.
        """
        tokens = {report.ticket_id: report.generated_tokens for report in reports}
        of_pilots = sum(count for ticket_id, count in tokens.items() if ticket_id in pilots)
        return cls(sum(tokens.values()), of_pilots, trained_tokens, flops, seconds)

    def __add__(self, other: "Spent") -> "Spent":
        """Add part by part."""
        return Spent(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


class Budget:
    """Counts what each learned batch took, against the plan's bounds.

    Args:
        plan: The loop's numbers.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.reached = -math.inf
        """The pass rate that reached the target; below any without one."""
        # By number of batches learned; those that nobody will look up again are dropped.
        self._spent = {0: Spent()}

    def state_dict(self) -> dict[str, dict[str, float]]:
        """Return what was spent, by number of batches learned."""
        return {str(batch): asdict(spent) for batch, spent in self._spent.items()}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Continue from `state_dict`."""
        self._spent = {
            int(batch): Spent(**{**spent, "flops": Flops(**spent.get("flops", {}))})
            for batch, spent in state.items()
        }

    def spend(self, batch: int, spent: Spent) -> dict[str, float]:
        """Count a learned batch, the one after the last.

        Args:
            batch: Its number.
            spent: What it took.

        Returns:
            Metrics of the FLOPs so far; none where nobody counts them.
        """
        self._spent[batch + 1] = self._spent[batch] + spent
        self._spent.pop(batch - self._plan.max_staleness - 1, None)
        return {} if self._plan.compute is None else self._spent[batch + 1].flops.metrics()

    def evaluated(self, metrics: Mapping[str, float]) -> None:
        """Let no further batch be drawn, whatever is left, if an evaluation reaches the target.

        Args:
            metrics: Of the evaluation, or of a step without one.
        """
        pass_rate = metrics.get("evaluation/pass_rate", -math.inf)
        if self._plan.target is not None and pass_rate >= self._plan.target:
            self.reached = max(self.reached, pass_rate)

    def used_up(self, batch: int) -> bool:
        """Whether the batches before one that is to be drawn use up what there is.

        Batches in flight are taken to cost what those learned by now did on average, pilots left
        out: a profile comes once. What was learned is looked up as of `max_staleness` batches ago,
        so that the answer does not depend on timing, unless it is seconds that are bounded.
        """
        plan = self._plan
        # A run that goes on with a higher target, or without one, has not ended.
        if plan.target is not None and self.reached >= plan.target:
            return True
        num_learned = batch - plan.max_staleness
        if num_learned < 1:
            return False
        learned = self._spent[num_learned]
        generated = learned.generated_tokens
        # Bound, spent so far, and the part of it that further batches spend again.
        bounds: list[tuple[float | None, float, float]] = [
            (plan.max_generated_tokens, generated, generated - learned.pilot_tokens),
            (plan.max_trained_tokens, learned.trained_tokens, learned.trained_tokens),
            (plan.max_compute_flops, learned.flops.total, learned.flops.again),
            (plan.max_seconds, learned.seconds, learned.seconds),
        ]
        in_flight = plan.max_staleness / num_learned
        return any(
            most is not None and total + in_flight * again >= most for most, total, again in bounds
        )

    def progress(self, batch: int) -> float:
        """Share of the run that is over before a batch, by whichever bound ends it first."""
        plan, spent = self._plan, self._spent[batch]
        bounds = (
            (plan.max_generated_tokens, spent.generated_tokens),
            (plan.max_trained_tokens, spent.trained_tokens),
            (plan.max_compute_flops, spent.flops.total),
            (plan.max_seconds, spent.seconds),
        )
        shares = [amount / most for most, amount in bounds if most is not None]
        return min(max([batch / plan.num_steps, *shares]), 1.0)
