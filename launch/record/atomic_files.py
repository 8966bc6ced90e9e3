"""Files that a reader finds whole at any moment, however full or broken the disk is.

content of a file -> write_atomically -> the old one or the new one
lines, one by one -> AtomicLines  -> all of a line or nothing of it
"""

import io
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


def write_atomically(path: Path, parts: Iterable[bytes]) -> int:
    """Put new content in the place of a file's old one, and return its size, bytes.

    Whoever reads meanwhile, or after a crash, finds the old content or the new one. Where it cannot
    be written the old one stays, and nothing beside it.

    Args:
        path: The file, which need not exist.
        parts: The content, which may be more than fits into memory.

    Raises:
        OSError: If it cannot be written; names the file.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            size = sum(map(file.write, parts))
            file.flush()
            # Without it a machine that loses power may keep the new name and no content.
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink()
        if isinstance(error, OSError):
            raise _of(path, error) from error
        raise
    return size


def remove_leftovers(path: Path) -> None:
    """Remove what writers of a file that were killed left beside it; nobody may write it now."""
    for partial in path.parent.glob(f".{path.name}.*"):
        if partial.name.rpartition(".")[2].isdigit():
            partial.unlink(missing_ok=True)


def to_disk(path: Path) -> None:
    """Have what the system holds of a file or folder on the disk when this returns."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class AtomicLines:
    """Appends to a file; what was appended is with the system when `append` returns.

    After a failure the file is opened anew by the next call, which may be for the same lines.

    Args:
        path: The file.

    Raises:
        OSError: If it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: io.FileIO | None = None
        with path.open("ab") as file:
            self.size = file.tell()
            """Bytes of what was appended whole."""

    def append(self, content: bytes) -> int:
        """Add lines, all of them or none, and return the byte at which they begin.

        Raises:
            OSError: If they cannot be written; names the file.
        """
        start = self.size
        try:
            file = self._opened()
            rest = memoryview(content)
            while rest:
                # A disk that fills up takes a part, and refuses only then.
                rest = rest[file.write(rest) :]
        except OSError as error:
            self.close()
            with suppress(OSError):
                self._cut()
            raise _of(self._path, error) from error
        self.size += len(content)
        return start

    def truncate(self, size: int) -> None:
        """Take off the end, down to so many bytes."""
        try:
            self._opened().truncate(size)
        except OSError as error:
            self.close()
            raise _of(self._path, error) from error
        self.size = size

    def replace(self, parts: Iterable[bytes]) -> None:
        """Put other lines in the place of all, as `write_atomically` does."""
        self.size = write_atomically(self._path, parts)
        self.close()

    def close(self) -> None:
        """Let go of the file; whatever is appended later opens it again."""
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):
                file.close()

    def _opened(self) -> io.FileIO:
        if self._file is None:
            self._cut()
            self._file = io.FileIO(self._path, "ab")
        return self._file

    def _cut(self) -> None:
        """Take off what an append left that failed in the middle."""
        if self._path.exists() and self._path.stat().st_size > self.size:
            os.truncate(self._path, self.size)


def _of(path: Path, error: OSError) -> OSError:
    """Return the error with the file's name, which one on an open file lacks."""
    return OSError(error.errno, error.strerror or str(error), str(path))
