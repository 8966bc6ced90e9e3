"""What learned batches took, and whether that uses up what the run may take."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from cost.types import LengthReport
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
    seconds: float = 0.0
    """Of waiting, learning and publishing."""


class Budget:
    """Counts what each learned batch took, against the plan's bounds.

    Args:
        plan: The loop's numbers.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        # By number of batches learned; those that nobody will look up again are dropped.
        self._spent = {0: Spent()}

    def state_dict(self) -> dict[str, dict[str, float]]:
        """Return what was spent, by number of batches learned."""
        return {str(batch): asdict(spent) for batch, spent in self._spent.items()}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Continue from `state_dict`."""
        self._spent = {int(batch): Spent(**spent) for batch, spent in state.items()}

    def spend(
        self,
        batch: int,
        reports: Sequence[LengthReport],
        pilots: frozenset[int],
        trained_tokens: int,
        seconds: float,
    ) -> None:
        """Count a learned batch, the one after the last.

        Args:
            batch: Its number.
            reports: Of all tickets drawn for it.
            pilots: Ids of those that were pilots.
            trained_tokens: Of kept responses with their prompts, every pass counted.
            seconds: Of waiting for it, learning and publishing.
        """
        before = self._spent[batch]
        tokens = {report.ticket_id: report.generated_tokens for report in reports}
        pilot_tokens = sum(count for ticket_id, count in tokens.items() if ticket_id in pilots)
        self._spent[batch + 1] = replace(
            before,
            generated_tokens=before.generated_tokens + sum(tokens.values()),
            pilot_tokens=before.pilot_tokens + pilot_tokens,
            trained_tokens=before.trained_tokens + trained_tokens,
            seconds=before.seconds + seconds,
        )
        self._spent.pop(batch - self._plan.max_staleness - 1, None)

    def used_up(self, batch: int) -> bool:
        """Whether the batches before one that is to be drawn use up what there is.

        Batches in flight are taken to cost what those learned by now did on average, pilots left
        out: a profile comes once. What was learned is looked up as of `max_staleness` batches ago,
        so that the answer does not depend on timing, unless it is seconds that are bounded.
        """
        plan = self._plan
        num_learned = batch - plan.max_staleness
        if num_learned < 1:
            return False
        learned = self._spent[num_learned]
        generated = learned.generated_tokens
        # Bound, spent so far, and the part of it that further batches spend again.
        bounds: list[tuple[float | None, float, float]] = [
            (plan.max_generated_tokens, generated, generated - learned.pilot_tokens),
            (plan.max_trained_tokens, learned.trained_tokens, learned.trained_tokens),
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
            (plan.max_seconds, spent.seconds),
        )
        shares = [amount / most for most, amount in bounds if most is not None]
        return min(max([batch / plan.num_steps, *shares]), 1.0)
