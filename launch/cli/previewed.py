"""`task.preview=true`: what a task makes of its rows is shown in place of a run, of every task.

It is asked of the program and no setting of any task: it is taken out before the task is built.
"""

from __future__ import annotations

from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf, open_dict

from launch.cli.refusals import UserError

KEY = "task.preview"


def with_preview(arguments: Sequence[str], program: str) -> list[str]:
    """Let `task.preview=true` do without a `+`, whatever the task.

    Example: with_preview(["task.preview=true"], "train") is ["++task.preview=true"].

    Args:
        arguments: The command line, or overrides alone.
        program: Whose they are; only a training shows one.
    """
    if program != "train":
        return list(arguments)
    return [f"++{each}" if each.startswith(f"{KEY}=") else each for each in arguments]


def is_asked(composed: DictConfig) -> bool:
    """Whether a configuration asks for a preview in place of a run.

    Raises:
        UserError: If it says neither.
    """
    asked = OmegaConf.select(composed, KEY, default=False)
    if not isinstance(asked, bool):
        raise UserError(f"{KEY} must be true or false, got {asked!r}")
    return asked


def drop_preview(composed: DictConfig) -> None:
    """Take it out of a configuration, which is changed."""
    task = OmegaConf.select(
        composed, "task", throw_on_missing=False, throw_on_resolution_failure=False
    )
    if isinstance(task, DictConfig) and "preview" in task:
        with open_dict(task):
            del task["preview"]
