"""Where an error was raised, in code that is nobody's package."""

import sysconfig
import traceback
from types import TracebackType


def own_frames(trace: TracebackType | None, *without: str) -> list[traceback.FrameSummary]:
    """Return the frames of a traceback that are no installed package's, the innermost last.

    Args:
        trace: Of the error; None has none.
        without: Folders whose files do not count either.
    """
    installed = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib"))
    return [
        frame
        for frame in traceback.extract_tb(trace)
        if not frame.filename.startswith(("<frozen", *installed, *without))
    ]
