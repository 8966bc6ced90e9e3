"""What a machine lacks is found before an engine fails for it."""

import ctypes
import math
import os

import pytest

from launch.run.machine import lacking_for_engines, memory_bytes


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """A machine with Python, but without its headers, a compiler and libnuma."""

    def missing(name):
        raise OSError(f"{name}: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"include": str(tmp_path)})


def test_a_machine_that_runs_the_tests_lacks_nothing():
    assert lacking_for_engines(compiling=True) == []


def test_an_engine_that_compiles_nothing_needs_a_library(bare):
    [said] = lacking_for_engines(compiling=False)
    assert said.startswith("the library libnuma.so.1 (package libnuma1 ")


def test_one_that_compiles_needs_compiler_and_headers_too(bare, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "clang++")
    _, compiler, headers = lacking_for_engines(compiling=True)
    assert compiler.startswith("the C++ compiler clang++ (install g++, or set rollout.engine.")
    assert headers.startswith(f"Python's headers in {tmp_path} (package python3.")
    assert headers.endswith("or set rollout.engine.enforce_eager=true)")


@pytest.mark.parametrize(
    ("told", "limits", "expected"),
    [
        ("0::/\n", {"memory.max": "300\n"}, 300),
        ("0::/job/step\n", {"job/memory.max": "200", "job/step/memory.max": "max\n"}, 200),
        ("4:cpu,memory:/job\n0::/\n", {"memory/job/memory.limit_in_bytes": "100\n"}, 100),
        ("4:memory:/docker/1\n", {"memory/memory.limit_in_bytes": "400\n"}, 400),
        ("3:cpuset:/job\n0::/\n", {"job/memory.max": "1"}, math.inf),
        (None, {}, math.inf),
    ],
)
def test_the_memory_is_what_the_control_groups_leave(tmp_path, told, limits, expected):
    if told is not None:
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(told)
    for path, limit in limits.items():
        file = tmp_path / "sys/fs/cgroup" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(limit)
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert memory_bytes(tmp_path) == min(machine, expected)
