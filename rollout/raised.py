"""What an error of somebody's own code says, and where it was raised."""

import sysconfig
import traceback
from pathlib import Path
from types import TracebackType

PACKAGE = str(Path(__file__).resolve().parent)
"""Folder of `rollout`."""


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


def told(error: Exception, *without: str) -> str:
    """Return an error in one line, such as "raised KeyError: 'x' (/home/me/own.py:12)".

    Args:
        error: As it was caught.
        without: See `own_frames`; without a frame there is no place.
    """
    said = f"raised {type(error).__name__}: {' '.join(str(error).split())}"
    frames = own_frames(error.__traceback__, *without)
    return f"{said} ({frames[-1].filename}:{frames[-1].lineno})" if frames else said
