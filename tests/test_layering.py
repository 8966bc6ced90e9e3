"""Who may import whom, and where the heavy packages live.

launch -> conf -> learner -> rollout -> cost        an arrow may import, never back
"""

import ast
import subprocess
import sys
from collections.abc import Iterator

import pytest

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
    "rollout/gloo_transfer.py": {"torch", "vllm"},
    "rollout/rendezvous.py": {"torch"},
    "rollout/weight_transfer.py": {"ray", "torch", "vllm"},
    "rollout/engines/fork_server.py": {"vllm"},
    "rollout/engines/vllm_engine.py": {"vllm"},
    "learner/deepspeed_engine.py": {"deepspeed"},
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
    "launch/run/going_on.py": {"ray"},
    "launch/run/leaving.py": {"ray"},
    "launch/run/remote.py": {"ray"},
    "launch/run/vitals.py": {"ray"},
    "launch/jobs/check.py": {"ray"},
    "launch/jobs/server.py": {"ray"},
    "launch/run/system.py": {"ray"},
    "launch/record/tracking.py": {"wandb"},
    "launch/models/smollm2.py": {"torch"},
    "launch/models/warmstart.py": {"torch"},
    "launch/study/bench/rollout.py": {"ray", "vllm"},
    "launch/study/bench/footprint.py": {"torch"},
    "launch/study/bench/gradient_norms.py": {"torch"},
    "launch/study/bench/kernels.py": {"torch"},
    "launch/study/bench/layouts.py": {"torch"},
    "launch/study/bench/learner.py": {"torch"},
    "launch/study/bench/long_context.py": {"torch"},
    "launch/study/bench/memory.py": {"torch"},
    "launch/study/bench/peer_trl.py": {"torch"},
    "launch/study/bench/timekeeping.py": {"ray"},
    "launch/study/bench/throughput.py": {"torch"},
    "launch/study/bench/workload.py": {"torch"},
    "launch/study/prediction/collection.py": {"torch"},
}
"""Every file that may import a heavy package, and which; the learner is free to import torch."""


def imports_of(path: str) -> Iterator[tuple[int, str]]:
    """Line and full name of every import, those inside functions and for type checks included."""
    for node in ast.walk(ast.parse((PROJECT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} is a relative import; name the room"
            assert node.module is not None
            yield node.lineno, node.module


def heavy_in(path: str) -> set[str]:
    free = {"torch"} if path.startswith("learner/") else set()
    return {name.split(".")[0] for _, name in imports_of(path)} & HEAVY - free


@pytest.mark.parametrize("path", FILES)
def test_imports_follow_the_arrows(path):
    room = path.split("/")[0]
    allowed = ROOMS[: ROOMS.index(room) + 1]
    against = [
        f"{path}:{line} imports {name}"
        for line, name in imports_of(path)
        if name.split(".")[0] in (*ROOMS, "tests") and name.split(".")[0] not in allowed
    ]
    assert not against


@pytest.mark.parametrize("path", FILES)
def test_heavy_packages_stay_in_the_shells(path):
    assert heavy_in(path) == SHELLS.get(path, set())


def test_every_shell_exists():
    assert set(SHELLS) <= set(FILES)


@pytest.mark.parametrize(
    "module",
    [
        "cost.scheduler.scheduler", "rollout.types", "rollout.buffer", "rollout.rewards.pool",
        "rollout.tasks.dataset", "learner.config", "conf.schema", "conf.programs",
        "launch.run.loop", "launch.run.inputs", "launch.train", "launch.evaluate",
        "launch.run.plan_text", "launch.compare", "launch.submit",
    ],
)  # fmt: skip
def test_cores_and_programs_import_without_heavy_packages(module):
    """Programs too: a typo on the command line is answered at once, not after torch has loaded."""
    code = f"import sys, {module}; print(*{HEAVY | {'transformers'}!r} & set(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == []


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
