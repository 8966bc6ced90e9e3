"""The held-out questions that come along with a task chosen on the command line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from conf.keys import CONF
from launch.cli.command_line import without_config_dirs

_CHOICE = re.compile(r"task=['\"]?([\w-]+)['\"]?")
_OTHERS = ("task@held_out=", "held_out._target_=")


def takes_held_out(program: str) -> bool:
    """Return whether a program's configuration chooses a task and what is held out of one."""
    path = CONF / f"{program}.yaml"
    if not path.is_file():
        return False
    composed: Any = OmegaConf.load(path)
    return any(
        "task@held_out" in each if isinstance(each, DictConfig) else takes_held_out(each)
        for each in composed.get("defaults", [])
    )


def with_held_out(arguments: Sequence[str], program: str, folders: Sequence[str] = ()) -> list[str]:
    """Let `task=NAME` choose the task's own held-out questions too, unless others are chosen.

    Without it a run would be measured on what the task before held out, or on a part of a test set.

    Example: with_held_out(["task=gsm8k"], "train") is ["task=gsm8k",
    "task@held_out=gsm8k_held_out"].

    Args:
        arguments: The command line, or overrides alone.
        program: Whose they are; one that holds nothing out gets them as they are.
        folders: More folders of configurations, beside those that `--config-dir` names here.

    Raises:
        UserError: If `--config-dir` names no folder.
    """
    names = [found[1] for each in arguments if (found := _CHOICE.fullmatch(each))]
    if not names or any(each.lstrip("+~").startswith(_OTHERS) for each in arguments):
        return list(arguments)
    own = f"{names[-1]}_held_out"
    places = [CONF, *map(Path, folders), *map(Path, without_config_dirs(arguments)[0])]
    there = any((place / "task" / f"{own}.yaml").is_file() for place in places)
    if not there or not takes_held_out(program):
        return list(arguments)
    return [*arguments, f"task@held_out={own}"]
