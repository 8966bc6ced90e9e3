"""The scheduler as a Ray actor: one place that all rollout actors and the driver talk to.

    rollout actors -> observe        driver -> draw, select, metrics, state_dict

`ray.remote(SchedulerActor)` is the caller's business, with a name that can be read in Ray's tools.
Methods are coroutines, so a draw can wait for a report that is still on its way while `observe`
goes on. Nobody waits for the answer of an `observe`; its error is kept and ends the next draw or
selection.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from cost.draws.distribution import DrawCells, DrawDistribution
from cost.scheduler.config import SchedulerConfig
from cost.scheduler.scheduler import Scheduler
from cost.types import Draw, FloatArray, IntArray, LengthReport, Selection, Ticket


class SchedulerActor:
    """Shell around `cost.scheduler.scheduler.Scheduler`; see there for the methods."""

    def __init__(
        self,
        config: SchedulerConfig,
        prompt_tokens: IntArray,
        sources: Sequence[str],
        max_tokens: int,
        seed: int,
        *,
        max_staleness: int = 0,
        report_timeout_seconds: float = 60.0,
    ) -> None:
        """Build the scheduler.

        Args:
            config: As for `Scheduler`, like all but the last.
            prompt_tokens: [N] int.
            sources: N names.
            max_tokens: Response limit.
            seed: The run's seed.
            max_staleness: Versions a group may be behind.
            report_timeout_seconds: How long a draw waits for reports that it needs, positive.
        """
        self._scheduler = Scheduler(
            config,
            prompt_tokens,
            sources,
            max_tokens,
            seed,
            max_staleness=max_staleness,
        )
        self._report_timeout_seconds = report_timeout_seconds
        self._arrived = asyncio.Condition()
        self._observe_error: Exception | None = None

    async def draw(self, batch: int, folded_batches: int) -> Draw:
        """Draw the next round of a batch, once every ticket it builds on has been observed.

        Raises:
            TimeoutError: If a report does not arrive in time.
            ValueError: As in `Scheduler.draw`, or a rollout actor sent a report that cannot be
                true.
        """
        async with self._arrived:
            try:
                await asyncio.wait_for(
                    self._arrived.wait_for(lambda: self._complete(batch, folded_batches)),
                    self._report_timeout_seconds,
                )
            except TimeoutError:
                awaited = self._scheduler.awaited(batch, folded_batches)
                raise TimeoutError(
                    f"no report for tickets {awaited[:10]!r} within "
                    f"{self._report_timeout_seconds} seconds"
                ) from None
            self._raise_observe_error()
            return self._scheduler.draw(batch, folded_batches)

    async def observe(self, report: LengthReport) -> None:
        """Take in a report; an error is raised here and by the next draw or selection."""
        async with self._arrived:
            try:
                self._scheduler.observe(report)
            except ValueError as error:
                self._observe_error = self._observe_error or error
                raise
            finally:
                self._arrived.notify_all()

    async def observe_gradient_norms(self, norms: Mapping[int, FloatArray]) -> None:
        """Take in the gradient norms that a round asked for."""
        self._scheduler.observe_gradient_norms(norms)

    async def select(
        self,
        batch: int,
        reports: Sequence[LengthReport],
        epoch: int = 0,
        progress: float = 0.0,
        penalties: Sequence[FloatArray] | None = None,
    ) -> list[Selection]:
        """Choose what to train on from one batch, which counts as observed from then on."""
        async with self._arrived:
            self._raise_observe_error()
            selections = self._scheduler.select(batch, reports, epoch, progress, penalties)
            self._arrived.notify_all()
            return selections

    async def calibrate(
        self,
        reports: Sequence[LengthReport],
        selections: Sequence[Selection],
        norms: Sequence[FloatArray],
    ) -> None:
        """Fit the proxy's exponents to measured gradient norms."""
        self._scheduler.calibrate(reports, selections, norms)

    async def spend(self, batch: int, engine_seconds: float, learner_seconds: float) -> None:
        """Take in the seconds that a learned batch took."""
        self._scheduler.spend(batch, engine_seconds, learner_seconds)

    async def observe_entropy(self, batch: int, entropy: float) -> None:
        """Take in the policy's entropy at a learned batch."""
        self._scheduler.observe_entropy(batch, entropy)

    async def reissue(self, first_ticket_id: int) -> list[Ticket]:
        """Return the tickets from one on, to be run again."""
        return self._scheduler.reissue(first_ticket_id)

    async def add_prompts(self, prompt_tokens: IntArray, sources: Sequence[str]) -> None:
        """Append prompts to the task."""
        self._scheduler.add_prompts(prompt_tokens, sources)

    async def distribution(self) -> DrawDistribution:
        """Return the draw distribution of the next draw."""
        return self._scheduler.distribution()

    async def draw_cells(self) -> DrawCells:
        """Return the same summed up over lengths and pass rates: small, whatever the task."""
        return self._scheduler.distribution().cells()

    async def metrics(self) -> dict[str, float]:
        """Return the metrics of `cost.ledger.METRICS`."""
        return self._scheduler.metrics()

    async def state_dict(self) -> dict[str, Any]:
        """Return everything learned so far."""
        return self._scheduler.state_dict()

    async def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        self._scheduler.load_state_dict(state)

    def _complete(self, batch: int, folded_batches: int) -> bool:
        """Whether a draw need not wait; an impossible one is left to the scheduler to refuse."""
        if self._observe_error is not None:
            return True
        try:
            return not self._scheduler.awaited(batch, folded_batches)
        except ValueError:
            return True

    def _raise_observe_error(self) -> None:
        if self._observe_error is not None:
            raise self._observe_error
