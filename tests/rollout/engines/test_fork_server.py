"""Processes that begin with what a server has imported."""

import os
import signal
import subprocess
import sys
import time

import pytest

from rollout.processes import look
from tests.places import PROJECT

ENVIRONMENT = {"PYTHONPATH": str(PROJECT), "PATH": "/usr/bin:/bin"}

PROGRAM = """
import gc, os, sys
from rollout.engines import fork_server

def told():
    imported = "colorsys" in sys.modules
    print(os.environ.get("LATER"), "EARLIER" in os.environ, imported, gc.isenabled(), flush=True)

if __name__ == "__main__":
    fork_server.IMPORTED = ("colorsys",)
    os.environ["EARLIER"] = "1"
    fork_server.begin(compiling=False)
    del os.environ["EARLIER"]
    os.environ["LATER"] = "2"
    process = fork_server.EngineContext().Process(target=told)
    process.start()
    process.join(60)
    print(process.exitcode, "colorsys" in sys.modules)
"""


def test_a_process_has_the_servers_imports_and_its_starters_environment(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, timeout=60,
        env=ENVIRONMENT,
    )  # fmt: skip
    assert done.stderr == ""
    # Who started it imported nothing of it; garbage is looked for again.
    assert done.stdout.split() == ["2", "False", "True", "True", "0", "False"]


TITLED = """
import os, sys
from pathlib import Path
from setproctitle import setproctitle
from rollout.engines import fork_server

def called():
    setproctitle("VLLM::EngineCore")
    print(Path("/proc/self/cmdline").read_text().strip("\\0"), os.environ["FIRST"], flush=True)

if __name__ == "__main__":
    fork_server.IMPORTED = ("changes_a_variable",)
    fork_server.begin(compiling=False)
    process = fork_server.EngineContext().Process(target=called)
    process.start()
    process.join(60)
"""


def test_a_process_has_its_title_whatever_the_servers_imports_do_to_the_first_variable(tmp_path):
    (tmp_path / "program.py").write_text(TITLED)
    (tmp_path / "changes_a_variable.py").write_text("import os\nos.environ['FIRST'] = 'changed'\n")
    done = subprocess.run(
        [sys.executable, str(tmp_path / "program.py")], capture_output=True, text=True, timeout=60,
        env={"FIRST": "as it was"} | ENVIRONMENT | {"PYTHONPATH": f"{PROJECT}:{tmp_path}"},
    )  # fmt: skip
    assert done.stdout == "VLLM::EngineCore as it was\n"


EAGER = """
import sys
import rollout.engines.preload
import rollout.engines.without_compiling
import vllm.v1.worker.cpu_worker
import torch

def double(x):
    return 2 * x

print(torch.compile(double) is double, torch.compile(dynamic=True)(double) is double)
left_out = ("torch._inductor.lowering", "torch._inductor.compile_fx", "scipy", "sklearn")
print([name for name in left_out if sys.modules.get(name)])
"""


def test_an_engine_that_compiles_nothing_imports_no_compiler():
    done = subprocess.run(
        [sys.executable, "-c", EAGER], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-2:] == ["True True", "[]"]


KILLED = """
import os, signal, sys, time
from multiprocessing import forkserver
from rollout.engines import fork_server

def stand_still():
    time.sleep(600)

if __name__ == "__main__":
    fork_server.IMPORTED = ("colorsys",)
    fork_server.begin(compiling=False)
    process = fork_server.EngineContext().Process(target=stand_still)
    process.start()
    server = forkserver._forkserver._forkserver_pid
    print(process.pid, server, flush=True)
    time.sleep(0.5)
    os.kill({"starter": os.getpid(), "server": server}[sys.argv[1]], signal.SIGKILL)
    process.join(30)
"""


@pytest.mark.parametrize("killed", ["starter", "server"])
def test_neither_process_nor_server_outlives_the_other_or_who_started_them(killed, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(KILLED)
    with subprocess.Popen(
        [sys.executable, str(program), killed], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as starter:
        pids = [int(pid) for pid in starter.stdout.readline().split()]
    deadline = time.monotonic() + 30
    while (left := [pid for pid in pids if look(pid)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert len(pids) == 2 and not left
