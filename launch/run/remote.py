"""Scheduler and learners as actors: how they are started, watched, and given time.

Watch: health of all parts, deadlines of all calls -> what hangs is written down and named
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from conf.schema import EvaluateConfig, RunConfig
from cost.scheduler.actor import SchedulerActor
from cost.types import Draw, Feedback, FloatArray, Selection
from launch.run.deadlines import Ceiling, Deadlines
from launch.run.deaths import PartDied
from launch.run.health import HealthChecks, Part
from launch.run.layout import learner_shares
from launch.run.placement import Placement
from learner.team import HEALTH, LearnerTeam
from rollout.places import ray_logs
from rollout.pool import RolloutPool
from rollout.tasks.features import feature_table
from rollout.types import Prompt

SCHEDULER_DEADLINE = Ceiling("its deadline", 120.0)


class Watch:
    """Watches over what a run starts.

    Args:
        config: The run.
    """

    def __init__(self, config: RunConfig | EvaluateConfig) -> None:
        self.health = HealthChecks(
            silence_seconds=config.resources.silence_seconds, run_dir=Path(config.run_dir)
        )
        floor = config.resources.least_deadline_seconds
        self.deadlines = Deadlines(floor, self._reached)

    def begin(self, config: RunConfig) -> None:
        """Watch over another run of the same actors, whose scheduler ends."""
        self.health.run_dir = Path(config.run_dir)
        self.health.watch("scheduler", list)

    def give_up(self, death: PartDied) -> bool:
        """Watch no longer what is started anew after a death, for it may die on.

        Returns:
            Whether learners are, beside the scheduler: one that dies takes the others with it.
        """
        self.health.watch("scheduler", list)
        if not (death.part.startswith("learner") or self.health.any_dead("learners")):
            return False
        self.health.watch("learners", list)
        return True

    def scheduler(self, handle: Any) -> None:
        """Watch a scheduler, in place of an earlier one."""
        self.health.watch("scheduler", lambda: [Part("scheduler", handle)])

    def learners(self, handles: Sequence[Any]) -> None:
        """Watch learners by rank, in place of earlier ones."""
        parts = [Part(f"learner {k}", handle, group=HEALTH) for k, handle in enumerate(handles)]
        self.health.watch("learners", lambda: parts)

    def rollouts(self, pool: RolloutPool) -> None:
        """Watch a pool's actors, whoever they are by then; they are replaced."""
        self.health.watch(
            "rollout actors",
            lambda: [
                Part(f"rollout actor {k}", handle, partial(pool.actors.lose, k, handle))
                for k, handle in pool.actors.places.present()
            ],
        )

    def give_time(self, team: LearnerTeam, config: RunConfig) -> None:
        """Set the limits of what learners are asked to do; publishing may wait for responses."""

        def limit(what: str) -> AbstractAsyncContextManager[None]:
            key, seconds = "learner.update_deadline_seconds", config.learner.update_deadline_seconds
            follows = True
            if what == "publish":
                key, seconds = "loop.publish_deadline_seconds", config.loop.publish_deadline_seconds
                follows = config.rollout.update_mode != "drain"
            return self.deadlines.limit("learners", what, Ceiling(key, seconds), follows=follows)

        team.limit = limit

    async def _reached(self, who: str, how: str) -> Exception:
        return PartDied(who, how, ray_logs(), await self.health.take_stacks(f"{who} {how}"))


class RemoteScheduler:
    """The SchedulerActor with awaitable methods and a deadline on each."""

    def __init__(self, handle: Any, deadlines: Deadlines) -> None:
        self.handle = handle
        self._deadlines = deadlines

    async def draw(
        self, batch: int, folded: int, gradient_norms: Mapping[int, FloatArray] | None = None
    ) -> Draw:
        """See `cost.scheduler.scheduler.Scheduler.draw`."""
        drawn: Draw = await self.call("draw", batch, folded, gradient_norms)
        return drawn

    async def select(
        self,
        batch: int,
        attempts: Sequence[int],
        epoch: int = 0,
        progress: float = 0.0,
        penalties: Sequence[FloatArray] | None = None,
    ) -> list[Selection]:
        """See `cost.scheduler.scheduler.Scheduler.select`."""
        selections: list[Selection] = await self.call(
            "select", batch, list(attempts), epoch, progress, penalties
        )
        return selections

    async def reuse(self, batch: int) -> list[list[Selection]]:
        """See `cost.scheduler.scheduler.Scheduler.reuse`."""
        selections: list[list[Selection]] = await self.call("reuse", batch)
        return selections

    async def learned(self, batch: int, feedback: Feedback) -> None:
        """See `cost.scheduler.scheduler.Scheduler.learned`."""
        await self.call("learned", batch, feedback)

    async def call(self, method: str, *arguments: Any) -> Any:
        """Call any method of the scheduler.

        Raises:
            PartDied: If it takes too long.
        """
        async with self._deadlines.limit("scheduler", method, SCHEDULER_DEADLINE):
            return await getattr(self.handle, method).remote(*arguments)


def start_scheduler(config: RunConfig, prompts: Sequence[Prompt], watch: Watch) -> RemoteScheduler:
    """Create the run's scheduler actor, beside the driver, with whose node the run ends anyway."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    actor = ray.remote(SchedulerActor).options(
        name=f"scheduler-{config.name}", num_cpus=0, scheduling_strategy=here
    )
    handle = actor.remote(
        config.scheduler,
        np.asarray([len(p.token_ids) for p in prompts], dtype=np.int64),
        [p.source for p in prompts],
        config.rollout.max_tokens,
        config.seed,
        max_staleness=config.loop.max_staleness,
        features=feature_table(prompts) if config.scheduler.prompt_features else None,
    )
    watch.scheduler(handle)
    return RemoteScheduler(handle, watch.deadlines)


def create_learners(config: RunConfig, placement: Placement, watch: Watch) -> LearnerTeam:
    """Create the run's learner workers; `LearnerTeam.start` lets them load the policy."""
    team = LearnerTeam.create(
        config.learner,
        config.model.path,
        config.objective,
        config.numerics,
        seed=config.seed,
        actor_options=[
            {"name": f"learner-{rank}-{config.name}"}
            | placement.learner_options(rank, config.resources.learner_cpus)
            for rank in range(config.resources.num_learners)
        ],
        memory_shares=learner_shares(placement.layout, config.resources),
    )
    watch.learners(team.workers)
    watch.give_time(team, config)
    return team
