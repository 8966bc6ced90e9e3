"""The held-out questions that come along with a task chosen on the command line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

_TASKS = Path(__file__).parents[2] / "conf" / "task"
_CHOICE = re.compile(r"task=['\"]?(\w+)['\"]?")
_OTHERS = ("task@held_out=", "held_out._target_=")


def with_held_out(arguments: Sequence[str]) -> list[str]:
    """Let `task=NAME` choose the task's own held-out questions too, unless others are chosen.

    Without it a run would be measured on what the task before held out, or on a part of a test set.

    Example: with_held_out(["task=gsm8k"]) is ["task=gsm8k", "task@held_out=gsm8k_held_out"].

    Args:
        arguments: The command line, or overrides alone.
    """
    names = [found[1] for each in arguments if (found := _CHOICE.fullmatch(each))]
    if not names or any(each.lstrip("+~").startswith(_OTHERS) for each in arguments):
        return list(arguments)
    own = f"{names[-1]}_held_out"
    if not (_TASKS / f"{own}.yaml").is_file():
        return list(arguments)
    return [*arguments, f"task@held_out={own}"]
