"""A system that only keeps time, with the parts of `launch.run.system.System`.

profile, scheduler, layout -> scheduler in this process, engines, learners, publish

What trains and records runs on it as on a real one, in simulated seconds.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from cost.scheduler.actor import SchedulerActor
from cost.scheduler.config import SchedulerConfig
from cost.types import IntArray, LengthReport, Ticket
from launch.study.simulation.learners import SharedCores, SimulatedLearners, SimulatedPublisher
from launch.study.simulation.policy import SimulatedPolicy
from launch.study.simulation.pool import SimulatedPool
from launch.study.simulation.profile import Profile
from launch.study.simulation.task import PromptTable
from rollout.types import Group, GroupRef, Prompt, Trajectory, VersionSpan

FOREVER_SECONDS = 1e9
"""Deadlines are no part of a simulation."""
COLOCATED_SLOWDOWN = 2.0
"""Engine and learner on the same accelerators get half of them each while both compute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How many engines and learners, and how the loop runs."""

    num_engines: int
    num_learners: int
    num_accelerators: int
    colocated: bool = False
    """Engines and learners use the same accelerators."""
    num_steps: int
    max_staleness: int
    num_epochs: int = 1
    num_minibatches: int = 1
    prefix_caching: bool = True
    update_mode: str = "recompute"
    max_retries: int = 2
    seed: int = 0


def slowdowns(profile: Profile, layout: Layout) -> tuple[float, float]:
    """Return what engines and learners take longer while both compute, as factors."""
    own = (profile.engine_slowdown, profile.learner_slowdown)
    if layout.colocated == profile.colocated:
        return own
    if layout.colocated:
        return max(own[0], COLOCATED_SLOWDOWN), max(own[1], COLOCATED_SLOWDOWN)
    return 1.0, 1.0


class LocalScheduler(SchedulerActor):
    """A scheduler in this process, with the methods of `launch.run.remote.RemoteScheduler`."""

    async def call(self, method: str, *arguments: Any) -> Any:
        """Call any method of the scheduler."""
        return await getattr(self, method)(*arguments)


def simulated_prompts(tokens: IntArray) -> list[Prompt]:
    """Return N prompts without a text, of [N] lengths."""
    return [
        Prompt(index, np.zeros(length, np.int32), "", "simulated", "")
        for index, length in enumerate(tokens.tolist())
    ]


class HeldGroups:
    """In the place of an object store: makes references of groups, and counts those alive."""

    def __init__(self) -> None:
        self.num_alive = 0

    def hold(self, ticket: Ticket, prompt: Prompt, report: LengthReport) -> "HeldGroup":
        """Return a reference of a ticket's group, whose tokens are all alike."""
        return HeldGroup(self, partial(made_up_group, ticket, prompt, report))


class HeldGroup:
    """Stands for the reference of a group, which is made when the reference is awaited."""

    __slots__ = ("_make", "_store")

    def __init__(self, store: HeldGroups, make: Callable[[], Group]) -> None:
        self._store, self._make = store, make
        store.num_alive += 1

    def __del__(self) -> None:
        self._store.num_alive -= 1

    def __await__(self) -> Any:
        """Return the group at once."""
        return asyncio.sleep(0, self._make()).__await__()


def made_up_group(ticket: Ticket, prompt: Prompt, report: LengthReport) -> Group:
    """Return a group that fits a report, with tokens that are all alike."""
    spans = zip(report.lengths.tolist(), report.truncated.tolist(), strict=True)
    return Group(
        ticket=ticket,
        prompt=prompt,
        trajectories=tuple(
            Trajectory(
                token_ids=np.ones(length, np.int32),
                loss_mask=np.ones(length, np.bool_),
                rollout_logprobs=np.zeros(length, np.float32),
                version_spans=(VersionSpan(0, length, report.version),),
                truncated=truncated,
                prefill_tokens=report.prompt_tokens,
            )
            for length, truncated in spans
        ),
        rewards=report.rewards,
        reward_components={},
        reward_status=report.status,
        answers=("",) * report.num_responses,
        seconds=report.engine_seconds,
    )


class SimulatedSystem:
    """Everything that runs, made in the event loop that runs it.

    Args:
        profile: What is simulated.
        table: The profile's prompts.
        scheduler: As in training.
        layout: The machine and the loop.
    """

    def __init__(
        self, profile: Profile, table: PromptTable, scheduler: SchedulerConfig, layout: Layout
    ) -> None:
        self.scheduler = LocalScheduler(
            scheduler,
            table.tokens,
            ["simulated"] * len(table.tokens),
            profile.max_tokens,
            layout.seed,
            max_staleness=layout.max_staleness,
            report_timeout_seconds=FOREVER_SECONDS,
        )
        cores = SharedCores(*slowdowns(profile, layout))
        self.groups = HeldGroups()
        self.policy = SimulatedPolicy(profile, table, layout.seed)
        self.rollouts = SimulatedPool(
            profile.engine,
            layout.num_engines,
            self.policy,
            self._observe,
            max_retries=layout.max_retries,
            seed=layout.seed,
            prefix_caching=layout.prefix_caching,
            update_mode=layout.update_mode,
            on_busy=cores.on_busy,
            hold=self.groups.hold,
        )
        cores.attach(self.rollouts)
        self.learners = SimulatedLearners(
            profile.learner, layout.num_learners, layout.num_minibatches, self.policy, cores
        )
        self._publisher = SimulatedPublisher(profile.publish, self.rollouts)
        self.version = 0
        """That the engines hold."""
        self.shared_gpus = 0
        self.max_logprob_difference = 0.0
        self.startup_seconds: dict[str, float] = {}

    async def guard(self, work: Awaitable[Any]) -> Any:
        """Do some work; nothing dies here that is not replaced."""
        return await work

    async def checked(self) -> None:
        """Return at once: no parity is checked."""

    async def sleep(self) -> None:
        """Return at once: engines keep their memory."""

    async def publish(self, version: int, groups: Sequence[GroupRef] = ()) -> dict[str, float]:
        """Bring a version to the engines."""
        metrics = await self._publisher.publish(version)
        self.version = version
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: no parity is checked."""
        return {}

    def close(self) -> None:
        """Let nothing fail any more."""
        self.rollouts.close()

    async def _observe(self, report: LengthReport) -> None:
        await self.scheduler.observe(report)
