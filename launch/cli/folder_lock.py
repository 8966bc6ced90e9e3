"""A lock on a folder, held by a process as long as it lives."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

_locked: dict[tuple[int, int], int] = {}
"""By device and inode, the descriptors that hold the locks of this process."""


def lock_folder(folder: Path) -> bool | None:
    """Lock a folder for this process, until it ends in whatever way.

    Args:
        folder: There already.

    Returns:
        Whether it is ours now; None where its file system cannot say.

    Raises:
        OSError: If it cannot be opened.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    found = os.fstat(descriptor)
    place = (found.st_dev, found.st_ino)
    ours: bool | None = True
    if place not in _locked:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _locked[place] = descriptor
            return True
        except BlockingIOError:
            ours = False
        except OSError:
            # Some network file systems have no locks of folders.
            ours = None
    os.close(descriptor)
    return ours
