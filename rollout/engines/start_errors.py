"""Why an engine did not start, where only one of its processes knows.

vLLM tells whoever builds an engine to look further up for the cause. It is in what the engine's
processes logged, which Ray keeps in a file, and not in the exception.
"""

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager

_LINE = re.compile(
    r"^(?:\x1b\[[\d;]*m)?\((?P<who>[^()]*\bpid=\d+)\)(?:\x1b\[[\d;]*m)? ERROR \S+ \S+ \[[^\]]*\] ?"
    r"(?P<text>.*?)\r?$",
    re.MULTILINE,
)
"""An error in vLLM's log, with the process that it comes from."""
_MOST_BYTES = 1 << 22
"""Of the log that are read."""


class EngineStartError(RuntimeError):
    """An engine did not start; the message has what its process raised."""


@contextmanager
def explained(stdout: int = 1) -> Iterator[None]:
    """Put what an engine's process raised in the place of an error that does not say it.

    Args:
        stdout: The file descriptor that all processes of the engine log to. What is no file, such
            as a terminal, was seen by whoever looks at it.

    Raises:
        EngineStartError: If the log has an error of another process.
    """
    begin = _size(stdout)
    try:
        yield
    except Exception:
        said = first_error(_read(stdout, begin))
        if not said:
            raise
        # The other traceback leads to where vLLM waited for it.
        raise EngineStartError(f"an engine did not start: {said}") from None


def first_error(log: str) -> str:
    """Return what the first process that failed logged of it, "" if none did.

    Others follow because of it, and only say that somebody else failed.
    """
    found = list(_LINE.finditer(log))
    lines = [line["text"] for line in found if line["who"] == found[0]["who"]]
    return "\n".join([f"({found[0]['who']})", *lines]) if found else ""


def _size(stdout: int) -> int:
    status = os.fstat(stdout)
    return status.st_size if stat.S_ISREG(status.st_mode) else -1


def _read(stdout: int, begin: int) -> str:
    if begin < 0:
        return ""
    # By its name, for the descriptor is one for writing.
    with open(f"/proc/self/fd/{stdout}", "rb") as log:
        log.seek(begin)
        return log.read(_MOST_BYTES).decode(errors="replace")
