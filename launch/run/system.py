"""The running parts of one training run: scheduler, engines, learners, weights between them.

start:    placement -> actors side by side -> transfer group -> publish 0 -> parity self-test
publish:  learner rank 0 -> every engine -> parity probe
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypedDict, TypeVar

import ray

from conf.schema import RunConfig
from cost.prices.shape import ModelShape
from cost.types import LengthReport, Undone
from launch.record.checkpoint import LEARNER, SCHEDULER
from launch.record.progress import Startup
from launch.run.clocks import Laps
from launch.run.compute import probed
from launch.run.engines import make_pool
from launch.run.loop import first_error
from launch.run.parity import Difference, ParityError, Tolerance
from launch.run.placement import Placement, reserve
from launch.run.remote import RemoteScheduler, Watch, start_learners, start_scheduler
from learner.team import LearnerTeam
from rollout.pool import RolloutPool
from rollout.replacing import LostMeanwhileError
from rollout.types import Prompt

Result = TypeVar("Result")
BASELINE_PROBES = 4
"""Probes whose largest rounding differences are the baseline in bfloat16."""


class _Transfer(TypedDict):
    backend: str
    workers_per_engine: int
    deadline_seconds: float


async def _timed(
    starting: Coroutine[Any, Any, Result], startup: Startup, name: str
) -> tuple[Result, float]:
    clock = Laps()
    with startup.part(name):
        return await starting, clock.lap()


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
        self._parity = config.parity
        self._probe_prompts = [prompt.token_ids for prompt in probe_prompts]
        self._tolerance = Tolerance(
            max_difference=config.parity.max_difference
            if config.model.dtype == "float32"
            else None,
            slack=config.parity.slack,
        )
        self.scheduler = scheduler
        self.rollouts = rollouts
        self.learners = learners
        self.watch = watch
        self._num_probes, self._probe_flops = 0, 0.0
        self.version = 0
        """That every engine holds; one that is being replaced gets it."""
        self.max_logprob_difference = 0.0
        self.startup_seconds: dict[str, float] = {}
        rollouts.actors.on_replaced = self._republish

    @classmethod
    async def create(cls, config: RunConfig, prompts: Sequence[Prompt], startup: Startup) -> System:
        """Reserve resources, start every part side by side, and publish version 0.

        Raises:
            PlacementError: If the cluster has too little.
            ParityError: If an engine does not follow the learner.
        """
        watch = Watch(config)
        watch.vitals.start()
        try:
            system = await watch.vitals.guard(cls._start(config, prompts, startup, watch))
        except BaseException:
            watch.vitals.close()
            raise
        try:
            await watch.vitals.guard(system._begin(startup))
        except BaseException:
            await system.close()
            raise
        return system

    @classmethod
    async def _start(
        cls, config: RunConfig, prompts: Sequence[Prompt], startup: Startup, watch: Watch
    ) -> System:
        placement = reserve(config.resources, say=startup.say)
        scheduler = start_scheduler(config, prompts, watch)
        rollouts = make_pool(
            config=config.rollout,
            run=config,
            placement=placement,
            scheduler=scheduler.handle,
            receives_weights=not config.learner.lora.published_rank,
            adapter_rank=config.learner.lora.published_rank,
        )
        watch.rollouts(rollouts)
        clock = Laps()
        try:
            async with asyncio.TaskGroup() as tasks:
                engines = tasks.create_task(_timed(rollouts.start(), startup, "engines"))
                if placement.layout.num_shared:
                    # vLLM takes what others allocate meanwhile for its own, and leaves less room
                    # for keys and values.
                    await engines
                learning = tasks.create_task(
                    _timed(start_learners(config, placement, watch), startup, "learners")
                )
        except BaseException as error:
            await rollouts.close()
            if isinstance(error, BaseExceptionGroup):
                raise first_error(error) from None
            raise
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
            await self._self_test()
        self.startup_seconds["self_test"] = clock.lap()

    async def guard(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Do some work, given up when a part dies; see `launch.run.vitals.Vitals.guard`."""
        return await self.watch.vitals.guard(work)

    async def reset(
        self, config: RunConfig, prompts: Sequence[Prompt], *, new_learners: bool = False
    ) -> None:
        """Begin another run on the same engines and learners, as if they were new.

        Args:
            config: The run; it must share `model`, `rollout`, `environment`, `reward` and
                `resources` with the one before.
            prompts: Its training prompts.
            new_learners: Whether to start learners in the place of those that are there.
        """
        self.watch.begin(config)
        ray.kill(self.scheduler.handle)
        self._config = config
        self.scheduler = start_scheduler(config, prompts, self.watch)
        await self.rollouts.attach(self.scheduler.handle, config.seed)
        if new_learners:
            self.learners.close()
            self.learners = await start_learners(config, self._placement, self.watch)
        else:
            self.watch.give_time(self.learners, config)
            await self.learners.restart(config.learner, config.objective, seed=config.seed)
        self.version, self._num_probes = 0, 0
        self.startup_seconds = {}
        await self.learners.name(0)
        baseline = await self._whoever_dies(self._publish_and_probe)
        self.rollouts.actors.go_on()
        self._tolerance.check(0, baseline)
        self.max_logprob_difference = baseline.maximum

    async def _first_publish(self) -> None:
        engines = self.rollouts.actors.started()
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
            try:
                return await work()
            except (ray.exceptions.RayError, LostMeanwhileError) as error:
                await self.rollouts.actors.replace_dead(error)

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
            ValueError: If it is of another model, task or set of plugs.
        """
        path = str(folder / SCHEDULER)
        undone: list[Undone] = await self.scheduler.call("resume", path, version, list(held))
        await self.learners.load_state(str(folder / LEARNER))
        if state["baseline"] is not None:
            baseline = Difference(**state["baseline"])
            self._tolerance = replace(self._tolerance, baseline=baseline)
        await self.publish(version)
        # The probes that follow are those of a run that was not stopped.
        self._num_probes = state["num_probes"]
        self.max_logprob_difference = state["max_logprob_difference"]
        return undone

    def state_dict(self) -> dict[str, Any]:
        """Return what the parity guard goes by, as plain data."""
        baseline = self._tolerance.baseline
        return {
            "num_probes": self._num_probes,
            "max_logprob_difference": self.max_logprob_difference,
            "baseline": None if baseline is None else asdict(baseline),
        }

    async def publish(self, version: int) -> dict[str, float]:
        """Bring the learner's weights to every engine as `version` and check parity.

        Raises:
            ParityError: If engine and learner then disagree by more than rounding.
        """
        # Engines that were replaced while the learner worked are given it first, so that none of
        # those that receive now is known to be dead.
        await self.learners.name(version)
        await self.rollouts.actors.replacements()
        return await self._whoever_dies(lambda: self._publish_and_check(version))

    async def _publish_and_check(self, version: int) -> dict[str, float]:
        metrics = await self.learners.publish(version)
        self.version = version
        if self._parity.every and version % self._parity.every == 0:
            found = await self.probe()
            self.max_logprob_difference = max(self.max_logprob_difference, found.maximum)
            metrics |= {"parity/flops": self._probe_flops} | {
                "parity/max_logprob_difference": found.maximum,
                "parity/mean_logprob_difference": found.mean,
            }
            self._tolerance.check(version, found)
        return metrics

    async def _republish(self) -> None:
        """Give a replaced engine, in a new transfer group, weights under the label of just these.

        While the learner is at work on them it waits for the next publish.
        """
        await self.learners.republish(self.rollouts.actors.started, **self._transfer)

    @property
    def _transfer(self) -> _Transfer:
        return {
            "backend": self._placement.layout.weight_backend,
            "workers_per_engine": self._config.resources.tensor_parallel_size,
            "deadline_seconds": self._config.loop.publish_deadline_seconds,
        }

    async def probe(self) -> Difference:
        """Compare every engine with the learners on fresh responses.

        Raises:
            TimeoutError: If either takes longer than `parity.deadline_seconds`.
        """
        self._num_probes += 1
        async with self._in_time("the engines"):
            probes = await asyncio.gather(
                *(
                    handle.generate_probe.remote(
                        self._probe_prompts, self._parity.num_tokens, self._num_probes
                    )
                    for handle in self.rollouts.handles
                )
            )
        rows = [row for probe in probes for row in probe]
        self._probe_flops = self._flops_of([(prompt, response) for prompt, response, _ in rows])
        async with self._in_time("the learners"):
            learner = await self.learners.logprobs(
                [(prompt, response) for prompt, response, _ in rows]
            )
        return Difference.between([logprobs for *_, logprobs in rows], learner)

    def _flops_of(self, responses: Sequence[tuple[Any, Any]]) -> float:
        shape = ModelShape.found(self._config.model.path)
        num_learners = self._config.resources.num_learners
        return math.nan if shape is None else probed(shape, responses, num_learners)

    @asynccontextmanager
    async def _in_time(self, who: str) -> AsyncIterator[None]:
        limit = self._parity.deadline_seconds
        try:
            async with asyncio.timeout(limit):
                yield
        except TimeoutError as error:
            raise TimeoutError(
                f"version {self.version}: {who} did not answer the parity probe within "
                f"parity.deadline_seconds = {limit:g}"
            ) from error

    async def _self_test(self) -> None:
        """Check parity at version 0, and that engines follow a change of all that is published."""
        baseline = await self.probe()
        if self._tolerance.max_difference is None:
            more = [await self.probe() for _ in range(BASELINE_PROBES - 1)]
            baseline = Difference.largest([baseline, *more])
            self._tolerance = Tolerance(None, self._parity.slack, baseline)
        self._tolerance.check(0, baseline)
        self.max_logprob_difference = baseline.maximum
        if not self._parity.self_test:
            return
        await self.learners.disturb_weights()
        await self.learners.publish(0)
        disturbed = await self.probe()
        await self.learners.restore_weights()
        await self.learners.publish(0)
        restored = await self.probe()
        try:
            self._tolerance.check(0, disturbed)
            self._tolerance.check(0, restored)
        except ParityError as error:
            raise ParityError(f"start-up self-test with disturbed weights: {error}") from None

    async def close(self) -> None:
        """End every actor and give the resources back."""
        self.watch.vitals.close()
        await self.rollouts.close()
        self.learners.close()
        ray.kill(self.scheduler.handle)
        self._placement.release()
