"""The GPU that ranks are tried on where there is none: it must not let pass what a GPU refuses."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.host_gpu.build import library
from tests.places import PROJECT


@pytest.mark.system
@pytest.mark.parametrize("name", ["refusals", "packing"])
def test_what_a_gpu_refuses_is_refused_and_a_learner_begins_there(name):
    done = subprocess.run(
        [sys.executable, "-m", "tests.host_gpu", str(Path(__file__).with_name(f"{name}.py"))],
        env=os.environ | {"HOST_GPU": str(library()), "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
