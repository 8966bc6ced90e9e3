"""Is the project installed on every node? `python -m launch.jobs.check`, first in every job.

It runs before anything else is imported, on Pythons that may have nothing: standard library only,
and Ray once that is known to be there.
"""

from __future__ import annotations

import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, entry_points, version
from importlib.util import find_spec
from pathlib import Path

NODE_SECONDS = 300.0
"""A node that sees the job's folder for the first time downloads it."""


def lacking(pyproject: str) -> list[str]:
    """List what this Python lacks of a project: its dependencies, vLLM and its entry points.

    Args:
        pyproject: The content of pyproject.toml.
    """
    project = tomllib.loads(pyproject)["project"]
    found = []
    for requirement in project["dependencies"]:
        name = re.match(r"[\w.-]+", requirement)
        pinned = re.search(r"==([\w.]+)", requirement)
        assert name is not None
        try:
            there = version(name[0])
        except PackageNotFoundError:
            found.append(requirement)
            continue
        if pinned and there != pinned[1]:
            found.append(f"{requirement} (has {there})")
    # Its distribution has another name on CPUs.
    if find_spec("vllm") is None:
        found.append("vllm")
    for group, points in project.get("entry-points", {}).items():
        there_too = {point.name for point in entry_points(group=group)}
        found += [f"entry point {group}:{name}" for name in points if name not in there_too]
    return found


def lacking_on_nodes(pyproject: str) -> dict[str, list[str]]:
    """Ask every node of the cluster, and return what is lacking by the node's address."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ray.init(log_to_driver=False, configure_logging=False)
    ask = ray.remote(num_cpus=0, max_retries=0)(lacking)
    answers = {
        node["NodeManagerAddress"]: ask.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(pyproject)
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"]
    }
    return {node: ray.get(answer, timeout=NODE_SECONDS) for node, answer in answers.items()}


def main() -> int:
    """Print a sentence for each Python that lacks something, and return the exit code."""
    pyproject = Path("pyproject.toml").read_text(encoding="utf-8")
    here = lacking(pyproject)
    if here:
        print(
            f"error: the job's Python, {sys.executable}, lacks {', '.join(here)}; install the "
            "project on every node, or start Ray there with its environment activated",
            file=sys.stderr,
        )
        return 2
    wrong = {node: found for node, found in lacking_on_nodes(pyproject).items() if found}
    for node, found in wrong.items():
        print(
            f"error: node {node} lacks {', '.join(found)}; install the project there, or use its "
            "image",
            file=sys.stderr,
        )
    return 2 if wrong else 0


if __name__ == "__main__":
    # Tasks find the function by its module's name, not as part of __main__.
    from launch.jobs import check

    sys.exit(check.main())
