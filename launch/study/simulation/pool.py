"""A pool of engines that only keep time, for studies at scale.

    ticket -> least loaded engine -> group -> report -> scheduler

Temperatures are nothing to it: an exploring ticket is a ticket like others.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from cost.draws.streams import generator_for
from cost.types import BoolArray, FloatArray, IntArray, LengthReport, RewardStatus, Ticket
from launch.study.simulation.engine import EngineDiedError, SimulatedEngine
from launch.study.simulation.speeds import EngineSpeed
from rollout.reporting import empty_report
from rollout.types import GroupRef, Prompt

UPDATE_MODES = ("recompute", "keep_kv")


@dataclass(frozen=True, slots=True)
class Scores:
    """Of one ticket's responses; see `LengthReport` for the fields."""

    rewards: FloatArray
    """[n]"""
    surprise: FloatArray
    """[n]"""
    answer_codes: IntArray
    """[n]"""


class Policy(Protocol):
    """What stands in for the model: how long its responses are and what they earn."""

    def lengths(self, ticket: Ticket) -> tuple[IntArray, BoolArray]:
        """Draw [n] lengths in [1, ticket.max_tokens], and [n] whether the limit cut them.

        The same ticket gets the same, so that a retry repeats what was lost.
        """

    def score(self, ticket: Ticket, lengths: IntArray, version: int) -> Scores:
        """Say what a ticket's responses [n] by a version are worth."""


class SimulatedPool:
    """Engines behind the methods of `rollout.pool.RolloutPool`, with its rules for retries.

    Args:
        speed: Of every engine.
        num_engines: R.
        policy: What is generated.
        observe: Takes in the report of each finished ticket, before the group is handed over.
        max_retries: Retries of one ticket, with the same ticket.
        seed: Of the failures.
        prefix_caching: Whether a group's prompt is prefilled once.
        update_mode: What new weights do to running sequences: "recompute" or "keep_kv".
        on_busy: Called when an engine begins (True) and stops (False) to compute.
        hold: Returns what stands for the reference of a group, from its ticket, prompt and report.
    """

    def __init__(
        self,
        speed: EngineSpeed,
        num_engines: int,
        policy: Policy,
        observe: Callable[[LengthReport], Awaitable[None]],
        *,
        max_retries: int = 2,
        seed: int = 0,
        prefix_caching: bool = True,
        update_mode: str = "recompute",
        on_busy: Callable[[bool], None] = lambda busy: None,
        hold: Callable[[Ticket, Prompt, LengthReport], Any] = lambda ticket, *_: ticket.ticket_id,
    ) -> None:
        if update_mode not in UPDATE_MODES:
            raise ValueError(
                f"update_mode must be one of {', '.join(UPDATE_MODES)}, got {update_mode!r}"
            )
        self._speed = speed
        self._policy = policy
        self._observe = observe
        self._hold = hold
        self._max_retries = max_retries
        self._recompute = update_mode == "recompute"
        self.engines = [
            SimulatedEngine(speed, prefix_caching=prefix_caching, on_busy=on_busy)
            for _ in range(num_engines)
        ]
        self._load = np.zeros(num_engines)
        # Infinite for the dead.
        self._out = np.zeros(num_engines)
        self._usable = asyncio.Event()
        self._version = 0
        self._alarms: list[asyncio.TimerHandle | None] = [None] * num_engines
        self._streams = [generator_for(seed, "failures", i) for i in range(num_engines)]
        self.num_failures = 0
        self.num_retries = 0
        self.num_in_flight = 0
        for index in range(num_engines):
            self._await_failure(index)

    def signs(self) -> int:
        """Nothing is ever heard of tickets but that they are done."""
        return 0

    async def run(self, ticket: Ticket, prompt: Prompt) -> GroupRef:
        """Turn one ticket into a group; an empty one after the last failed retry."""
        self.num_in_flight += 1
        try:
            report = await self._report(ticket, prompt)
        finally:
            self.num_in_flight -= 1
        await self._observe(report)
        if not report.num_responses:
            return GroupRef(report=report, data=None)
        return GroupRef(report=report, data=self._hold(ticket, prompt, report))

    async def evaluate(self, ticket: Ticket, prompt: Prompt, temperature: float) -> LengthReport:
        """Score one prompt's responses without anyone learning from them."""
        return await self._report(ticket, prompt)

    async def _report(self, ticket: Ticket, prompt: Prompt) -> LengthReport:
        loop = asyncio.get_running_loop()
        prompt_tokens = len(prompt.token_ids)
        lengths, truncated = self._policy.lengths(ticket)
        began = loop.time()
        for _ in range(self._max_retries + 1):
            index = await self._least_loaded()
            self._load[index] += ticket.num_samples
            try:
                version = await self.engines[index].generate(prompt_tokens, lengths.tolist())
            except EngineDiedError:
                self.num_retries += 1
                continue
            finally:
                self._load[index] -= ticket.num_samples
            seconds = loop.time() - began
            if self._speed.ticket_seconds:
                await asyncio.sleep(self._speed.ticket_seconds)
            scores = self._policy.score(ticket, lengths, version)
            return LengthReport(
                ticket_id=ticket.ticket_id,
                prompt_index=ticket.prompt_index,
                prompt_tokens=prompt_tokens,
                prefill_tokens=self.engines[index].prefilled(prompt_tokens, len(lengths)),
                lengths=lengths,
                truncated=truncated,
                rewards=scores.rewards,
                status=np.full(len(lengths), int(RewardStatus.OK), dtype=np.int64),
                surprise=scores.surprise,
                answer_codes=scores.answer_codes,
                engine_seconds=seconds,
                version=version,
                attempt=ticket.attempt,
            )
        return empty_report(ticket, prompt)

    def set_rate(self, rate: float) -> None:
        """Let all engines go on at a share of full speed."""
        for engine in self.engines:
            engine.set_rate(rate)

    def pause(self) -> None:
        """Stop all engines for new weights."""
        for engine in self.engines:
            engine.pause()

    def resume(self, version: int) -> None:
        """Go on with new weights."""
        self._version = version
        for engine in self.engines:
            engine.resume(version, recompute=self._recompute)

    def count_up(self) -> None:
        """Bring all engines' counters up to now."""
        for engine in self.engines:
            engine.count_up()

    def close(self) -> None:
        """Let nothing fail any more."""
        for alarm in self._alarms:
            if alarm is not None:
                alarm.cancel()

    @property
    def num_in_use(self) -> int:
        """Engines that are not being replaced."""
        return int(np.isfinite(self._out).sum())

    @property
    def num_replaced(self) -> int:
        """Engines that died, each of which is replaced."""
        return self.num_failures

    async def _least_loaded(self) -> int:
        while np.isinf(self._out).all():
            self._usable.clear()
            await self._usable.wait()
        return int(np.argmin(self._load + self._out))

    def _await_failure(self, index: int) -> None:
        per_second = self._speed.failures_per_hour * self._speed.accelerators / 3600
        if per_second > 0:
            seconds = self._streams[index].exponential(1 / per_second)
            loop = asyncio.get_running_loop()
            self._alarms[index] = loop.call_later(seconds, self._fail, index)

    def _fail(self, index: int) -> None:
        self.num_failures += 1
        self._out[index] = np.inf
        self.engines[index].fail()
        loop = asyncio.get_running_loop()
        self._alarms[index] = loop.call_later(self._speed.restart_seconds, self._restart, index)

    def _restart(self, index: int) -> None:
        self.engines[index].restart(self._version)
        self._out[index] = 0.0
        self._usable.set()
        self._await_failure(index)
