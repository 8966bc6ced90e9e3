"""How many machines of one kind hold a run's engines and learners."""

from __future__ import annotations

from dataclasses import dataclass

from conf.resources import ResourcesConfig
from conf.submit import NodeConfig
from launch.cli.refusals import UserError


@dataclass(frozen=True, slots=True)
class Nodes:
    """The machines to start, all alike."""

    count: int
    """As the run begins."""
    most: int
    """With the engines that may join; at least `count`."""
    cpus: int
    gpus: int
    """GPUs of each machine that the run uses; 0 when it runs on CPUs."""
    memory_gib: int


def nodes_for(resources: ResourcesConfig, node: NodeConfig) -> Nodes:
    """Count the machines: engines first, each whole on one, then learners in the room left.

    Engines that may join (`resources.max_engines`) come last.

    Only `resources.share_gpus=true`, or engines that sleep, count on shared GPUs: machines are
    asked for as if none were.

    Args:
        resources: What the run asks for, as `launch.run.placement.reserve` will.
        node: What one machine has.

    Raises:
        UserError: If a machine cannot hold one engine or one learner.
    """
    if resources.use_gpu and not node.gpus:
        raise UserError("node.gpus must be at least 1 with resources.use_gpu=true, got 0")
    gpus = 0 if resources.use_gpu is False else node.gpus
    engine = (resources.engine_cpus, resources.tensor_parallel_size if gpus else 0)
    learner = (resources.learner_cpus, 1 if gpus else 0)
    if engine[1] > gpus:
        raise UserError(
            f"resources.tensor_parallel_size must not exceed node.gpus = {gpus}, got {engine[1]}"
        )
    shared = min(resources.num_engines, resources.num_learners) if resources.shares else 0
    pair = (engine[0] + learner[0], learner[1])
    needs = {"engine_cpus": engine[0], "learner_cpus": learner[0]}
    if shared:
        needs["engine_cpus + resources.learner_cpus"] = pair[0]
    for key, cpus in needs.items():
        if cpus > node.cpus:
            raise UserError(
                f"resources.{key} must not exceed node.cpus = {node.cpus}, got {cpus:g}"
            )
    free: list[tuple[float, int]] = []

    def place(parts: list[tuple[float, int]]) -> int:
        for cpus, needed in parts:
            at = next((i for i, (c, g) in enumerate(free) if c >= cpus and g >= needed), len(free))
            if at == len(free):
                free.append((node.cpus, gpus))
            free[at] = (free[at][0] - cpus, free[at][1] - needed)
        return len(free)

    engines = [engine] * (resources.num_engines - shared) + [pair] * shared
    count = place(engines + [learner] * (resources.num_learners - shared))
    joining = (resources.max_engines or resources.num_engines) - resources.num_engines
    return Nodes(
        count=count,
        most=place([engine] * joining),
        cpus=node.cpus,
        gpus=gpus,
        memory_gib=node.memory_gib,
    )
