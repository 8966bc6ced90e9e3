"""A cluster of several nodes on this machine: one comes and one is killed while a run goes on.

What the run publishes are adapters, of which an engine that joins has none.
"""

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from rollout.processes import belongs, every
from tests.places import PROJECT
from tests.processes import engine_of, titled
from tests.system.program import PATIENCE_SECONDS, SMALL, lines_of
from tests.system.ray_node import RayNode, environment, free_ports

pytestmark = pytest.mark.system

STEPS = 16
MODEL = PROJECT / "rollout" / "tasks" / "chain_model"
ADAPTERS = [
    "learner.lora.rank=3",
    "learner.lora.target_modules=[q_proj, v_proj, down_proj]",
    "learner.lora.publish=adapters",
    "learner.lr=1e-2",
    "learner.zero_stage=3",
    "rollout.update_mode=keep_kv",
    "loop.max_staleness=1",
]
REWARD = """
import os, time

def score(prompt, response, answer, gate=""):
    # Whoever starts scores nothing once.
    while prompt and os.path.exists(gate):
        time.sleep(0.05)
    return float(response.strip().endswith(answer))
"""
NOTICED_SOON = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}
"""A node that is killed is one that no longer answers."""


class Nodes:
    """Nodes of one cluster, each a raylet of its own; the head's holds nothing but the driver."""

    def __init__(self, folder):
        self.folder, self.port, self.token = folder, free_ports(1)[0], secrets.token_hex(16)
        self.environment = environment(RAY_AUTH_TOKEN=self.token, **NOTICED_SOON)
        self._nodes = {}

    def begin(self, name, cpus):
        """Start a node and wait until it is there."""
        where = ["--address", f"127.0.0.1:{self.port}"]
        if name == "head":
            where = ["--head", "--include-dashboard=false", f"--port={self.port}"]
            where += [f"--temp-dir={self.folder}"]
        self._nodes[name] = RayNode(
            Path(self.folder) / f"{name}.log",
            [*where, f"--num-cpus={cpus}", "--object-store-memory=100000000"],
            self.environment,
        )
        self._nodes[name].await_start()

    def kill(self, name):
        """Kill all of a node at once."""
        self._nodes.pop(name).kill()

    def close(self):
        """Kill what belongs to the cluster, and nothing else."""
        for name in tuple(self._nodes):
            self.kill(name)
        for process in every():
            if belongs(process.pid, f"RAY_AUTH_TOKEN={self.token}"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)


@pytest.fixture
def nodes():
    """A head without CPUs, a node that only fits the learner, and one that only fits an engine."""
    # Ray's sockets lie below this folder, and their paths must be short.
    with tempfile.TemporaryDirectory(prefix="r", ignore_cleanup_errors=True) as folder:
        cluster = Nodes(folder)
        try:
            # One after the other: two that start at once may choose the same port, and Ray gives
            # the one that does not get it up after 30 s.
            for name, cpus in (("head", 0), ("learner", 1), ("engine", 2)):
                cluster.begin(name, cpus)
            yield cluster
        finally:
            cluster.close()


def assert_no_part_has_imported_scikit_learn():
    """Where transformers is imported first, it does at once: see `rollout.loading`."""
    found = {titled("ray::LearnerWorker"), titled("ray::RolloutActor"), engine_of()}
    assert not [pid for pid in found if "sklearn" in Path(f"/proc/{pid}/maps").read_text()]


def log_probabilities(path):
    """Of all tokens after those of an arbitrary text, under the model in this folder."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    with torch.no_grad():
        return model(torch.arange(3, 20)[None]).logits.log_softmax(-1)


def assert_the_policy_has_changed(run_dir):
    """Had engines kept the adapters that they had, parity would have found this difference."""
    first, last = (log_probabilities(path) for path in (MODEL, run_dir / "policy"))
    assert (first - last).abs().max() > 0.05
    assert (run_dir / "policy" / "adapter" / "adapter_model.safetensors").exists()


def test_an_engine_joins_with_a_node_and_the_run_goes_on_without_one_that_is_killed(
    nodes, tmp_path
):
    run_dir, gate, out = tmp_path / "run", tmp_path / "gate", tmp_path / "out"
    (tmp_path / "gated.py").write_text(REWARD)
    with out.open("w") as told:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "launch.train", *SMALL, f"run_dir={run_dir}"),
                f"resources.address=127.0.0.1:{nodes.port}",
                *("resources.engine_cpus=2", "resources.learner_cpus=1"),
                *("resources.max_engines=2", f"loop.num_steps={STEPS}", "parity.self_test=false"),
                *ADAPTERS,
                *(f"reward={tmp_path / 'gated.py'}:score", f"reward.settings.gate={gate}"),
                "rollout.reward_timeout_seconds=300",
            ],
            cwd=PROJECT, env=nodes.environment, stdout=told, stderr=told,
        )  # fmt: skip

    def engines():
        return [line["rollout/engines"] for line in lines_of(run_dir)]

    def until(is_so):
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not is_so():
            assert process.poll() is None and time.monotonic() < deadline, out.read_text()
            time.sleep(0.05)

    try:
        until(lambda: len(engines()) >= 2)
        assert_no_part_has_imported_scikit_learn()
        # From here on rewards wait, and so does the next step, but for what others do meanwhile.
        gate.touch()
        nodes.begin("further", 2)
        until(lambda: "rollout actor 1 joins; 2 are in use" in out.read_text())
        gate.unlink()
        until(lambda: 2 in engines())
        gate.touch()
        nodes.kill("engine")
        until(lambda: "rollout actor 0 died" in out.read_text())
        gate.unlink()
        assert process.wait(PATIENCE_SECONDS) == 0, out.read_text()
    finally:
        process.kill()
    found = lines_of(run_dir)
    assert [line["step"] for line in found] == list(range(1, STEPS + 1))
    assert engines()[:2] == [1, 1] and 2 in engines() and engines()[-1] == 1
    assert found[-1]["cost/failed_tickets"] == 0
    assert found[-1]["rollout/replaced_actors"] == 0
    checked = [line for line in found if "parity/flops" in line]
    # Not the versions that an engine missed that died.
    assert len(checked) >= STEPS // 4
    assert max(line["parity/max_logprob_difference"] for line in checked) < 1e-4
    # To one engine or two.
    model_bytes = (MODEL / "model.safetensors").stat().st_size
    assert all(0 < line["publish/bytes"] < model_bytes / 5 for line in found)
    assert_the_policy_has_changed(run_dir)
