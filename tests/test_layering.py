"""Who may import whom, and where the heavy packages live.

launch -> conf -> learner -> rollout -> cost        an arrow may import, never back
"""

import ast
import subprocess
import sys
from functools import cache

from tests.places import PROJECT

ROOMS = ("cost", "rollout", "learner", "conf", "launch")
FILES = [
    path.relative_to(PROJECT).as_posix()
    for room in ROOMS
    for path in sorted((PROJECT / room).rglob("*.py"))
]
HEAVY = {"ray", "vllm", "deepspeed", "wandb", "torch"}
SHELLS = {
    "rollout/actor.py": {"ray"},
    "rollout/pool.py": {"ray"},
    "rollout/places.py": {"ray"},
    "rollout/replacing.py": {"ray"},
    "rollout/buckets.py": {"torch"},
    "rollout/gloo_group.py": {"torch"},
    "rollout/gloo_sender.py": {"torch"},
    "rollout/gloo_transfer.py": {"torch", "vllm"},
    "rollout/ipc_transfer.py": {"torch", "vllm"},
    "rollout/nccl_transfer.py": {"torch", "vllm"},
    "rollout/engines/arguments.py": {"vllm"},
    "rollout/reloading.py": {"torch", "vllm"},
    "rollout/rendezvous.py": {"torch"},
    "rollout/tools/vllm_calls.py": {"vllm"},
    "rollout/weight_transfer.py": {"ray", "torch", "vllm"},
    "rollout/engines/fork_server.py": {"vllm"},
    "rollout/engines/vllm_engine.py": {"vllm"},
    "rollout/engines/without_compiling.py": {"torch"},
    "learner/deepspeed_joining.py": {"deepspeed"},
    "learner/publisher.py": {"ray"},
    "learner/worker.py": {"ray"},
    "learner/team.py": {"ray"},
    "launch/run/cluster.py": {"ray"},
    "launch/run/node_checks.py": {"ray"},
    "launch/run/parity_checks.py": {"ray"},
    "launch/run/placement.py": {"ray"},
    "launch/record/dashboard/tracker.py": {"ray"},
    "launch/run/deaths.py": {"ray"},
    "launch/run/engines.py": {"ray"},
    "launch/run/recovery.py": {"ray"},
    "launch/run/cluster_shutdown.py": {"ray"},
    "launch/run/remote.py": {"ray"},
    "launch/run/health.py": {"ray"},
    "launch/jobs/check.py": {"ray"},
    "launch/jobs/server.py": {"ray"},
    "launch/run/system.py": {"ray"},
    "launch/record/responses.py": {"ray"},
    "launch/record/wandb_tracker.py": {"wandb"},
    "launch/models/smollm2.py": {"torch"},
    "launch/models/warmstart.py": {"torch"},
    "launch/study/bench/overlap.py": {"ray"},
    "launch/study/bench/rollout.py": {"ray", "vllm"},
    "launch/study/bench/gradient_norms.py": {"torch"},
    "launch/study/bench/kernels.py": {"torch"},
    "launch/study/bench/layouts.py": {"torch"},
    "launch/study/bench/learner.py": {"torch"},
    "launch/study/bench/long_context.py": {"torch"},
    "launch/study/bench/memory.py": {"torch"},
    "launch/study/bench/peak_memory.py": {"torch"},
    "launch/study/bench/peer_trl.py": {"torch"},
    "launch/study/bench/timekeeping.py": {"ray"},
    "launch/study/bench/throughput.py": {"torch"},
    "launch/study/bench/workload.py": {"torch"},
    "launch/study/prediction/collection.py": {"torch"},
}
"""Every file that may import a heavy package, and which; the learner is free to import torch."""


@cache
def nodes_of(path: str) -> list[ast.AST]:
    return list(ast.walk(ast.parse((PROJECT / path).read_text(encoding="utf-8"))))


@cache
def imports_of(path: str) -> list[tuple[int, str]]:
    """Line and full name of every import, those inside functions and for type checks included."""
    found = []
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} is a relative import; name the room"
            assert node.module is not None
            found.append((node.lineno, node.module))
    return found


def heavy_in(path: str) -> set[str]:
    free = {"torch"} if path.startswith("learner/") else set()
    return {name.split(".")[0] for _, name in imports_of(path)} & HEAVY - free


def test_imports_follow_the_arrows():
    against = [
        f"{path}:{line} imports {name}"
        for path in FILES
        for line, name in imports_of(path)
        if name.split(".")[0] in (*ROOMS, "tests")
        and name.split(".")[0] not in ROOMS[: ROOMS.index(path.split("/")[0]) + 1]
    ]
    assert not against


def test_heavy_packages_stay_in_the_shells():
    assert {path: heavy for path in FILES if (heavy := heavy_in(path))} == SHELLS


def test_every_shell_exists():
    assert set(SHELLS) <= set(FILES)


def test_cores_and_programs_import_without_heavy_packages():
    """Programs too: a typo on the command line is answered at once, not after torch has loaded."""
    modules = [
        "cost.scheduler.scheduler", "rollout.types", "rollout.buffer", "rollout.rewards.pool",
        "rollout.tasks.dataset", "learner.config", "conf.schema", "conf.programs",
        "launch.run.loop", "launch.run.inputs", "launch.train", "launch.evaluate",
        "launch.run.plan_text", "launch.compare", "launch.submit",
    ]  # fmt: skip
    # Each in a process of its own, which has what all of them may import.
    code = (
        "import importlib, os, sys, hydra, numpy\n"
        f"for module in {modules!r}:\n"
        "    if os.fork() == 0:\n"
        "        importlib.import_module(module)\n"
        f"        print(module, *{HEAVY | {'transformers'}!r} & set(sys.modules))\n"
        "        sys.exit()\n"
        "    os.wait()\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=60
    )
    assert result.stdout.splitlines() == modules, result.stderr


def test_the_plugs_of_the_driver_import_without_heavy_packages():
    """What conf/ names is built on the driver, which never builds an engine."""
    code = (
        "import sys; from pathlib import Path; from hydra.utils import get_object;"
        "from omegaconf import OmegaConf;"
        "nodes = [OmegaConf.load(p) for p in Path('conf').glob('*/*.yaml')];"
        "names = [n._target_ for n in nodes if '_target_' in n];"
        "[get_object(name) for name in names if 'learner' not in name];"
        f"print(*{HEAVY!r} & set(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == []
