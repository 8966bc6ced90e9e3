"""Every module here is a program; every folder is a room that programs call."""

import signal
import sys
from pathlib import Path

from launch.cli.signals import SIGNALS, refuse

ROOMS = ("conf", "cost", "launch", "learner", "rollout")
"""Packages of this project."""


def import_rooms_first(root: Path, path: list[str]) -> None:
    """Let this project's packages win over folders of the same names beside the user's code.

    `python -m` looks into the current folder first, where a folder `conf` is nothing unusual. What
    is started from here inherits the order.

    Args:
        root: The folder that holds the packages.
        path: `sys.path`, changed in place where a folder of such a name comes before `root`.
    """
    before = path[: path.index(str(root))] if str(root) in path else path
    folders = [Path(entry) for entry in before if Path(entry).resolve() != root]
    if any((folder / room).is_dir() for folder in folders for room in ROOMS):
        path.insert(0, str(root))


import_rooms_first(Path(__file__).resolve().parents[1], sys.path)
# So begins `python -m`; what is imported by others has no signals of its own.
if sys.argv[:1] == ["-m"]:
    for each in SIGNALS:
        signal.signal(each, refuse)
