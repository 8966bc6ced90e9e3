"""What a machine lacks is found before an engine fails for it."""

import ctypes

import pytest

from launch.run.machine import lacking_for_engines


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
