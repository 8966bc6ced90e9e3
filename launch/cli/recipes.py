"""Members of groups that a command line chooses in the place of a recipe's, whole.

Hydra merges what a recipe sets of a plug over whichever member there is in the end:

    experiment=jsonl_math task=gsm8k -> gsm8k, but from jsonl_math's file
    reward: {_target_: mine.Reward}  reward=math -> mine.Reward

A member of the command line's own is what its file says, and what the command line sets of it. One
that the recipe itself has chosen keeps the recipe's settings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from conf.keys import CONF, GROUPS
from launch.cli.command_line import parsed, quoted, without_config_dirs
from launch.cli.own_code import package_of

RECIPES = ("recipe", "experiment")
"""Groups of recipes, in the order in which a program merges them."""


def with_whole_members(
    arguments: Sequence[str], program: str, folders: Sequence[str] = ()
) -> list[str]:
    """Undo what a recipe sets of a plug for which the command line chooses another member.

    Example: with_whole_members(["recipe=gvm_raft", "objective=cispo"], "train") is
    ["++objective.clip_high=0", "~objective.clip_high", "recipe=gvm_raft", "objective=cispo"].

    Args:
        arguments: The command line, or overrides alone.
        program: Whose they are.
        folders: More folders of configurations, beside those that `--config-dir` names here.

    Raises:
        UserError: If an argument cannot be parsed, or `--config-dir` names no folder.
    """
    named, settings = without_config_dirs(arguments)
    places = [Path(each) for each in (*folders, *named)] + [CONF]
    given = parsed(settings)
    names = {each.key_or_group: str(each.value()) for each in given}
    recipes = [
        recipe for group in RECIPES for recipe in _with_parents(group, names.get(group, ""), places)
    ]
    members = [
        each for each in given if each.key_or_group in GROUPS and each.key_or_group not in RECIPES
    ]
    if not recipes or not members:
        return list(arguments)
    chosen = _choices([*_with_parents("", program, [CONF]), *recipes])
    undone = [
        each for override in members for each in _undone(override, recipes, chosen, given, places)
    ]
    return [*undone, *arguments]


def _undone(
    override: Override,
    recipes: Sequence[DictConfig],
    chosen: Mapping[tuple[str, str], Any],
    given: Sequence[Override],
    places: Sequence[Path],
) -> Iterator[str]:
    group, member = override.key_or_group, override.value()
    key = override.package or package_of(group)
    bodies = [body for each in recipes if (body := OmegaConf.select(each, key)) is not None]
    if bodies and override.is_delete():
        yield f"++{key}=null"
        return
    named_here = any(not isinstance(body, DictConfig) or "_target_" in body for body in bodies)
    own_choice = chosen.get((group, key)) == member and not named_here
    if not bodies or own_choice or not isinstance(member, str):
        return
    own = OmegaConf.merge({}, *_with_parents(group, member, places))
    plain: Any = OmegaConf.to_container(own, resolve=False)
    plain.pop("defaults", None)
    if not all(isinstance(body, DictConfig) for body in bodies):
        yield f"++{key}={_value(plain)}"
        return
    set_here = {each.key_or_group for each in given}
    for name in dict.fromkeys(str(name) for body in bodies for name in body):
        if f"{key}.{name}" not in set_here:
            # Hydra looks up what it deletes, which may be null, or point at what is gone by then.
            yield f"++{key}.{name}=0"
            yield f"~{key}.{name}"
            if name in plain:
                yield f"++{key}.{name}={_value(plain[name])}"


def _with_parents(group: str, name: str, places: Sequence[Path]) -> list[DictConfig]:
    """The files of a member, those that its defaults name first; none where there is no such."""
    found = [path for place in places if (path := place / group / f"{name}.yaml").is_file()]
    config = OmegaConf.load(found[0]) if found else None
    if not isinstance(config, DictConfig):
        return []
    parents: list[DictConfig] = []
    for entry in config.get("defaults", []):
        for above, member in (
            entry.items() if isinstance(entry, DictConfig) else [(f"/{group}", entry)]
        ):
            if str(above).startswith("/") and isinstance(member, str) and member != "_self_":
                parents += _with_parents(str(above)[1:], member, places)
    return [*parents, config]


def _choices(configs: Sequence[DictConfig]) -> dict[tuple[str, str], Any]:
    """By group and key, the member that the last of some files chooses."""
    entries = [
        (str(key).removeprefix("override ").removeprefix("/"), member)
        for config in configs
        for entry in config.get("defaults", [])
        if isinstance(entry, DictConfig)
        for key, member in entry.items()
    ]
    pairs = [(key.partition("@"), member) for key, member in entries]
    return {(group, package or package_of(group)): member for (group, _, package), member in pairs}


def _value(value: Any) -> str:
    """Write a value of a file in hydra's grammar; its interpolations stay such."""
    if isinstance(value, dict):
        return f"{{{','.join(f'{k}:{_value(v)}' for k, v in value.items())}}}"
    if isinstance(value, list):
        return f"[{','.join(map(_value, value))}]"
    if isinstance(value, str):
        return quoted(value).replace("\\${", "${")
    return (
        "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    )
