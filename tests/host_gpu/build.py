"""Compiles what stands in for a GPU and for NCCL, once for each torch and each text of it."""

import hashlib
import os
import subprocess
from pathlib import Path

import pytest
import torch
from torch.utils.cpp_extension import include_paths, library_paths

from tests.places import PROJECT


def library(name: str = "device") -> Path:
    """Return the file that `NAME.cpp` of this folder is compiled to.

    A test that needs it is skipped where torch is built for real GPUs: their place is taken there.
    """
    if torch.version.cuda or torch.version.hip:
        pytest.skip("torch is built for GPUs, so nothing can stand in for one")
    source = Path(__file__).with_name(f"{name}.cpp")
    key = hashlib.sha256(source.read_bytes() + torch.__version__.encode()).hexdigest()[:16]
    built = PROJECT / "build" / f"host_gpu_{name}_{key}.so"
    if not built.exists():
        built.parent.mkdir(exist_ok=True)
        # Whoever else builds it meanwhile has another file.
        own = built.with_suffix(f".{os.getpid()}")
        abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"
        options = ["-std=c++20", "-O1", "-shared", "-fPIC", abi]
        paths = [f"-isystem{path}" for path in include_paths()]
        paths += [f"-L{path}" for path in library_paths()]
        command = ["g++", *options, *paths, str(source), "-o", str(own), "-ltorch_cpu", "-lc10"]
        subprocess.run(command, check=True, timeout=300)
        own.rename(built)
    return built
