"""The configuration that a run folder records, in the place of a program's own.

resume=RUN KEY=VALUE   -> --config-path RUN --config-name config resume=RUN KEY=VALUE run_dir=RUN
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from conf.keys import GROUPS
from launch.cli.command_line import parsed, quoted, unquoted, with_quotes
from launch.cli.refusals import UserError

ADDED = "evaluation.sets."
"""Below this key further sets are added by name; what is recorded has no settings there before."""


def with_resumed(arguments: Sequence[str]) -> list[str]:
    """Let `resume=RUN` take the configuration of that run, which other overrides then change.

    Example: with_resumed(["resume=runs/a", "loop.num_steps=80"]) begins with "--config-path",
    "/here/runs/a", "--config-name", "config", and ends with "run_dir=/here/runs/a".

    Args:
        arguments: The command line without the program's name.

    Raises:
        UserError: If RUN is no run folder, or a member of a group, another configuration or run
            folder is named beside.
    """
    key = "resume="
    given = [argument for argument in arguments if argument.startswith(key)]
    value = unquoted(given[-1].removeprefix(key)) if given else ""
    if value in ("", "auto", "null"):
        return list(arguments)
    run_dir = Path(value).resolve()
    if not (run_dir / "config.yaml").is_file():
        raise UserError(
            f"resume must be auto or a run folder, which has a config.yaml, got {value!r}"
        )
    if not (run_dir / "config.yaml").stat().st_size:
        raise UserError(
            "resume must be a run folder whose config.yaml has the run's settings, and this one is "
            f"empty; begin a new run, got {value!r}"
        )
    for argument in arguments:
        if argument.startswith(("run_dir=", "--config-path", "--config-name", "-cp", "-cn")):
            raise UserError(
                f"resume={value} says which configuration and run folder are meant; leave "
                f"{argument.split('=')[0]} out"
            )
    others = [argument for argument in arguments if argument not in given]
    place = f"run_dir={quoted(str(run_dir))}"
    return [*of_record(run_dir, others, f"resume={value}"), *arguments, place]


def of_record(run_dir: Path, arguments: Sequence[str], named: str) -> list[str]:
    """Return what makes hydra compose a run's configuration in place of the program's.

    Args:
        run_dir: The run folder, absolute.
        arguments: What else the command line says.
        named: What names the run on the command line.

    Raises:
        UserError: If a member of a group is chosen. What is recorded are the settings of the
            members there were, and hydra would lay a name over them.
    """
    added = False
    for override in parsed(with_quotes(arguments)):
        group = str(override.key_or_group).removeprefix("/")
        if group not in GROUPS:
            continue
        if str(override.package).startswith(ADDED) and not override.is_delete():
            # Without a plus: another member within a set that is added.
            added = added or override.is_add()
        elif override.is_delete() or not isinstance(override.value(), dict):
            key = str(override.input_line).partition("=")[0]
            raise UserError(
                f"{named} takes that run's configuration, groups and all; leave {key} out"
            )
    # The folder of a run has no members of any group.
    places = ["hydra.searchpath=[pkg://conf]"] if added else []
    return ["--config-path", str(run_dir), "--config-name", "config", *places]
