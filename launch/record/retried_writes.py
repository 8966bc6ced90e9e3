"""Writes that a disk refuses for a while: kept in their order, tried again, bounded."""

from collections import deque
from collections.abc import Callable

MOST_BYTES = 2**25
"""Of one file that are kept in memory."""


class RetriedWrites:
    """Hands writes on in their order; one that fails is tried again before the next.

    Beyond the bound the oldest are dropped and counted.

    Args:
        most_bytes: What may be kept, beside the newest write.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._waiting: deque[tuple[int, Callable[[], object]]] = deque()
        self._bytes = 0
        self.num_dropped = 0
        """Writes that will never be made."""

    @property
    def num_waiting(self) -> int:
        """Writes that are still to be made."""
        return len(self._waiting)

    def put(self, num_bytes: int, write: Callable[[], object]) -> None:
        """Make a write after those that wait.

        Args:
            num_bytes: What keeping it takes.
            write: Raises OSError if it fails, and may then be called again.

        Raises:
            OSError: If it, or one before it, failed; it is kept.
        """
        self._waiting.append((num_bytes, write))
        self._bytes += num_bytes
        self.flush()

    def flush(self) -> None:
        """Make all writes that wait.

        Raises:
            OSError: If one failed; it and those after it are kept.
        """
        while self._waiting:
            num_bytes, write = self._waiting[0]
            try:
                write()
            except OSError:
                self._drop()
                raise
            self._bytes -= num_bytes
            self._waiting.popleft()

    def _drop(self) -> None:
        while self._bytes > self._most_bytes and len(self._waiting) > 1:
            self._bytes -= self._waiting.popleft()[0]
            self.num_dropped += 1
