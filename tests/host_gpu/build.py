"""Compiles the device, once for each torch and each text of it."""

import hashlib
import os
import subprocess
from pathlib import Path

import torch
from torch.utils.cpp_extension import include_paths, library_paths

from tests.places import PROJECT

SOURCE = Path(__file__).with_name("device.cpp")


def library() -> Path:
    """Return the compiled device's file."""
    key = hashlib.sha256(SOURCE.read_bytes() + torch.__version__.encode()).hexdigest()[:16]
    built = PROJECT / "build" / f"host_gpu_{key}.so"
    if not built.exists():
        built.parent.mkdir(exist_ok=True)
        # Whoever else builds it meanwhile has another file.
        own = built.with_suffix(f".{os.getpid()}")
        abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"
        options = ["-std=c++20", "-O1", "-shared", "-fPIC", abi]
        paths = [f"-isystem{path}" for path in include_paths()]
        paths += [f"-L{path}" for path in library_paths()]
        command = ["g++", *options, *paths, str(SOURCE), "-o", str(own), "-ltorch_cpu", "-lc10"]
        subprocess.run(command, check=True, timeout=300)
        own.rename(built)
    return built
