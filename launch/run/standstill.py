"""Ends this process where a call neither returns nor lets any other thread of it run.

No deadline of Python's counts there, and no signal is heard: a thread and a process that need no
interpreter of this one have to see to it.
"""

import faulthandler
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_SAY = "import sys; sys.stdin.buffer.read() and print(sys.argv[1], file=sys.stderr, flush=True)"


@contextmanager
def ended_after(seconds: float, sentence: str) -> Iterator[None]:
    """Print a sentence and exit with status 1 where what happens inside takes longer than this.

    Args:
        seconds: Until then.
        sentence: What is printed to stderr. Whoever lists processes can read it.
    """
    command = [sys.executable, "-I", "-S", "-c", _SAY, sentence]
    # It hears of the end of a group, as `timeout` tells one, no sooner than this process.
    teller = subprocess.Popen(command, stdin=subprocess.PIPE, process_group=0)
    assert teller.stdin is not None
    # What it writes of the stacks tells the other that the time is up.
    faulthandler.dump_traceback_later(seconds, exit=True, file=teller.stdin)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        teller.stdin.close()
        teller.wait()
