"""Which processes a check starts, and what it makes of their ends; on a GPU the check itself."""

import json
import os
import signal
import sys
from dataclasses import replace
from importlib.metadata import version

import pytest
import torch

from conf.gpu_check import PARTS, GpuCheckConfig
from launch.cli.command_line import with_words
from launch.cli.signals import SIGNALS
from launch.program import build
from launch.run.interruption import StoppedError
from launch.study.gpu_check import check
from launch.study.gpu_check.check import run_check, stopping, tried, verdict_of
from launch.study.gpu_check.evidence import machine
from launch.study.gpu_check.gpu import Gpu, one_gpu, parsed
from launch.study.gpu_check.parts import Part, fault_of, figures_of, parts_of
from tests.composing import composed
from tests.launch.programs import call


def python(text, summary=None, seconds=30.0):
    return Part("kernels", (sys.executable, "-c", text), seconds, summary)


def try_on_cpu(part, folder, left=60.0):
    return tried(part, left, folder, on_gpu=False)


@pytest.mark.parametrize("device", ["gpu", "cpu"])
def test_every_part_is_a_configuration_of_its_program(device, tmp_path):
    parts = parts_of(GpuCheckConfig(device=device, model=str(tmp_path)), tmp_path)
    first = ("torch",) if device == "gpu" else ()
    assert tuple(part.name for part in parts) == (*first, *PARTS)
    for part in parts[len(first) :]:
        program = part.command[2].removeprefix("launch.")
        arguments = part.command[3:]
        if program == "bench":
            arguments = with_words(arguments, "benches")
        config = build(composed(program, *arguments))
        assert config.model.dtype == "bfloat16"
        assert config.resources.use_gpu is (device == "gpu")
        assert config.rollout.engine.enforce_eager is (device == "cpu")
        assert (config.model.path == str(tmp_path)) is (part.name in
            ("kernels", "model_system", "model_learner"))  # fmt: skip


def test_without_a_second_model_its_parts_are_left_out(tmp_path):
    names = [part.name for part in parts_of(GpuCheckConfig(), tmp_path)]
    assert names == ["torch", "kernels", "system", "learner", "quickstart", "sleep"]
    few = GpuCheckConfig(parts=["learner", "model_system"], model="m")
    assert [part.name for part in parts_of(few, tmp_path)] == ["torch", "learner", "model_system"]


def test_what_a_part_prints_or_writes_is_found(tmp_path):
    found = {"kernels": {"attention": {"agrees": True}}, "publish": {"bytes": 8}}
    printed = try_on_cpu(python(f"print({json.dumps(json.dumps(found))})"), tmp_path)
    assert (printed["status"], printed["findings"]) == ("passed", found)
    assert printed["figures"] == {"publish_bytes": 8}
    (tmp_path / "summary.json").write_text('{"completed": true, "num_steps": 2}')
    written = try_on_cpu(python("print(1)", tmp_path / "summary.json"), tmp_path)
    assert written["figures"] == {"num_steps": 2}


def test_a_part_that_fails_leaves_the_end_of_what_it_said(tmp_path):
    told = try_on_cpu(python("import sys; sys.exit('x' * 9000 + ' no such device')"), tmp_path)
    assert told["status"] == "failed"
    assert told["error"].startswith("exit status 1: xxx")
    assert told["error"].endswith("no such device")
    assert len(told["error"]) < 5000
    nothing = try_on_cpu(python("print('no JSON')"), tmp_path)
    assert nothing["error"].startswith("it left no findings")
    assert nothing["stdout"] == "no JSON"
    wrong = try_on_cpu(python("print('{\"completed\": false}')"), tmp_path)
    assert (wrong["status"], wrong["error"]) == ("failed", "completed is false")


def test_a_part_ends_at_its_deadline_even_if_it_will_not(tmp_path):
    stubborn = "import signal, time; signal.signal(2, signal.SIG_IGN); time.sleep(600)"
    told = try_on_cpu(python(stubborn, seconds=2.0), tmp_path)
    assert told["status"] == "failed"
    assert told["error"].startswith("it took more than 2 s")


def test_where_a_part_hangs_is_told(tmp_path):
    hangs = "from rollout.stack_traces import offer; import time; offer(); time.sleep(600)"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hangs!r}])"
    told = try_on_cpu(python(child, seconds=6.0), tmp_path)
    (where,) = told["stacks"]
    assert 'File "<string>", line 1 in <module>' in where


def test_what_actors_logged_last_is_told(tmp_path, monkeypatch):
    logs = tmp_path / "ray" / "session_1" / "logs"
    logs.mkdir(parents=True)
    (tmp_path / "ray" / "session_latest").symlink_to("session_1")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    write = "from pathlib import Path; Path({0!r}).write_text('{1} no room'); raise SystemExit(1)"
    text = write.format(str(logs / "worker-1.err"), "x" * 5000)
    (logs / "worker-0.out").write_text("of a part before")
    os.utime(logs / "worker-0.out", (1, 1))
    (logs / "worker-2.out").write_text(":job_id:01000000\n")
    os.utime(logs / "worker-2.out", (9e9, 9e9))
    (found,) = try_on_cpu(python(text), tmp_path)["logs"].items()
    assert found[0] == "worker-1.err"
    assert found[1].endswith("x no room")
    assert len(found[1]) == 4000


def test_the_machine_is_described_without_secrets(monkeypatch):
    monkeypatch.setenv("NCCL_DEBUG", "INFO")
    monkeypatch.setenv("VLLM_API_KEY", "hidden")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "hidden")
    found = machine()
    assert found["variables"]["NCCL_DEBUG"] == "INFO"
    assert "hidden" not in json.dumps(found)
    # torch itself names the build, its package from an index does not.
    assert f"torch=={version('torch')}" in found["packages"]


@pytest.mark.parametrize(("visible", "seen"), [(None, "0"), ("2,3", "2")])
def test_a_part_sees_one_gpu(tmp_path, monkeypatch, visible, seen):
    monkeypatch.setattr(check, "one_gpu", lambda: None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    asked = "import json, os; print(json.dumps({'kernels': os.environ['CUDA_VISIBLE_DEVICES']}))"
    assert tried(python(asked), 60.0, tmp_path, on_gpu=True)["findings"] == {"kernels": seen}


def test_a_part_without_time_is_not_begun(tmp_path):
    told = try_on_cpu(python("raise SystemExit(1)"), tmp_path, left=1.0)
    assert told["status"] == "not begun"
    assert "seconds" in told["error"]


def test_a_check_that_is_stopped_keeps_what_it_found(tmp_path, monkeypatch):
    stop = "import os, signal, time; os.kill(os.getppid(), signal.SIGTERM); time.sleep(60)"
    parts = [
        replace(python(text), name=name)
        for name, text in {"one": "print({})", "two": stop, "three": "print({})"}.items()
    ]
    monkeypatch.setattr(check, "parts_of", lambda config, folder: parts)
    kept, handlers = [], [signal.getsignal(number) for number in SIGNALS]
    with (
        pytest.raises(StoppedError, match=r"^stopped by SIGTERM here$") as stopped,
        stopping("here"),
    ):
        run_check(GpuCheckConfig(device="cpu"), print, lambda found: kept.append(json.dumps(found)))
    assert stopped.value.status == 128 + signal.SIGTERM
    assert handlers == [signal.getsignal(number) for number in SIGNALS]
    found = [json.loads(text) for text in kept]
    assert [[part["status"] for part in each["parts"].values()] for each in found] == [
        ["not begun"] * 3,
        ["passed", "not begun", "not begun"],
        ["passed", "failed", "not begun"],
    ]
    assert found[-1]["parts"]["two"]["error"] == "stopped by SIGTERM here"
    assert not any(each["passed"] for each in found)


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch finds a GPU")
def test_where_torch_finds_no_gpu_no_other_part_is_begun():
    found = run_check(GpuCheckConfig(parts=["kernels"]), print, lambda found: None)
    assert found["parts"]["torch"]["status"] == "failed"
    assert found["parts"]["kernels"]["error"].startswith("torch has no GPU")
    assert found["verdict"] == "1 failed: torch; 1 not begun: kernels"
    assert found["passed"] is False


@pytest.mark.parametrize(("used", "asked"), [([9, 9, 3], 3), ([9] * 99, None), ([], 1)])
def test_after_a_part_that_was_killed_its_memory_is_waited_for(monkeypatch, used, asked):
    left = [Gpu("A", "1", 80 * 2**30, gib * 2**30) for gib in used]
    num_left = len(left)
    monkeypatch.setattr(check, "one_gpu", lambda: left.pop(0) if left else None)
    monkeypatch.setattr(check, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(check, "FREE_SECONDS", 0.1 if asked is None else 60.0)
    check.wait_until_free(2 * 2**30)
    # It gives up where the memory stays in use.
    assert left if asked is None else num_left - len(left) == min(asked, num_left)


def test_the_verdict_wants_every_part():
    ends = {"kernels": "passed", "system": "failed", "learner": "failed", "quickstart": "not begun"}
    found = verdict_of({name: {"status": status} for name, status in ends.items()})
    assert found == {
        "passed": False,
        "verdict": "1 passed; 2 failed: system, learner; 1 not begun: quickstart",
    }
    assert verdict_of({"kernels": {"status": "passed"}})["passed"]


def test_findings_without_a_verdict_have_no_fault():
    assert (
        fault_of({"kernels": {"logprobs": {"agrees": False}}}) == "kernels.logprobs.agrees is false"
    )
    assert fault_of({"kernels": {}}) is None
    assert figures_of({}) == {}


def test_what_nvidia_smi_answers_is_read():
    line = "NVIDIA A100-SXM4-80GB, 580.65.06, 81920, 5\n"
    assert parsed(line) == Gpu("NVIDIA A100-SXM4-80GB", "580.65.06", 81920 * 2**20, 5 * 2**20)
    with pytest.raises(ValueError, match=r"not enough values|invalid literal"):
        parsed("No devices were found")


@pytest.mark.parametrize(
    ("visible", "asked"),
    [(None, "0"), ("2,3", "2"), ("GPU-8a1b", "GPU-8a1b"), ("MIG-8a1b", "0"), ("", None),
     ("-1", None)],
)  # fmt: skip
def test_the_first_gpu_to_be_seen_is_asked(tmp_path, monkeypatch, visible, asked):
    line = "NVIDIA GB10, 580.95, [N/A], [N/A]"
    script = f'#!/bin/bash\necho "$@" > {tmp_path}/asked.txt; echo "{line}"\n'
    (tmp_path / "nvidia-smi").write_text(script)
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    # Memory that it does not know is no reason not to begin.
    assert one_gpu() == (Gpu("NVIDIA GB10", "580.95", 0, 0) if asked else None)
    if asked:
        assert (tmp_path / "asked.txt").read_text().split()[-1] == f"--id={asked}"


@pytest.mark.skipif(torch.cuda.is_available(), reason="refused only without a GPU")
def test_without_a_gpu_nothing_is_started():
    done = call("launch.gpu_check")
    assert done.status == 2
    assert done.err.startswith("error: device must be cpu where nvidia-smi shows no GPU")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_the_check_passes_on_this_gpu():
    found = run_check(GpuCheckConfig(num_steps=3), print, lambda found: None)
    assert found["passed"], json.dumps(found["parts"], indent=1)
    figures = {name: part["figures"] for name, part in found["parts"].items()}
    assert "varlen" in figures["kernels"]["attention_seconds"]
    assert figures["system"]["publish_bytes"] > 0
    assert figures["quickstart"]["num_steps"] == 3
