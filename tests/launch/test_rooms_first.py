"""A folder of the user's with the name of one of ours does not hide it."""

import os
import subprocess
import sys

import pytest

from launch import import_rooms_first
from tests.places import PROJECT


@pytest.mark.parametrize("package", [False, True])
def test_programs_start_beside_a_folder_named_conf(tmp_path, package):
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "tests").mkdir()
    if package:
        (tmp_path / "conf" / "__init__.py").touch()
        (tmp_path / "tests" / "__init__.py").touch()
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text(
        "# @package _global_\nruns: [seen]\n"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "launch.report",
            "--config-dir=conf",
            "+experiment=mine",
            "--cfg=job",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "seen" in done.stdout


def test_the_order_changes_only_where_a_name_is_taken(tmp_path):
    (tmp_path / "own").mkdir()
    path = [str(tmp_path), "/usr/lib", str(PROJECT)]
    import_rooms_first(PROJECT, path)
    assert path[0] == str(tmp_path)
    (tmp_path / "cost").mkdir()
    import_rooms_first(PROJECT, path)
    assert path[:2] == [str(PROJECT), str(tmp_path)]
