"""The running parts of one training run: scheduler, engines, learners, weights between them.

start:    placement -> actors side by side -> transfer group -> publish 0 -> parity self-test
sleep:    engines that share GPUs with learners give their memory back until the next publish
publish:  learner rank 0 -> every engine -> a parity check, beside what comes next
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any, TypedDict, TypeVar

import ray

from conf.schema import RunConfig
from cost.prices.shape import ModelShape
from cost.types import LengthReport, Undone
from launch.cli.refusals import refusing
from launch.record.checkpoint import LEARNER, SCHEDULER
from launch.record.startup import Startup
from launch.run.clocks import Laps
from launch.run.compute import probed
from launch.run.deaths import PartDied
from launch.run.engines import make_pool
from launch.run.inputs import Inputs
from launch.run.loop import first_error
from launch.run.node_checks import NodeChecks
from launch.run.parity import Difference, Pair
from launch.run.parity_checks import ParityChecks
from launch.run.parts import Parts
from launch.run.placement import Placement, reserve
from launch.run.remote import RemoteScheduler, Watch, create_learners, start_scheduler
from launch.run.rewards import RewardWatch
from launch.run.sleeping import GpuSharing
from learner.team import LearnerTeam
from rollout.pool import RolloutPool
from rollout.replacing import LostMeanwhileError
from rollout.types import GroupRef, Prompt

Result = TypeVar("Result")


class _Transfer(TypedDict):
    backend: str
    workers_per_engine: int
    deadline_seconds: float


async def _timed(
    start: Callable[[Callable[[int], None]], Coroutine[Any, Any, Result]],
    startup: Startup,
    name: str,
    total: int = 1,
) -> tuple[Result, float]:
    clock = Laps()
    with startup.part(name, total) as ready:
        return await start(ready), clock.lap()


def _flops_of_check(config: RunConfig, rollouts: RolloutPool, pairs: Sequence[Pair]) -> float:
    shape = ModelShape.found(config.model.path)
    scorers = len(rollouts.actors.holders) + config.resources.num_learners
    return math.nan if shape is None else probed(shape, pairs, scorers)


class System:
    """Everything that runs for one `RunConfig`; `create` starts it, `close` ends it.

    Args:
        config: The run.
        placement: Reserved bundles.
        scheduler: The scheduler actor.
        rollouts: Started engines.
        learners: Started learners.
        probe_prompts: Prompts of the parity guard.
        watch: Watches over all parts.
    """

    def __init__(
        self,
        config: RunConfig,
        placement: Placement,
        scheduler: RemoteScheduler,
        rollouts: RolloutPool,
        learners: LearnerTeam,
        probe_prompts: Sequence[Prompt],
        watch: Watch,
    ) -> None:
        self._config = config
        self._placement = placement
        self._parity = ParityChecks(
            config.parity,
            config.model.dtype,
            [p.token_ids for p in probe_prompts],
            rollouts,
            partial(_flops_of_check, config, rollouts),
            scoring=not config.learner.lora.published_rank,
        )
        self.scheduler = scheduler
        self.rollouts = rollouts
        self.learners = learners
        self.watch = watch
        self.version = 0
        """That every engine holds; one that is being replaced gets it."""
        self.startup_seconds: dict[str, float] = {}
        self._learners_lost = False
        rollouts.actors.on_replaced = self._republish
        self._gpu_sharing = GpuSharing(rollouts, config.loop.publish_deadline_seconds)

    @classmethod
    async def create(cls, config: RunConfig, prompts: Sequence[Prompt], startup: Startup) -> System:
        """Reserve resources, start every part side by side, and publish version 0.

        Raises:
            PlacementError: If the cluster has too little.
            ParityError: If an engine does not follow the learner.
        """
        watch = Watch(config)
        watch.health.start()
        async with AsyncExitStack() as started:
            starting = cls._start(config, prompts, startup, watch, started)
            try:
                # What is behind a failure is found here, where all that was started still lives.
                system = await watch.health.guard(starting)
            except BaseException:
                watch.health.close()
                raise
            started.pop_all()
        try:
            await watch.health.guard(system._begin(startup))
        except BaseException:
            await system.close()
            raise
        return system

    @classmethod
    async def _start(
        cls,
        config: RunConfig,
        prompts: Sequence[Prompt],
        startup: Startup,
        watch: Watch,
        started: AsyncExitStack,
    ) -> System:
        """Start all parts; `started` ends those that were, where others fail."""
        placement = await reserve(config.resources, say=startup.say)
        started.callback(placement.release)
        checks = NodeChecks(config)
        await checks.check(placement.nodes())
        scheduler = start_scheduler(config, prompts, watch)
        started.callback(ray.kill, scheduler.handle)
        rollouts = make_pool(
            config=config.rollout,
            run=config,
            placement=placement,
            scheduler=scheduler.handle,
            receives_weights=not config.learner.lora.published_rank,
            adapter_rank=config.learner.lora.published_rank,
            look_at=checks.look_at,
        )
        started.push_async_callback(rollouts.close)
        watch.rollouts(rollouts)

        async def start(_: Callable[[int], None]) -> LearnerTeam:
            team = create_learners(config, placement, watch)
            started.callback(team.close)
            await team.start()
            return team

        clock = Laps()
        try:
            async with asyncio.TaskGroup() as tasks:
                engines = tasks.create_task(
                    _timed(rollouts.start, startup, "engines", len(rollouts.handles))
                )
                if placement.layout.num_shared:
                    # vLLM takes what others allocate meanwhile for its own, and leaves less room
                    # for keys and values.
                    await engines
                learning = tasks.create_task(_timed(start, startup, "learners"))
        except BaseExceptionGroup as errors:
            raise first_error(errors) from None
        (engine_seconds, _), (learners, learner_seconds) = engines.result(), learning.result()
        probes = prompts[: config.parity.num_sequences]
        system = cls(config, placement, scheduler, rollouts, learners, probes, watch)
        system.startup_seconds = {
            **{f"engine_{part}": seconds for part, seconds in engine_seconds.items()},
            "learner": learner_seconds,
            "side_by_side": clock.lap(),
        }
        return system

    async def _begin(self, startup: Startup) -> None:
        """Publish version 0, and see that engines follow."""
        clock = Laps()
        with startup.part("first publish"):
            await self.learners.name(0)
            await self._whoever_dies(self._first_publish)
        self.startup_seconds["first_publish"] = clock.lap()
        with startup.part("self test"):
            await self._parity.self_test(self.learners, lambda: self.learners.publish(0))
        self.startup_seconds["self_test"] = clock.lap()
        self.rollouts.actors.join()

    async def guard(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Do some work, given up when a part dies; see `launch.run.health.HealthChecks.guard`."""
        return await self.watch.health.guard(work)

    def give_up(self, death: PartDied) -> None:
        """Take a death in: `reset` starts anew what died, and all that may die of it meanwhile."""
        self._learners_lost = self.watch.give_up(death) or self._learners_lost

    async def reset(self, config: RunConfig, prompts: Sequence[Prompt]) -> None:
        """Begin another run on the same engines and learners, as if they were new.

        Learners of whom one died are started anew.

        Args:
            config: The run; it must share `model`, `rollout`, `environment`, `reward` and
                `resources` with the one before, but for `rollout.branching` and
                `rollout.overlong`.
            prompts: Its training prompts.
        """
        self.watch.begin(config)
        self._parity.begin_again()
        self._gpu_sharing.begin_again()
        ray.kill(self.scheduler.handle)
        self._config = config
        self.scheduler = start_scheduler(config, prompts, self.watch)
        await self.rollouts.attach(config.rollout, self.scheduler.handle, config.seed)
        if self._learners_lost:
            self.learners.close()
            self.learners = create_learners(config, self._placement, self.watch)
            await self.learners.start()
            self._learners_lost = False
        else:
            self.watch.give_time(self.learners, config)
            await self.learners.restart(config.learner, config.objective, seed=config.seed)
        self.version = 0
        self.startup_seconds = {}
        await self.learners.name(0)
        baseline = await self._whoever_dies(self._publish_and_probe)
        self.rollouts.actors.go_on()
        self._parity.first(baseline)

    async def _first_publish(self) -> None:
        engines = self.rollouts.actors.choose()
        await self.learners.connect_engines(engines, **self._transfer)
        await self.learners.publish(0)

    async def _publish_and_probe(self) -> Difference:
        await self._first_publish()
        return await self.probe()

    async def _whoever_dies(self, work: Callable[[], Awaitable[Result]]) -> Result:
        """Do something with all engines; after a death, when the dead are replaced, do it again.

        Raises:
            EngineError: If one dies too often.
            Exception: What else keeps it from being done.
        """
        while True:
            actors = self.rollouts.actors
            lost = actors.num_lost
            try:
                return await work()
            except (ray.exceptions.RayError, LostMeanwhileError) as error:
                await actors.replace_dead(error, known=actors.num_lost > lost)

    async def load(
        self,
        folder: Path,
        version: int,
        held: Sequence[LengthReport],
        state: Mapping[str, Any],
    ) -> list[Undone]:
        """Go on from a checkpoint: scheduler and learners load it, the engines get its weights.

        Args:
            folder: A whole checkpoint, see `launch.record.checkpoint`.
            version: Batches learned before it.
            held: Reports of the groups that it has.
            state: From `state_dict`.

        Returns:
            The batches that were drawn and not learned.

        Raises:
            UserError: If learners cannot have it, as it is of another model.
            ValueError: If it is of another task or set of plugs.
        """
        path = str(folder / SCHEDULER)
        undone: list[Undone] = await self.scheduler.call("resume", path, version, list(held))
        with refusing():
            await self.learners.load_state(str(folder / LEARNER))
        self._parity.load_state_dict(state)
        await self.publish(version)
        await self.checked()
        # What is told from here on is what a run that was not stopped would tell.
        self._parity.load_state_dict(state)
        return undone

    def state_dict(self) -> dict[str, Any]:
        """Return what the parity guard goes by, as plain data; no check may be on its way."""
        return self._parity.state_dict()

    @property
    def shared_gpus(self) -> int:
        """GPUs that an engine and a learner share."""
        return self._placement.layout.num_shared

    @property
    def max_logprob_difference(self) -> float:
        """Largest difference of engine and learner in one log-probability so far, nats."""
        return self._parity.largest

    async def sleep(self) -> None:
        """Let the engines sleep until the next publish, if they are to (`resources.engines_sleep`).

        Raises:
            ParityError: If engine and learner disagreed at the version that was published last.
            TimeoutError: If an engine does not fall asleep.
        """
        if self._config.resources.engines_sleep:
            await self.checked()
            await self._whoever_dies(self._gpu_sharing.to_learners)

    async def publish(self, version: int, groups: Sequence[GroupRef] = ()) -> dict[str, float]:
        """Bring the learner's weights to every engine as `version`, and have it checked meanwhile.

        Args:
            version: What tokens sampled from then on are labelled with.
            groups: The batch that was learned, of which the check scores a part.

        Returns:
            What publishing took, and what the check of the version before found.

        Raises:
            ParityError: If engine and learner disagreed at the version before.
        """
        await self.checked()
        await self._gpu_sharing.to_engines(self.learners)
        # Engines that came or went while the learner worked are given it first, so that none of
        # those that receive now is known to be dead.
        await self.learners.name(version)
        await self.rollouts.actors.settled()
        metrics, _ = await asyncio.gather(
            self._whoever_dies(lambda: self.learners.publish(version)),
            self._parity.choose(version, groups),
        )
        self.version = version
        await self._whoever_dies(lambda: self._parity.begin(version, self.learners))
        return metrics | self._parity.metrics()

    async def checked(self) -> None:
        """Wait until the version that was published last is checked, if its turn was.

        Raises:
            ParityError: If engine and learner disagree by more than rounding.
        """
        await self._parity.finish()

    async def _republish(self) -> None:
        """Give engines that are up, in a new transfer group, weights under the label of just these.

        While the learner is at work on them it waits for the next publish.
        """
        await self._gpu_sharing.until_engines()
        await self.learners.republish(self.rollouts.actors.choose, **self._transfer)

    @property
    def _transfer(self) -> _Transfer:
        return {
            "backend": self._placement.layout.weight_backend,
            "workers_per_engine": self._config.resources.tensor_parallel_size,
            "deadline_seconds": self._config.loop.publish_deadline_seconds,
        }

    async def probe(self) -> Difference:
        """Compare every engine with the learners on fresh responses; see `ParityChecks.probe`."""
        return await self._parity.probe(self.version, self.learners)

    async def close(self) -> None:
        """End every actor and give the resources back."""
        self.watch.health.close()
        self._parity.cancel()
        await self.rollouts.close()
        self.learners.close()
        ray.kill(self.scheduler.handle)
        self._placement.release()


def parts_of(system: System, inputs: Inputs, watch: RewardWatch) -> Parts:
    """Return the parts of a system as the loop sees them."""

    def engine_share() -> float:
        return max(1, system.rollouts.num_in_use) / inputs.config.resources.num_engines

    return Parts(
        prompts=inputs.prompts,
        scheduler=system.scheduler,
        rollouts=system.rollouts,
        learners=system.learners,
        publish=system.publish,
        sleep=system.sleep,
        engine_share=engine_share,
        watch=watch,
    )
