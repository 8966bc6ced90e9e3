"""An engine's process begins with vLLM imported.

    actor ---- begin() ----> server: imports vLLM, one thread ---+
      |                                                          | fork
      +---- imports vLLM itself, builds `AsyncLLM` ----> engine process

vLLM spawns its process, which then imports for as long as the actor did just before. The server of
the standard library's `multiprocessing` imports beside the actor instead, and its forks start with
that done. Forking the actor itself is no way: threads of Ray run in it.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess
from threading import Thread
from typing import Any

from rollout.processes import die_with

IMPORTED = (
    "ray",
    "vllm.v1.engine.core",
    "vllm.v1.executor.uniproc_executor",
    "vllm.v1.worker.cpu_worker",
)
"""What the server imports after what prepares it; none of them starts a thread."""


class EngineProcess(ForkServerProcess):
    """A process with the environment of who started it, as a spawned one has: not the server's."""

    def start(self) -> None:
        """See `multiprocessing.Process`."""
        self._environment = dict(os.environ)
        super().start()

    def run(self) -> None:
        """See `multiprocessing.Process`."""
        os.environ.clear()
        os.environ.update(self._environment)
        gc.enable()
        # vLLM gives an engine up whose server is gone, and nobody would end its process.
        die_with(os.getppid())
        Thread(target=_end_with_parent, daemon=True).start()
        super().run()


def _end_with_parent() -> None:
    """Kill this process when who started it is dead: the server outlives it as long as we do."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGKILL)


class EngineContext(ForkServerContext):
    """Where vLLM gets its process from."""

    Process = EngineProcess


def begin(*, compiling: bool) -> None:
    """Start the server of this process, and return while it imports.

    What libraries read from the environment when they are imported must be in it. Where there is
    one already, it stays.

    Args:
        compiling: Whether the engine may compile anything.
    """
    first = [] if compiling else ["rollout.engines.without_compiling"]
    multiprocessing.set_forkserver_preload(["rollout.engines.preload", *first, *IMPORTED])
    forkserver.ensure_running()


@contextmanager
def used_by_vllm() -> Iterator[None]:
    """Let vLLM fork the engine's process off the server while this holds."""
    from vllm.v1.engine import utils as untyped

    utils: Any = untyped
    own, utils.get_mp_context = utils.get_mp_context, EngineContext
    try:
        yield
    finally:
        utils.get_mp_context = own
