"""Reserve what a run asks for before any actor starts.

resources, the cluster's GPUs -> Layout -> placement groups -> options of each actor
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from conf.resources import ResourcesConfig
from launch.cli.refusals import UserError
from launch.run.cluster_shutdown import in_time, watch_of_cluster
from launch.run.layout import Layout, describe, lay_out
from rollout.engines.versions import built_for_cpus

LOOK_SECONDS = 0.2
RELEASE_SECONDS = 15.0
"""Longest wait for a run that has just ended, or is ending, to give its resources back."""


class PlacementError(UserError):
    """The cluster has less than the run asks for."""


def use_gpu(resources: ResourcesConfig) -> bool:
    """Say whether the run places engines and learners on GPUs."""
    if resources.use_gpu is not None:
        return resources.use_gpu
    there = ray.cluster_resources().get("GPU", 0) >= 1  # type: ignore[no-untyped-call]
    return bool(there) and not built_for_cpus()


@dataclass(frozen=True, slots=True)
class Placement:
    """What is reserved for a run: a placement group for the learners, and one per engine.

    An engine that shares a GPU has no group of its own: it lives in the bundle of its learner.
    """

    layout: Layout
    engines: list[PlacementGroup]
    """Of the engines that share no GPU, in order."""
    learners: PlacementGroup | None
    hides_gpus: bool = False
    """Whether there are GPUs that learners must not see."""

    def engine_options(self, index: int, cpus: float) -> dict[str, Any]:
        """Return the options of `ray.remote` for the engine with this index.

        One that joins has its group from then on, which waits until the cluster has room for it;
        so does one in the place of an engine whose node was lost.
        """
        shared = self.layout.num_shared
        if index < shared:
            return self._in_bundle(index, cpus, 0.5)
        bundle = _bundle(cpus, self.layout.engine_gpus)
        if index == shared + len(self.engines):
            self.engines.append(placement_group([bundle], strategy="PACK"))
        elif _lost_its_node(self.engines[index - shared]):
            _remove(self.engines[index - shared])
            self.engines[index - shared] = placement_group([bundle], strategy="PACK")
        return {
            "num_cpus": cpus,
            "num_gpus": self.layout.engine_gpus,
            "scheduling_strategy": PlacementGroupSchedulingStrategy(self.engines[index - shared]),
        }

    def learner_options(self, rank: int, cpus: float) -> dict[str, Any]:
        """Return the options of `ray.remote` for the learner with this rank."""
        shares = rank < self.layout.num_shared
        options = self._in_bundle(rank, cpus, 0.5 if shares else self.layout.learner_gpus)
        # Ray hides GPUs from those who have some, not from those who have none. Where there are
        # none it would only cost a process that Ray has begun.
        hidden = {"runtime_env": {"env_vars": {"CUDA_VISIBLE_DEVICES": ""}}}
        return options | (hidden if self.hides_gpus else {})

    def _in_bundle(self, rank: int, cpus: float, gpus: float) -> dict[str, Any]:
        assert self.learners is not None
        return {
            "num_cpus": cpus,
            "num_gpus": gpus,
            "scheduling_strategy": PlacementGroupSchedulingStrategy(
                self.learners, placement_group_bundle_index=rank
            ),
        }

    def give_back(self, index: int) -> None:
        """Give up the place of an engine that is left out; one in a learner's bundle stays."""
        if index >= self.layout.num_shared:
            _remove(self.engines[index - self.layout.num_shared])

    def release(self) -> None:
        """Give everything back to the cluster, if that lives."""
        for group in self.groups:
            _remove(group)

    def nodes(self) -> dict[str, bool]:
        """Return the ids of the nodes that hold a part, and whether a learner is among them."""
        found: dict[str, bool] = {}
        for group in self.groups:
            table = placement_group_table(group)
            for node in table["bundles_to_node_id"].values():
                found[node] = found.get(node, False) or group is self.learners
        return found

    @property
    def groups(self) -> list[PlacementGroup]:
        """All placement groups, those of engines first."""
        return [*self.engines, *([self.learners] if self.learners else [])]


def _lost_its_node(group: PlacementGroup) -> bool:
    """Return whether a group that had room waits for other room.

    Ray's head looks for that without a pause, and takes all of a core as long as there is none; for
    a new group it pauses.
    """
    return bool(placement_group_table(group).get("state") == "RESCHEDULING")


def _remove(group: PlacementGroup) -> None:
    watch = watch_of_cluster()
    # It waits for the cluster's head, for ever if need be.
    if watch is None or watch.died is None:
        in_time(RELEASE_SECONDS, partial(remove_placement_group, group))


async def _free_when_enough(asked: dict[str, float]) -> dict[str, float]:
    """What is free, after a moment's wait while what is asked is only being given back."""
    total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    patience = 0.0
    if all(amount <= total.get(kind, 0) for kind, amount in asked.items()):
        patience = RELEASE_SECONDS
    deadline = time.monotonic() + patience
    while True:
        free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
        enough = all(amount <= free.get(kind, 0) for kind, amount in asked.items())
        if enough or time.monotonic() >= deadline:
            return free
        await asyncio.sleep(LOOK_SECONDS)


async def reserve(
    resources: ResourcesConfig, *, learners: bool = True, say: Callable[[str], None] = print
) -> Placement:
    """Reserve the run's placement groups.

    Args:
        resources: What the run asks for.
        learners: False for an evaluation, which has none.
        say: Told which GPUs are shared, and how many stay idle.

    Raises:
        PlacementError: If the cluster has less free than asked, with both numbers, or cannot place
            it within the deadline.
    """
    total: float = ray.cluster_resources().get("GPU", 0)  # type: ignore[no-untyped-call]
    if total >= 1 and resources.use_gpu is None and built_for_cpus():
        say(
            f"{total:g} GPU(s) stay idle, as the packages here are those for CPUs; "
            "`make install DEVICE=gpu VENV=.venv-gpu` installs those for GPUs"
        )
    layout = lay_out(resources, total, on_gpu=use_gpu(resources), learners=learners)
    if resources.max_engines is not None and layout.num_shared:
        raise PlacementError(
            "resources.max_engines must be null where engines and learners share GPUs, as "
            f"{layout.num_shared} of each would here, got {resources.max_engines}"
        )
    engine_cpus = layout.num_engines * resources.engine_cpus
    cpus = engine_cpus + layout.num_learners * resources.learner_cpus
    # Ray counts in ten-thousandths, and parts may add up to a little more than all there is.
    asked = {"CPU": round(cpus, 4), "GPU": layout.num_gpus}
    free = await _free_when_enough(asked)
    for kind, amount in asked.items():
        if amount > free.get(kind, 0):
            raise PlacementError(
                f"resources: the run asks for {amount:g} {kind}s ({layout.parts}), "
                f"the cluster has {free.get(kind, 0):g} free; lower resources.num_engines, "
                "resources.num_learners or resources.tensor_parallel_size"
            )
    for sentence in describe(layout, resources, free.get("GPU", 0)):
        say(sentence)
    placement = Placement(
        layout,
        engines=[
            placement_group([bundle], strategy="PACK")
            for bundle in engine_bundles(layout, resources)
        ],
        learners=placement_group(learner_bundles(layout, resources), strategy="PACK")
        if layout.num_learners
        else None,
        hides_gpus=total >= 1 and not layout.learner_gpus,
    )
    try:
        await _placed(placement, resources.placement_deadline_seconds, free)
    except BaseException:
        placement.release()
        raise
    return placement


async def _placed(placement: Placement, seconds: float, free: dict[str, float]) -> None:
    """Wait for all groups; a signal is heard meanwhile."""
    deadline = time.monotonic() + seconds
    for group in placement.groups:
        while not group.wait(0):
            if time.monotonic() >= deadline:
                raise PlacementError(
                    f"resources: no node could hold {group.bundle_specs} within {seconds:g} s, "
                    f"free was {free}"
                )
            await asyncio.sleep(LOOK_SECONDS)


def engine_bundles(layout: Layout, resources: ResourcesConfig) -> list[dict[str, float]]:
    """Return what each engine that shares no GPU takes."""
    whole = _bundle(resources.engine_cpus, layout.engine_gpus)
    return [whole] * (layout.num_engines - layout.num_shared)


def learner_bundles(layout: Layout, resources: ResourcesConfig) -> list[dict[str, float]]:
    """Return what each learner takes, with the engine that shares its GPU."""
    shared = _bundle(resources.learner_cpus + resources.engine_cpus, 1)
    whole = _bundle(resources.learner_cpus, layout.learner_gpus)
    return [shared] * layout.num_shared + [whole] * (layout.num_learners - layout.num_shared)


def _bundle(cpus: float, gpus: int) -> dict[str, float]:
    return {"CPU": cpus} | ({"GPU": gpus} if gpus else {})
