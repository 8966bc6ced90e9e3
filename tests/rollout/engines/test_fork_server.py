"""Processes that begin with what a server has imported."""

import subprocess
import sys

from tests.places import PROJECT

PROGRAM = """
import gc, os, sys
from rollout.engines import fork_server

def told():
    imported = "colorsys" in sys.modules
    print(os.environ.get("LATER"), "EARLIER" in os.environ, imported, gc.isenabled(), flush=True)

if __name__ == "__main__":
    fork_server.IMPORTED = ("rollout.engines.first_import", "colorsys")
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
        env={"PYTHONPATH": str(PROJECT), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.stderr == ""
    # Who started it imported nothing of it; garbage is looked for again.
    assert done.stdout.split() == ["2", "False", "True", "True", "0", "False"]
