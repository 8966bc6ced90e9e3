"""Signals that ask a program to end, where no event loop listens (`launch.run.interruption`).

imports, command line      -> one sentence, and the process ends: there is nothing to put in order
what a program calls       -> `Interrupted` is raised
the way out of a cluster   -> nothing: the program ends already
a second one, wherever     -> the process ends at once; SIGHUP does nothing

SIGHUP says that the terminal is gone. It comes more than once, from the kernel and from the shell,
and is none of these signals where it was ignored from the start, as `nohup` has it.

Imports nothing heavy: `launch` itself begins with it.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from launch.cli.output import leave_terminal

SIGNALS = (
    signal.SIGINT,
    signal.SIGTERM,
    *([] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]),
)
Handler = Callable[[int, FrameType | None], object]


class Interrupted(KeyboardInterrupt):
    """Asks what goes on in the main thread to end in order."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.signal = signal.Signals(number)


def end(number: int, frame: FrameType | None = None) -> None:
    """End the process at once, with the status that shells have for a signal."""
    os._exit(128 + number)


def refuse(number: int, frame: FrameType | None = None) -> None:
    """End the process at once, with a sentence."""
    name = signal.Signals(number).name
    leave_terminal()
    # `print` may be what the signal came into.
    os.write(2, f"error: stopped by {name} while the program was starting\n".encode())
    end(number)


def let_next_end() -> None:
    """Let the next signal end the process, but for a SIGHUP, which comes again by itself."""
    leave_terminal()
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN if each is signal.SIGHUP else end)


def interrupt(number: int, frame: FrameType | None = None) -> None:
    """Raise `Interrupted`, and let the next signal end the process.

    Raises:
        Interrupted: Always.
    """
    let_next_end()
    raise Interrupted(number)


def ignore(number: int, frame: FrameType | None = None) -> None:
    """Do nothing, and let the next signal end the process."""
    let_next_end()


@contextmanager
def hangups_held() -> Iterator[None]:
    """Keep SIGHUP from what is started within a block, for good, and from this process until then.

    A terminal that closes sends it to all that was started from it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def handled(by: Handler, *, instead: Handler | None = None) -> Iterator[None]:
    """Have signals handled in a way within a block, and as before behind it if none came.

    Only the main thread hears signals; in others nothing changes.

    Args:
        by: One of the above.
        instead: Where signals are handled in another way than this one, that stays; None for any.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {each: signal.getsignal(each) for each in SIGNALS}
    taken = [each for each in SIGNALS if instead is None or before[each] is instead]
    for each in taken:
        signal.signal(each, by)
    try:
        yield
    finally:
        for each in taken:
            if signal.getsignal(each) is by:
                signal.signal(each, before[each])
