"""`task.preview=true`: what a task makes of its rows is shown in place of a run, of every task.

It is asked of the program and no setting of any task, which may be named by its file alone: so it
stands beside the task.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from omegaconf import DictConfig, open_dict

from launch.cli.refusals import UserError

KEY = "task.preview"
_BESIDE = "task_preview"


def with_preview(arguments: Sequence[str], program: str) -> list[str]:
    """Put `task.preview=true` beside the task, whichever that is.

    Example: with_preview(["task.preview=true"], "train") is ["++task_preview=true"].

    Args:
        arguments: The command line, or overrides alone.
        program: Whose they are; only a training shows one.

    Raises:
        UserError: If another program is asked for one.
    """
    beginning = re.compile(rf"\+*{re.escape(KEY)}(?==)")
    if program != "train":
        if asked := next((each for each in arguments if beginning.match(each)), ""):
            raise UserError(f"{KEY} must be left out here, only launch.train has it, got {asked!r}")
        return list(arguments)
    return [beginning.sub(f"++{_BESIDE}", each) for each in arguments]


def is_asked(composed: DictConfig) -> bool:
    """Whether a configuration asks for a preview in place of a run.

    Raises:
        UserError: If it says neither.
    """
    asked = composed.get(_BESIDE, False)
    if not isinstance(asked, bool):
        raise UserError(f"{KEY} must be true or false, got {asked!r}")
    return asked


def drop_preview(composed: DictConfig) -> None:
    """Take it out of a configuration, which is changed."""
    with open_dict(composed):
        composed.pop(_BESIDE, None)
