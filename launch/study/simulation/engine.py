"""An engine that only keeps time.

    slot -> prefill -> decode -> group ends

It decodes continuously: all its running sequences gain a token in each step, a finished one makes
room for the next that waits. While the same number is running every step takes equally long, so the
engine jumps from one finished sequence to the next: the effort is in proportion to the sequences,
not to their tokens.

Time is that of the running event loop: simulated where `launch.study.simulation.clock` runs it.
"""

import asyncio
import heapq
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count

from launch.study.simulation.speeds import EngineSpeed

ROUNDING_STEPS = 1e-6
"""Sequences whose ends are this close, in decode steps, end together."""
CLOCK_ROUNDING = 1e-12
"""Relative; seconds below it are none."""


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
    finished_tokens: int = 0
    """Of those of its sequences that ended."""


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
        """Return how many prompt tokens are computed for a group."""
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
        self.lost_tokens += sum(group.finished_tokens for group in groups.values())
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
            _, _, length, group = heapq.heappop(self._running)
            group.num_left -= 1
            group.finished_tokens += length
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
        """Return the full-speed seconds to the next end that anyone has to hear of.

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
