"""What a Python lacks of the project."""

import subprocess
import sys

from launch.jobs.check import lacking
from tests.places import PROJECT


def test_a_python_that_lacks_something_is_found_out():
    project = (PROJECT / "pyproject.toml").read_text()
    assert lacking(project) == []
    asked = (
        '[project]\ndependencies = ["no-such-package==1", "ray[default]==0.1", "numpy>=2,<3"]\n'
        '[project.entry-points."vllm.general_plugins"]\ncost_aware_rl = "a:b"\nnone = "a:b"\n'
    )
    found = lacking(asked)
    assert found[0] == "no-such-package==1"
    assert found[1].startswith("ray[default]==0.1 (has ")
    assert found[2:] == ["entry point vllm.general_plugins:none"]


def test_the_check_says_what_a_bare_python_lacks():
    """It runs where nothing is installed: no site-packages at all."""
    done = subprocess.run(
        [sys.executable, "-S", "-m", "launch.jobs.check"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "lacks deepspeed==" in done.stderr
    assert len(done.stderr.splitlines()) == 1
