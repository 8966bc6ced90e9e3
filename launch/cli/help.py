"""`--help KEY`: what a setting means, in place of the list of all."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import takewhile
from textwrap import fill
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from conf.keys import CONF, describe, keys_of, nearest
from launch.cli.own_code import package_of
from launch.cli.refusals import UserError

WIDTH = 120
"""Columns of the list of a group's members."""
_INDENTS: dict[str, Any] = {
    "initial_indent": "  ",
    "subsequent_indent": " " * 26,
    "break_long_words": False,
    "break_on_hyphens": False,
}
_TARGET = re.compile(r"^_target_: (.*)$", re.MULTILINE)
_SENTENCE_END = re.compile(r"(?<=[\w)])(?<!\bDr)\.(?:$|\s+(?=[A-Z]))")
"""Before a capital, and not the dot of an abbreviation or of an ellipsis."""


def schema_of(program: str) -> Any:
    """Return the dataclass of a program's configuration; None if it has none."""
    stored = ConfigStore.instance().repo.get(f"{program}_schema.yaml")
    node = getattr(stored, "node", None)
    return OmegaConf.get_type(node) if node is not None else None


def help_of(arguments: Sequence[str], program: str, groups: Sequence[str]) -> str:
    """Return the text for `--help KEY`, "" where the command line asks for no key.

    Args:
        arguments: The command line without the program's name.
        program: Its name, such as "train".
        groups: Groups of the configuration.

    Raises:
        UserError: If there is no such key or group, with the nearest.
    """
    if "--help" not in arguments:
        return ""
    at = list(arguments).index("--help")
    asked = next((each for each in arguments[at + 1 :] if not each.startswith("-")), "")
    asked = asked.partition("=")[0].lstrip("+")
    schema = schema_of(program)
    if not asked or schema is None:
        return ""
    found = [describe(schema, asked)]
    group = asked.partition("@")[0].rpartition(".")[2]
    if group in groups:
        key = package_of(group)
        choice = group if key == group else f"{group}@{key}"
        found += [f"{group}: choose a member with {choice}=MEMBER", *_members(group)]
    if text := "\n".join(filter(None, found)):
        return text
    close = nearest(asked, [*keys_of(schema), *groups])
    meant = f"; did you mean {close}?" if close else ""
    raise UserError(f"--help takes a key or a group that there is{meant}, got {asked!r}")


def _members(group: str) -> list[str]:
    """Name of each member, and what its file says of it first."""
    lines = []
    for path in sorted((CONF / group).glob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        about = first_sentence(text) or "".join(_TARGET.findall(text)[:1])
        lines.append(fill(f"{path.stem:<22}  {about}", WIDTH, **_INDENTS))
    return lines


def first_sentence(text: str) -> str:
    """Return the first sentence of the comment at a YAML file's head, "" where there is none.

    Commands, which are indented in it, are left out.
    """
    comment = takewhile(re.compile("#(?!  )").match, text.splitlines())
    said = " ".join(line.lstrip("# ") for line in comment if "@package" not in line)
    return _SENTENCE_END.split(said, maxsplit=1)[0]
