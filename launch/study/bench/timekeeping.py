"""A real system whose engines and learners make everything up at once.

scheduler, pool, learner team, publish, trackers: the real ones, on a cluster
rollout actors: made-up groups, reported as real ones are     learners: fetch groups, learn nothing
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import ray

from conf.schema import RunConfig
from cost.types import LengthReport, RewardStatus, Selection, Ticket
from launch.run.layout import Layout
from launch.run.placement import Placement
from launch.run.remote import Watch, start_scheduler
from launch.run.system import System
from launch.study.simulation.policy import SimulatedPolicy
from launch.study.simulation.profile import Profile
from launch.study.simulation.system import made_up_group
from learner.batch_plan import MinibatchPlan
from learner.engine import StepOutcome
from learner.team import LearnerTeam
from learner.update import StepSums
from rollout.config import RolloutConfig
from rollout.pool import RolloutPool
from rollout.progress import Attempts, Key
from rollout.types import Group, Prompt


class TimekeepingRollouts:
    """The methods of `rollout.actor.RolloutActor` that a pool calls, without an engine.

    Args:
        profile: What responses look like.
        scheduler: Where reports go.
        seed: The run's seed.
    """

    def __init__(self, profile: Profile, scheduler: Any, seed: int) -> None:
        self._policy = SimulatedPolicy(profile, profile.prompts.table(seed), seed)
        self._scheduler = scheduler
        self._attempts = Attempts()
        self._version = 0

    async def start(self) -> dict[str, float]:
        """Be ready."""
        return {"total": 0.0}

    async def run(self, ticket: Ticket, prompt: Prompt) -> tuple[LengthReport, Group]:
        """Make a group up and report it to the scheduler."""
        with self._attempts.attempt((ticket.ticket_id, ticket.attempt)) as done:
            report = self._report(ticket, prompt)
            for _ in range(report.num_responses):
                done()
            await self._scheduler.observe.remote(report)
            return report, made_up_group(ticket, prompt, report)

    async def evaluate(self, ticket: Ticket, prompt: Prompt, temperature: float) -> LengthReport:
        """Make a group up that nobody learns from."""
        return self._report(ticket, prompt)

    async def progress(self, known: int, patience_seconds: float) -> tuple[int, dict[Key, int]]:
        """See `rollout.actor.RolloutActor.progress`."""
        return await self._attempts.changed(known, patience_seconds)

    async def finish_weight_update(self, version: int) -> None:
        """Label responses from now on with a version."""
        self._version = version

    async def close(self) -> None:
        """There is nothing to close."""

    def _report(self, ticket: Ticket, prompt: Prompt) -> LengthReport:
        lengths, truncated = self._policy.lengths(ticket)
        scores = self._policy.score(ticket, lengths, version=0)
        return LengthReport(
            ticket_id=ticket.ticket_id,
            prompt_index=ticket.prompt_index,
            prompt_tokens=len(prompt.token_ids),
            prefill_tokens=len(prompt.token_ids),
            lengths=lengths,
            truncated=truncated,
            rewards=scores.rewards,
            status=np.full(len(lengths), int(RewardStatus.OK), dtype=np.int64),
            surprise=scores.surprise,
            answer_codes=scores.answer_codes,
            engine_seconds=0.01,
            version=self._version,
            attempt=ticket.attempt,
        )


class TimekeepingLearner:
    """The methods of `learner.worker.LearnerWorker` that a run's loop calls, without a model.

    Args:
        engines: The rollout actors.
    """

    def __init__(self, engines: Sequence[Any]) -> None:
        self._engines = engines

    def update(
        self,
        groups: Sequence[Any],
        selections: Sequence[Selection],
        plans: Sequence[MinibatchPlan],
        version: int,
    ) -> list[StepSums]:
        """Fetch the groups of every plan and learn nothing from them."""
        ray.get([reference for reference in groups if reference is not None])
        return [
            StepSums(
                loss=0.0,
                num_tokens=1,
                num_row_tokens=1,
                num_rows=len(plan.rows),
                token_sums={"entropy": 1.0, "ratio": 1.0, "clip_fraction": 0.0},
                token_maxima={},
                outcome=StepOutcome(applied=True, grad_norm=1.0, lr=0.0),
            )
            for plan in plans
        ]

    def publish(self, version: int) -> tuple[float, int]:
        """Tell the engines of a version; returns seconds, and bytes sent."""
        ray.get([engine.finish_weight_update.remote(version) for engine in self._engines])
        return 0.0, 0

    def snapshot(self, folder: str, skipped_in_a_row: int) -> None:
        """Have nothing to save."""

    def written(self) -> tuple[bool, Exception | None]:
        """Have written it."""
        return True, None


async def start(config: RunConfig, profile: Profile, prompts: Sequence[Prompt]) -> System:
    """Start a system on a connected cluster; it must not check parity."""
    watch = Watch(config)
    watch.health.start()
    scheduler = start_scheduler(config, prompts, watch)

    def make_actor(index: int, _: RolloutConfig, scheduler: Any, seed: int) -> Any:
        actor = ray.remote(TimekeepingRollouts).options(
            name=f"rollout-{index}-{config.name}", max_concurrency=10_000, num_cpus=0
        )
        return actor.remote(profile, scheduler, seed)

    rollouts = RolloutPool(
        make_actor, config.resources.num_engines, config.rollout, scheduler.handle, config.seed
    )
    watch.rollouts(rollouts)
    learner = ray.remote(TimekeepingLearner).options(num_cpus=0)
    workers = [learner.remote(rollouts.handles) for _ in range(config.resources.num_learners)]
    learners = LearnerTeam(workers, config.learner, seed=config.seed)
    nowhere = Placement(Layout(0, 0, 0, 0), engines=[], learners=None)
    system = System(config, nowhere, scheduler, rollouts, learners, [], watch)
    await rollouts.start()
    return system


def num_references() -> int:
    """Return how many references of objects this process holds."""
    worker: Any = ray._private.worker.global_worker
    return len(worker.core_worker.get_all_reference_counts())
