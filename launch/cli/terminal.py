"""A terminal that closes while a program prints on it."""

from __future__ import annotations

import errno
import os
import termios


def leave_terminal() -> None:
    """Let all that goes to a closed terminal go nowhere, where each write would raise `OSError`."""
    for file in (1, 2):
        try:
            termios.tcgetattr(file)
        except termios.error as error:
            if error.args[0] == errno.EIO:
                drop(file)


def drop(file: int) -> None:
    """Let all that goes to a file descriptor go nowhere from here on."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, file)
    os.close(nowhere)
