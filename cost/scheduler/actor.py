"""The scheduler as a Ray actor: one place that all rollout actors and the driver talk to.

    rollout actors -> observe        driver -> draw, select, learned, snapshot, resume, ...

`ray.remote(SchedulerActor)` is the caller's business, with a name that can be read in Ray's tools.
Methods are coroutines, so a draw or a selection can wait for a report that is still on its way
while `observe` goes on. Nobody waits for the answer of an `observe`; its error is kept and ends the
next draw or selection.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cost.draws.distribution import DrawCells, DrawDistribution
from cost.prompts import Features
from cost.scheduler.config import SchedulerConfig
from cost.scheduler.scheduler import Scheduler
from cost.state_file import load_state, save_state
from cost.types import Draw, Feedback, FloatArray, IntArray, LengthReport, Selection, Undone


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
        features: Features | None = None,
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
            features: [N, F] or None.
            report_timeout_seconds: How long a draw waits for reports that it needs, positive.
        """
        self._scheduler = Scheduler(
            config,
            prompt_tokens,
            sources,
            max_tokens,
            seed,
            max_staleness=max_staleness,
            features=features,
        )
        self._report_timeout_seconds = report_timeout_seconds
        self._arrived = asyncio.Condition()
        self._observe_error: Exception | None = None
        self._kept: dict[str, Any] | None = None

    async def draw(
        self,
        batch: int,
        folded: int,
        gradient_norms: Mapping[int, FloatArray] | None = None,
    ) -> Draw:
        """Draw the next round of a batch, once every ticket it builds on has been observed.

        Raises:
            TimeoutError: If a report does not arrive in time.
            ValueError: As in `Scheduler.draw`, or a rollout actor sent a report that cannot be
                true.
        """
        async with self._arrived:
            await self._reported(lambda: self._scheduler.drawing.awaited(batch, folded))
            return self._scheduler.draw(batch, folded, gradient_norms)

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

    async def select(
        self,
        batch: int,
        attempts: Sequence[int],
        epoch: int = 0,
        progress: float = 0.0,
        penalties: Sequence[FloatArray] | None = None,
    ) -> list[Selection]:
        """Choose what to train on from one batch, once the attempts named have been observed.

        Raises:
            TimeoutError: If a report does not arrive in time.
            ValueError: As in `Scheduler.select`, or a rollout actor sent a report that cannot be
                true.
        """
        async with self._arrived:
            await self._reported(lambda: self._scheduler.selecting.awaited(batch, attempts))
            return self._scheduler.select(batch, attempts, epoch, progress, penalties)

    async def reuse(self, batch: int) -> list[list[Selection]]:
        """Choose what to train on once more beside a batch."""
        return self._scheduler.reuse(batch)

    async def learned(self, batch: int, feedback: Feedback) -> None:
        """Take in what learning from a batch took and showed."""
        self._scheduler.learned(batch, feedback)

    async def distribution(self) -> DrawDistribution:
        """Return the draw distribution of the next draw."""
        return self._scheduler.distribution()

    async def draw_cells(self) -> DrawCells:
        """Return the same summed up over lengths and pass rates: small, whatever the task."""
        return self._scheduler.distribution().cells()

    async def metrics(self) -> dict[str, float]:
        """Return the metrics of `cost.ledger.METRICS`."""
        return self._scheduler.metrics()

    async def snapshot(self) -> None:
        """Keep everything learned so far, as it is now, to be written."""
        # States are never changed in place: nothing in it moves while it is written.
        self._kept = self._scheduler.state_dict()

    async def write(self, path: str) -> None:
        """Write the last snapshot into a file, and let go of it.

        Raises:
            OSError: If it cannot be written.
        """
        kept, self._kept = self._kept, None
        assert kept is not None, "snapshot() comes first"
        await asyncio.to_thread(save_state, path, kept)

    async def resume(self, path: str, batch: int, held: Sequence[LengthReport]) -> list[Undone]:
        """Continue from a file of `write`; see `Scheduler.resume`.

        Raises:
            ValueError: If the file is not one, or of another seed, task or set of plugs.
        """
        self._scheduler.load_state_dict(await asyncio.to_thread(load_state, path))
        return self._scheduler.resume(batch, held)

    async def _reported(self, awaited: Callable[[], list[int]]) -> None:
        """Wait until no ticket's report is awaited; `self._arrived` must be held."""

        def complete() -> bool:
            # What is impossible is left to the scheduler to refuse.
            try:
                return self._observe_error is not None or not awaited()
            except ValueError:
                return True

        try:
            # Not `asyncio.wait_for`, which loses a cancellation that comes with the answer.
            async with asyncio.timeout(self._report_timeout_seconds):
                await self._arrived.wait_for(complete)
        except TimeoutError:
            raise TimeoutError(
                f"no report for tickets {awaited()[:10]!r} within "
                f"{self._report_timeout_seconds} seconds"
            ) from None
        if self._observe_error is not None:
            raise self._observe_error
