"""Learners and publishing that only keep time, and the cores they may share with the engines."""

import asyncio
from collections.abc import Sequence

import numpy as np

from cost.types import FloatArray, IntArray, Selection
from launch.study.simulation.policy import SimulatedPolicy
from launch.study.simulation.pool import SimulatedPool
from launch.study.simulation.speeds import LearnerSpeed, PublishSpeed
from rollout.types import GroupRef

FORWARD_SHARE = 1 / 3
"""Part of an update's arithmetic that is its forward pass: backward takes two of three parts."""


class SharedCores:
    """Lets engines and learners slow each other down while both compute.

    Args:
        engine_slowdown: Factor on the engines' seconds meanwhile, at least 1; 1 leaves them alone.
        learner_slowdown: The same for the learners' seconds.
    """

    def __init__(self, engine_slowdown: float, learner_slowdown: float) -> None:
        self._engine_slowdown = engine_slowdown
        self._learner_slowdown = learner_slowdown
        self._pool: SimulatedPool | None = None
        self._busy_engines = 0
        self._learning = False
        self._changed = asyncio.Event()

    def attach(self, pool: SimulatedPool) -> None:
        """Slow these engines down."""
        self._pool = pool

    def on_busy(self, busy: bool) -> None:
        """Hear that an engine begins or stops to compute."""
        before = self._busy_engines
        self._busy_engines += 1 if busy else -1
        if (before == 0) != (self._busy_engines == 0):
            self._changed.set()

    async def learn(self, seconds: float) -> None:
        """Compute for so many seconds at full speed, in as many as it takes."""
        loop = asyncio.get_running_loop()
        self._set_learning(True)
        left = seconds
        while left > 0:
            rate = 1 / self._learner_slowdown if self._busy_engines else 1.0
            self._changed.clear()
            began = loop.time()
            try:
                async with asyncio.timeout(left / rate):
                    await self._changed.wait()
            except TimeoutError:
                break
            left -= (loop.time() - began) * rate
        self._set_learning(False)

    def _set_learning(self, learning: bool) -> None:
        self._learning = learning
        if self._pool is not None:
            self._pool.set_rate(1 / self._engine_slowdown if learning else 1.0)


class SimulatedLearners:
    """L learners behind the methods of `learner.team.LearnerTeam` that the loop calls.

    Args:
        speed: Of one.
        num_learners: L.
        num_minibatches: Optimiser steps in a pass.
        policy: What learns.
        cores: Where they compute.
    """

    def __init__(
        self,
        speed: LearnerSpeed,
        num_learners: int,
        num_minibatches: int,
        policy: SimulatedPolicy,
        cores: SharedCores,
    ) -> None:
        self._speed = speed
        self._num_learners = num_learners
        self._num_minibatches = num_minibatches
        self._policy = policy
        self._cores = cores
        self.busy_seconds = 0.0

    async def update(
        self,
        groups: Sequence[GroupRef],
        selections: Sequence[Selection],
        *,
        step: int,
        epoch: int,
        progress: float,
    ) -> dict[str, float]:
        """Take one pass over a batch, at no learning rate."""
        reports = [group.report for group in groups]
        kept = [
            report.lengths[selection.keep] + report.prompt_tokens
            for report, selection in zip(reports, selections, strict=True)
        ]
        # Groups come in the order of their draws, which is random as it is.
        cuts = np.array_split(np.arange(len(kept)), max(min(self._num_minibatches, len(kept)), 1))
        parts = [_join([kept[index] for index in cut]) for cut in cuts]
        taken = await self._compute(self._speed.seconds(parts, self._num_learners))
        self._policy.learn(reports, selections, step)
        tokens = sum(int(part.sum()) for part in parts)
        return {"learner/update_seconds": taken, "learner/row_tokens": float(tokens)}

    async def gradient_norms(self, groups: Sequence[GroupRef], *, layer: str) -> list[FloatArray]:
        """Take a forward pass; the norm of a response is the root of its surprise."""
        await self._forward(groups)
        return [np.sqrt(group.report.surprise) for group in groups]

    async def reference_kl(self, groups: Sequence[GroupRef]) -> list[FloatArray]:
        """Take a forward pass; the policy is taken to be where it began."""
        await self._forward(groups)
        return [np.zeros(group.report.num_responses) for group in groups]

    async def snapshot(self, folder: str) -> float:
        """Have nothing to save, and take no time for it."""
        return 0.0

    async def written(self) -> None:
        """Have written it."""

    async def _forward(self, groups: Sequence[GroupRef]) -> None:
        every = _join([group.report.lengths + group.report.prompt_tokens for group in groups])
        update = self._speed.seconds([every], self._num_learners, reduces=False)
        await self._compute(update * FORWARD_SHARE)

    async def _compute(self, seconds: float) -> float:
        loop = asyncio.get_running_loop()
        began = loop.time()
        await self._cores.learn(seconds)
        taken = loop.time() - began
        self.busy_seconds += taken
        return taken


def _join(parts: Sequence[IntArray]) -> IntArray:
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


class SimulatedPublisher:
    """Brings versions to the engines, which stand still meanwhile."""

    def __init__(self, speed: PublishSpeed, pool: SimulatedPool) -> None:
        self._speed = speed
        self._pool = pool

    async def publish(self, version: int) -> dict[str, float]:
        """Publish, and wait for the parity probe."""
        still = self._speed.still_seconds(len(self._pool.engines))
        self._pool.pause()
        await asyncio.sleep(still)
        self._pool.resume(version)
        await asyncio.sleep(self._speed.probe_seconds)
        return {"publish/seconds": still}
