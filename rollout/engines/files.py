"""Where an engine keeps its sockets and temporary files: in one folder, which goes with it.

vLLM and the standard library's multiprocessing give them names among everybody's temporary files,
and leave them there when their process is killed. Whose process holds no lock any more is removed
by the next engine on the machine.
"""

from __future__ import annotations

import fcntl
import getpass
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from multiprocessing import util
from pathlib import Path
from typing import Any

LONGEST = 107 - len("/engine-4194304-abcdefgh" + "/01234567-89ab-cdef-0123-456789abcdef")
"""Characters of a folder within which the name of a socket still has room."""
_HELD = "held"
"""The file that a process locks in the folder of its engine."""


def _place() -> Path:
    own = tempfile.gettempdir()
    return Path(own if len(os.fsencode(own)) <= LONGEST else "/tmp")


@cache
def folder() -> str:
    """Return the folder of this process's engine; made when it is first asked for."""
    for left in _place().glob(f"engine-*/{_HELD}"):
        _remove_unheld(left)
    raylet = os.environ.get("RAY_RAYLET_PID", "0")
    while True:
        path = Path(tempfile.mkdtemp(prefix=f"engine-{raylet}-", dir=_place()))
        # Open, and thereby locked, for as long as this process lives.
        held = os.open(path / _HELD, os.O_CREAT | os.O_RDWR, 0o600)
        with suppress(OSError):
            # Fails where the file system knows no locks: nobody else gets one there either.
            fcntl.flock(held, fcntl.LOCK_EX)
        if path.exists():
            return str(path)
        # Somebody had the lock before this process, and took the folder for an abandoned one.
        os.close(held)


def _remove_unheld(lock: Path) -> None:
    """Remove the folder of a lock that no process holds."""
    with suppress(OSError):
        tried = os.open(lock, os.O_RDWR)
        try:
            fcntl.flock(tried, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent, ignore_errors=True)
        finally:
            os.close(tried)


@contextmanager
def in_folder() -> Iterator[None]:
    """Have what is made meanwhile, and by processes that begin meanwhile, in that folder."""
    place, before = folder(), os.environ.get("TMPDIR")
    # What is compiled serves the next engine, too.
    cached = f"{tempfile.gettempdir()}/torchinductor_{_user()}"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", cached)
    own, tempfile.tempdir = tempfile.tempdir, place
    os.environ["TMPDIR"] = place
    try:
        yield
    finally:
        tempfile.tempdir = own
        if before is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = before


def _user() -> str:
    """Return the user's name; one whom the list of users lacks, as in many containers, gets one."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # vLLM asks Python too, which looks here first.
        os.environ["LOGNAME"] = f"uid_{os.getuid()}"
        return os.environ["LOGNAME"]


def remove() -> None:
    """Remove the folder of this process's engine."""
    shutil.rmtree(folder(), ignore_errors=True)
    # What multiprocessing has in it would be removed again at the process's end, where a folder
    # that is gone is a traceback.
    untyped: Any = util
    for finalizer in list(untyped._finalizer_registry.values()):
        if finalizer._callback is untyped._remove_temp_dir and folder() in finalizer._args[-1]:
            finalizer.cancel()
            untyped.process.current_process()._config["tempdir"] = None


def remove_left(raylet: int) -> None:
    """Remove the folders of engines that were killed, in a cluster that has ended.

    Args:
        raylet: Process id of its raylet, whose actors they were.
    """
    for path in _place().glob(f"engine-{raylet}-*"):
        shutil.rmtree(path, ignore_errors=True)
