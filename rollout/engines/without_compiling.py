"""Imported before vLLM, this turns `torch.compile` off in a process, and keeps its compiler out.

An engine that is to run eagerly still compiles a line of its sampler on CPUs, for 2 to 4 seconds.
And although nothing is compiled then, vLLM imports the whole of Inductor, a fifth of what it takes
to import (`python -X importtime`): to patch it, which it leaves where Inductor is not to be had,
and for each function that `torch.compile` decorates.
"""

import os
import sys
from collections.abc import Callable
from typing import Any

os.environ["TORCH_COMPILE_DISABLE"] = "1"

import torch


def _as_it_is(model: Callable[..., Any] | None = None, **_: Any) -> Any:
    """Stand for `torch.compile`, which returns a decorator where it is given no function."""
    return (lambda function: function) if model is None else model


untyped: Any = torch
untyped.compile = _as_it_is
modules: dict[str, Any] = sys.modules
modules.setdefault("torch._inductor.lowering", None)
