"""A terminal that a process is started from and that can be closed."""

import fcntl
import os
import signal
import termios
from contextlib import suppress


class Terminal:
    """A pseudo-terminal; `options` has `Popen` start a process whose terminal it is."""

    def __init__(self):
        self._screen, self.file = os.openpty()

    def options(self):
        def take():
            fcntl.ioctl(self.file, termios.TIOCSCTTY, 0)
            # Whatever the tests were started with.
            signal.signal(signal.SIGHUP, signal.SIG_DFL)

        return {
            "stdin": self.file,
            "start_new_session": True,
            "preexec_fn": take,
            "pass_fds": [self.file],
        }

    def close(self):
        """Hang up: the kernel sends SIGHUP to the process that was started from here."""
        for file in (self.file, self._screen):
            with suppress(OSError):
                os.close(file)
