"""Calls a program with a command line, in this process."""

import contextlib
import io
import runpy
import sys
import warnings
from dataclasses import dataclass
from unittest import mock


@dataclass(frozen=True)
class Done:
    """How a program ended."""

    status: int | str | None
    out: str
    err: str


def call(module: str, *arguments: str) -> Done:
    """Run `python -m MODULE ARGUMENTS`, but in this process."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", [module, *arguments]),
        mock.patch.dict("os.environ"),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        warnings.catch_warnings(),
    ):
        # Another test may have imported it.
        warnings.simplefilter("ignore", RuntimeWarning)
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as ended:
            return Done(ended.code, out.getvalue(), err.getvalue())
    raise AssertionError(f"{module} must exit")
