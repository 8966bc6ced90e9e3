"""Engines that only keep time, and a pool of them: for studies at scale.

    ticket -> least loaded engine: slot -> prefill -> decode -> group ends -> report -> scheduler

An engine decodes continuously: all its running sequences gain a token in each step, a finished one
makes room for the next that waits. While the same number is running every step takes equally long,
so the engine jumps from one finished sequence to the next: the effort is in proportion to the
sequences, not to their tokens.

Time is that of the running event loop: simulated where `launch.study.simulation.clock` runs it.
Temperatures are nothing to it: an exploring ticket is a ticket like others.
"""

import asyncio
import heapq
import math
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Protocol

import numpy as np

from cost.draws.streams import generator_for
from cost.types import BoolArray, FloatArray, IntArray, LengthReport, RewardStatus, Ticket
from rollout.actor import empty_report
from rollout.types import GroupRef, Prompt

UPDATE_MODES = ("recompute", "keep_kv")
ROUNDING_STEPS = 1e-6
"""Sequences whose ends are this close, in decode steps, end together."""
CLOCK_ROUNDING = 1e-12
"""Relative; seconds below it are none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpeed:
    """How fast one engine is, and how often it fails.

    A decode step with n running sequences takes `step_seconds + n * sequence_seconds`; a prefilled
    token takes `prefill_token_seconds`, during which the engine decodes nothing.
    """

    max_num_seqs: int
    """Sequences that run at the same time, at least 1."""
    step_seconds: float
    """Of a decode step, whatever runs in it: reading the weights, launching, scheduling."""
    sequence_seconds: float
    """Of a decode step, for each running sequence: its keys and values, its arithmetic."""
    prefill_token_seconds: float
    """Of one prompt token."""
    ticket_seconds: float = 0.0
    """From the last token of a group to its report: rewards and transport."""
    accelerators: int = 1
    """Accelerators of one engine (tensor parallel), at least 1."""
    failures_per_hour: float = 0.0
    """Deaths of one accelerator in an hour of running; each takes its engine along."""
    restart_seconds: float = 0.0
    """From an engine's death until its replacement takes tickets."""

    def __post_init__(self) -> None:
        """Check ranges."""
        for key in ("max_num_seqs", "accelerators"):
            value = getattr(self, key)
            if not value >= 1:
                raise ValueError(f"profile.engine.{key} must be at least 1, got {value!r}")
        for key in (
            "step_seconds", "sequence_seconds", "prefill_token_seconds", "ticket_seconds",
            "failures_per_hour", "restart_seconds",
        ):  # fmt: skip
            value = getattr(self, key)
            if not 0 <= value < math.inf:
                raise ValueError(
                    f"profile.engine.{key} must be finite and not negative, got {value!r}"
                )


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


class EngineDiedError(Exception):
    """The engine died while it worked on a ticket."""


@dataclass(slots=True)
class _Group:
    """The sequences of one ticket on an engine."""

    prompt_tokens: int
    done: "asyncio.Future[int]"
    num_left: int
    version: int | None = None
    """The one in force when its first sequence began."""


class SimulatedEngine:
    """One engine.

    Args:
        speed: Its speed.
        prefix_caching: Whether a group's prompt is prefilled once instead of with each response.
        on_busy: Called when the engine begins (True) and stops (False) to compute.
    """

    def __init__(
        self,
        speed: EngineSpeed,
        *,
        prefix_caching: bool = True,
        on_busy: Callable[[bool], None] = lambda busy: None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._speed = speed
        self._prefix_caching = prefix_caching
        self._on_busy = on_busy
        # By the decode step of its end: end, order of arrival, length, group.
        self._running: list[tuple[float, int, int, _Group]] = []
        self._waiting: deque[tuple[int, _Group]] = deque()
        self._arrivals = count()
        self._debt = 0.0
        self._rate = 1.0
        self._since = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._paused = False
        self._busy = False
        self.alive = True
        self.version = 0
        self.steps = 0.0
        """Decode steps so far."""
        self.busy_seconds = 0.0
        """Seconds in which something ran."""
        self.sequence_seconds = 0.0
        """Seconds that sequences ran, added up."""
        self.response_tokens = 0
        """Of finished sequences."""
        self.prefill_tokens = 0
        """Of finished groups."""
        self.lost_tokens = 0.0
        """Response tokens of sequences that were running when the engine died, and of finished ones
        whose groups were not."""

    async def generate(self, prompt_tokens: int, lengths: Sequence[int]) -> int:
        """Run one sequence of each length to its end.

        Returns:
            The oldest version that produced a token.

        Raises:
            EngineDiedError: If the engine dies first.
        """
        if not self.alive:
            raise EngineDiedError
        self._settle()
        done: asyncio.Future[int] = self._loop.create_future()
        group = _Group(prompt_tokens, done, len(lengths))
        self._waiting.extend((int(length), group) for length in lengths)
        self._go_on()
        version = await done
        self.response_tokens += int(sum(lengths))
        self.prefill_tokens += self.prefilled(prompt_tokens, len(lengths))
        return version

    def prefilled(self, prompt_tokens: int, num_responses: int) -> int:
        """Prompt tokens that are computed for a group."""
        return prompt_tokens * (1 if self._prefix_caching else num_responses)

    def set_rate(self, rate: float) -> None:
        """Go on at a share of full speed, in (0, 1]."""
        self._settle()
        self._rate = rate
        self._go_on()

    def pause(self) -> None:
        """Stop computing; nothing is lost."""
        self._settle()
        self._paused = True
        self._go_on()

    def resume(self, version: int, *, recompute: bool) -> None:
        """Go on with other weights.

        Args:
            version: Of the weights.
            recompute: Whether keys and values of the running sequences are computed anew.
        """
        self._settle()
        self.version = version
        self._paused = False
        if recompute:
            tokens = sum(
                group.prompt_tokens + length - (end - self.steps)
                for end, _, length, group in self._running
            )
            self._debt += tokens * self._speed.prefill_token_seconds
        self._go_on()

    def fail(self) -> None:
        """Die, and lose everything that was not finished."""
        self._settle()
        self.lost_tokens += sum(
            length - max(end - self.steps, 0.0) for end, _, length, _ in self._running
        )
        groups = {id(group): group for *_, group in self._running}
        groups |= {id(group): group for _, group in self._waiting}
        self._running.clear()
        self._waiting.clear()
        self._debt = 0.0
        self.alive = False
        self._go_on()
        for group in groups.values():
            if not group.done.done():
                group.done.set_exception(EngineDiedError())

    def restart(self, version: int) -> None:
        """Take tickets again, with the weights in force."""
        self.alive = True
        self.version = version

    def count_up(self) -> None:
        """Bring all counters up to now."""
        self._settle()

    def _settle(self) -> None:
        """Bring everything up to now, ends of sequences and what fills their slots included."""
        now = self._loop.time()
        elapsed, self._since = now - self._since, now
        if not self._busy or elapsed <= 0:
            return
        work = elapsed * self._rate
        while work > 0 and self._running:
            num_running = len(self._running)
            paid = min(self._debt, work)
            step = self._speed.step_seconds + num_running * self._speed.sequence_seconds
            to_end = max(self._running[0][0] - self.steps, 0.0) * step
            used = min(paid + to_end, work) if paid == self._debt else paid
            self._debt -= paid
            self.busy_seconds += used / self._rate
            self.sequence_seconds += num_running * used / self._rate
            if paid + to_end <= work:
                self._end_next()
                self._admit()
            else:
                self.steps += (work - paid) / step if step > 0 else 0.0
            work -= used

    def _end_next(self) -> None:
        """End the sequences whose turn it is."""
        # Exactly there: rounding must leave no sliver of a step.
        self.steps = max(self.steps, self._running[0][0])
        while self._running and self._running[0][0] <= self.steps + ROUNDING_STEPS:
            group = heapq.heappop(self._running)[-1]
            group.num_left -= 1
            if group.num_left == 0 and not group.done.done():
                assert group.version is not None
                group.done.set_result(group.version)

    def _admit(self) -> None:
        while self._waiting and len(self._running) < self._speed.max_num_seqs:
            length, group = self._waiting.popleft()
            if group.version is None or not self._prefix_caching:
                self._debt += group.prompt_tokens * self._speed.prefill_token_seconds
            if group.version is None:
                group.version = self.version
            heapq.heappush(
                self._running, (self.steps + length, next(self._arrivals), length, group)
            )

    def _go_on(self) -> None:
        """Fill the free slots and set the alarm."""
        if not self._paused:
            self._admit()
        busy = bool(self._running) and not self._paused
        if busy != self._busy:
            # Whoever listens may set the rate, which comes back here.
            self._busy = busy
            self._on_busy(busy)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if busy:
            seconds = self._seconds_to_alarm() / self._rate
            self._timer = self._loop.call_at(self._since + seconds, self._ring)

    def _seconds_to_alarm(self) -> float:
        """Full-speed seconds to the next end that anyone has to hear of.

        That is the end of a group; where sequences wait, the next end of any, since what comes then
        is not known yet.
        """
        seconds, steps = self._debt, self.steps
        num_running = len(self._running)
        left: Counter[int] = Counter()
        # A heap's first is its smallest.
        for end, _, _, group in self._running[:1] if self._waiting else sorted(self._running):
            step = self._speed.step_seconds + num_running * self._speed.sequence_seconds
            seconds += max(end - steps, 0.0) * step
            steps = max(end, steps)
            num_running -= 1
            left[id(group)] += 1
            if left[id(group)] == group.num_left:
                break
        return seconds

    def _ring(self) -> None:
        self._timer = None
        self._settle()
        # What the clock cannot tell from now is over.
        instant = max(self._since, 1.0) * CLOCK_ROUNDING
        while self._running and self._seconds_to_alarm() <= instant:
            self._debt = 0.0
            self._end_next()
            self._admit()
        self._go_on()


class SimulatedPool:
    """Engines behind the `run` of `rollout.pool.RolloutPool`, with its rules for retries.

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
    ) -> None:
        if update_mode not in UPDATE_MODES:
            raise ValueError(
                f"update_mode must be one of {', '.join(UPDATE_MODES)}, got {update_mode!r}"
            )
        self._speed = speed
        self._policy = policy
        self._observe = observe
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
        for index in range(num_engines):
            self._await_failure(index)

    async def run(self, ticket: Ticket, prompt: Prompt) -> GroupRef:
        """Turn one ticket into a group; an empty one after the last failed retry."""
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
            prefilled = self.engines[index].prefilled(prompt_tokens, len(lengths))
            report = LengthReport(
                ticket_id=ticket.ticket_id,
                prompt_index=ticket.prompt_index,
                prompt_tokens=prompt_tokens,
                prefill_tokens=prefilled,
                lengths=lengths,
                truncated=truncated,
                rewards=scores.rewards,
                status=np.full(len(lengths), int(RewardStatus.OK), dtype=np.int64),
                surprise=scores.surprise,
                answer_codes=scores.answer_codes,
                engine_seconds=seconds,
                version=version,
            )
            await self._observe(report)
            tokens = prompt_tokens * len(lengths) + int(lengths.sum())
            return GroupRef(report=report, num_tokens=tokens, data=ticket.ticket_id)
        report = empty_report(ticket, prompt)
        await self._observe(report)
        return GroupRef(report=report, num_tokens=0, data=None)

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
