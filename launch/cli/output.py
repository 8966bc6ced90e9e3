"""Output that nobody can read: closed streams, terminals and pipes, and letters they lack."""

from __future__ import annotations

import errno
import io
import os
import sys
import termios


def open_streams() -> None:
    """Put what takes everything in the place of streams that the caller closed, as `>&-` does.

    Python has none then, and the next file that is opened would get what others write there. A
    letter that an open stdout cannot show is written as its number, as Python does on stderr.
    """
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            drop(number)
            setattr(sys, name, os.fdopen(number, "w"))
    # Where it is not strict the terminal takes any bytes.
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


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
    # It is the file itself where that was closed.
    if nowhere == file:
        os.set_inheritable(file, True)
    else:
        os.dup2(nowhere, file)
        os.close(nowhere)


def end_quietly() -> None:
    """Write what is left on stdout, and take no offence where nobody reads it any more."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # Python would write it once more when it ends.
        drop(sys.stdout.fileno())
