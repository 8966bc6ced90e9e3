"""Reward processes: responses scored per second, by what a reward does and how many wait at once.

    waits, one at a time:  asynchronous, one response after the other in each process
    waits, together:       the same, rollout.reward_concurrency in each process
    answers at once:       a plain reward, which shows what a request to a process takes

The reward waits as for a server, so no core is busy meanwhile. What waiting allows at best is the
responses under way over the seconds of one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from conf.studies import BenchConfig
from launch.study.bench.timing import Timed, ratio_of_medians, time_in_turns
from rollout.rewards.pool import RewardPool

WAIT_SECONDS = 0.1
"""For which a reward waits."""
ROUNDS = 4
"""Times that every place for a response is used in one turn."""


@dataclass(frozen=True)
class Waits:
    """A reward that waits, and then finds every response right."""

    seconds: float

    async def score(self, prompt_text: str, response_text: str, answer: str) -> float:
        """Wait, and return 1."""
        await asyncio.sleep(self.seconds)
        return 1.0


@dataclass(frozen=True)
class Answers:
    """A reward that finds every response right at once."""

    def score(self, prompt_text: str, response_text: str, answer: str) -> float:
        """Return 1."""
        return 1.0


@dataclass(frozen=True)
class Contestant:
    """A reward, how many responses a process scores at a time, and how many a turn has."""

    reward: Any
    concurrency: int
    number: int


def bench_rewards(config: BenchConfig, *, repetitions: int, warm_ups: int) -> dict[str, Any]:
    """Score responses in reward processes as rollout actors do.

    Returns:
        Responses per second by contestant, that of waiting together over one at a time, and over
        what waiting allows at best.
    """
    processes, concurrency = config.rollout.reward_processes, config.rollout.reward_concurrency
    at_once = processes * concurrency
    contestants = {
        "waits_one_at_a_time": Contestant(Waits(WAIT_SECONDS), 1, ROUNDS * processes),
        "waits_together": Contestant(Waits(WAIT_SECONDS), concurrency, ROUNDS * at_once),
        "answers_at_once": Contestant(Answers(), concurrency, ROUNDS * at_once),
    }
    timed = _timed(contestants, processes, repetitions=repetitions, warm_ups=warm_ups)
    rates = {
        name: [contestants[name].number / seconds for seconds in taken]
        for name, taken in timed.seconds.items()
    }
    together = rates["waits_together"]
    best = [at_once / WAIT_SECONDS] * len(together)
    return {
        "wait_seconds": WAIT_SECONDS,
        "reward_processes": processes,
        "reward_concurrency": concurrency,
        "responses_per_second": {
            name: contestants[name].number / seconds for name, seconds in timed.medians().items()
        },
        "together_over_one_at_a_time": ratio_of_medians(together, rates["waits_one_at_a_time"]),
        "together_over_the_best": ratio_of_medians(together, best),
    }


def _timed(
    contestants: Mapping[str, Contestant], processes: int, *, repetitions: int, warm_ups: int
) -> Timed[None]:
    with asyncio.Runner() as runner, ExitStack() as opened:

        async def start(each: Contestant) -> RewardPool:
            pool = RewardPool(each.reward, processes, concurrency=each.concurrency)
            opened.callback(pool.close)
            await pool.start()
            return pool

        def score(pool: RewardPool, number: int) -> None:
            scored = runner.run(pool.score([("question", "response", "answer")] * number))
            assert all(one.score is not None for one in scored), scored[0].error

        return time_in_turns(
            {
                name: partial(score, runner.run(start(each)), each.number)
                for name, each in contestants.items()
            },
            repetitions=repetitions,
            warm_ups=warm_ups,
        )
