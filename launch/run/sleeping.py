"""Engines and learners that share GPUs: their memory belongs to one of the two at a time.

    groups are there -> engines sleep -> learners work, then release -> weights: engines wake

What an engine does when it is told stands in `rollout.engines.sleeping`; it wakes by itself when it
is sent weights. An actor that dies meanwhile is replaced when the learners have released: until
then its GPU has no room for it.
"""

from __future__ import annotations

import asyncio

from learner.team import LearnerTeam
from rollout.pool import RolloutPool


class GpuSharing:
    """Lets engines or learners have the memory of the GPUs that they share.

    Args:
        rollouts: The engines.
        deadline_seconds: Longest time for all engines to fall asleep.
    """

    def __init__(self, rollouts: RolloutPool, deadline_seconds: float) -> None:
        self._rollouts = rollouts
        self._deadline_seconds = deadline_seconds
        # Set while engines may have memory.
        self._engines = asyncio.Event()
        self._engines.set()
        rollouts.actors.places.before_start = self.until_engines

    async def until_engines(self) -> None:
        """Wait until engines may have memory."""
        await self._engines.wait()

    async def to_learners(self) -> None:
        """Let all engines sleep; what any is still asked waits.

        Raises:
            TimeoutError: If one does not fall asleep in time.
            ray.exceptions.RayError: If one died.
            LostMeanwhileError: If one is being replaced.
        """
        actors = self._rollouts.actors
        await actors.replacements()
        try:
            async with asyncio.timeout(self._deadline_seconds):
                for asleep in [handle.sleep.remote() for handle in actors.started()]:
                    await asleep
        except TimeoutError as error:
            raise TimeoutError(
                "an engine did not fall asleep within loop.publish_deadline_seconds = "
                f"{self._deadline_seconds:g} (resources.engines_sleep)"
            ) from error
        self._engines.clear()

    async def to_engines(self, learners: LearnerTeam) -> None:
        """Let learners give back the memory that is free, if they have it."""
        if not self._engines.is_set():
            await learners.release()
            self._engines.set()

    def begin_again(self) -> None:
        """Let engines have memory whatever learners hold: the learners are started anew."""
        self._engines.set()
