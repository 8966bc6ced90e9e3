"""What an engine's processes say when they fail, which vLLM does not tell whoever asks the engine.

vLLM's exceptions send their reader further up for the cause. It is in what the engine's processes
logged, which Ray keeps in a file.
"""

import os
import re
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager

_LINE = re.compile(
    r"^(?:\x1b\[[\d;]*m)?\((?P<who>[^()]*\bpid=(?P<pid>\d+))\)(?:\x1b\[[\d;]*m)?"
    r" ERROR \S+ \S+ \[[^\]]*\] ?(?P<text>.*?)\r?$",
    re.MULTILINE,
)
"""An error in vLLM's log, with the process that it comes from."""
_KILLED = re.compile(r"Failed core proc\(s\): \{.*?: -(\d+)")
"""What vLLM says where a signal ended a process, which logged nothing of it."""
_MOST_BYTES = 1 << 22
"""Of the log that are read."""
_LONGEST = 300
"""Characters of a cause."""


class EngineStartError(RuntimeError):
    """An engine did not start; the message has the traceback of its process."""


class EngineDiedError(RuntimeError):
    """An engine died; the message says of what, as far as it is known."""


class EngineLog:
    """What the processes of an engine log from now on.

    Args:
        stdout: The file descriptor that they log to. What is no file, such as a terminal, is seen
            by whoever looks at it, and not read here.
    """

    def __init__(self, stdout: int = 1) -> None:
        status = os.fstat(stdout)
        self._begin = status.st_size if stat.S_ISREG(status.st_mode) else None
        self._stdout = stdout
        self._found = ""

    def first_error(self) -> str:
        """Return what the first process that failed said of it; "" if none did."""
        if self._begin is None or self._found:
            return self._found
        # By its name, for the descriptor is one for writing.
        with open(f"/proc/self/fd/{self._stdout}", "rb") as log:
            log.seek(self._begin)
            text = log.read(_MOST_BYTES).decode(errors="replace")
        self._found = first_error(text, os.getpid())
        return self._found

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Put what an engine's process raised in the place of an error that does not say it.

        Raises:
            EngineStartError: If the log has an error of another process, or a signal ended one.
        """
        try:
            yield
        except Exception as error:
            said = self.first_error() or _killed(str(error))
            if not said:
                raise
            # The other traceback leads to where vLLM waited for it.
            raise EngineStartError(f"an engine did not start: {said}") from None

    def death(self) -> EngineDiedError:
        """Return the error to raise where vLLM says that the engine is dead."""
        cause = exception_of(self.first_error())
        return EngineDiedError("its engine died" + (f" of {cause}" if cause else ""))


def first_error(log: str, own_pid: int) -> str:
    """Return what the first process that failed logged of it, "" if none did.

    Others follow because of it, and only say that somebody else failed.

    Args:
        log: As vLLM's processes write it.
        own_pid: Of the process that asks the engine, which vLLM logs for, too.
    """
    found = [line for line in _LINE.finditer(log) if int(line["pid"]) != own_pid]
    lines = [line["text"] for line in found if line["who"] == found[0]["who"]]
    return "\n".join([f"({found[0]['who']})", *lines]) if found else ""


def _killed(said: str) -> str:
    """Return by which signal an engine's process ended, "" if by none."""
    found = _KILLED.search(said)
    if found is None:
        return ""
    name = signal.Signals(int(found[1])).name
    memory = ", as happens when memory runs out" if name == "SIGKILL" else ""
    return f"its process was ended by {name}{memory}"


def exception_of(said: str) -> str:
    """Return the line of the last exception in a text with tracebacks, "" if there is none."""
    lines = said.splitlines()
    framed = [number for number, line in enumerate(lines) if line.startswith("  ")]
    after = lines[framed[-1] + 1 :] if framed else []
    return after[0][:_LONGEST] if after else ""
