"""Code of the user on the command line: a plug named by its file, in the place of a member.

    reward=FILE.py:NAME                            -> reward=function  ++reward.path='FILE.py:NAME'
    allocator@scheduler.allocator=FILE.py:NAME     -> ++scheduler.allocator._target_='FILE.py:NAME'

Where a plug of the user takes a member's place, nothing of that member's settings is left.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache

from omegaconf import DictConfig, ListConfig, Node, OmegaConf, open_dict

from conf.keys import CONF, GROUPS
from conf.own_code import FILE, MEMBERS
from launch.cli.command_line import check_emptied, parsed, quoted
from launch.cli.held_out import takes_held_out

_FILE = re.compile(r"(\+*)(\w+)(?:@([\w.]+))?=['\"]?([^'\"=]+\.py:[\w.]+)['\"]?")
_TARGET = re.compile(r"\+*([\w.]+)\._target_=.*", re.DOTALL)
_MEMBERS = ("function", "function_held_out")


def with_own_files(arguments: Sequence[str], program: str = "train") -> list[str]:
    """Write out `GROUP=FILE.py:NAME`, and let settings of such plugs do without a `+`.

    A task named so is held out too, by its questions' text, unless another one is.

    Example: with_own_files(["reward=a.py:f"]) is ["reward=function",
    "++reward.path='a.py:f'"].

    Args:
        arguments: The command line, or overrides alone.
        program: Whose command line it is.
    """
    written = [part for each in arguments for part in _written(each, arguments, program)]
    keys = [found[1] for each in written if (found := _TARGET.fullmatch(each))]
    keys += [key for each in written if (key := _key_of_member(each))]
    return [
        f"++{each}" if any(re.match(rf"{re.escape(key)}\.[\w.]+=", each) for key in keys) else each
        for each in written
    ]


def _written(argument: str, all_of_them: Sequence[str], program: str) -> list[str]:
    found = _FILE.fullmatch(argument)
    if found is None or found[2] not in GROUPS:
        return [argument]
    plus, group, package, path = found.groups()
    key = package or package_of(group)
    if not (CONF / group / "function.yaml").is_file():
        return [f"++{key}._target_={quoted(path)}"]
    chosen = f"{plus}{group}@{package}" if package else f"{plus}{group}"
    written = [f"{chosen}=function", f"++{key}.path={quoted(path)}"]
    others = ("task@held_out=", "held_out.path=", "held_out._target_=")
    chosen_too = any(each.lstrip("+").startswith(others) for each in all_of_them)
    if key == "task" and takes_held_out(program) and not chosen_too:
        written += ["++task.split=train", "task@held_out=function_held_out"]
    return written


@cache
def package_of(group: str) -> str:
    """Return the key under which a run holds the member of a group: its own name for most."""
    for entry in OmegaConf.load(CONF / "train.yaml").defaults:
        for name in entry if isinstance(entry, DictConfig) else ():
            if str(name).startswith(f"{group}@") and name != "task@held_out":
                return str(name).partition("@")[2]
    return group


def _key_of_member(argument: str) -> str:
    """The key of an override that chooses the member `function`; "" for every other."""
    found = re.fullmatch(r"\+*(\w+)(?:@([\w.]+))?=function(?:_held_out)?", argument)
    return (found[2] or found[1]) if found else ""


def settle_plugs(config: DictConfig, overrides: Sequence[str]) -> None:
    """Leave of every plug in a composed configuration what is asked of it alone.

    Args:
        config: As composed; it is changed.
        overrides: With which it was composed.

    Raises:
        UserError: If an override would empty what hydra merges into.
    """
    check_emptied(overrides, config)
    drop_old_settings(config, overrides)
    write_out_names(config)


def write_out_names(config: DictConfig) -> None:
    """Write out what is named by its file alone: plugs, as `reward: FILE.py:NAME`, and tools.

    Where `task` and `held_out` name the same, each gets its part of the questions.

    Args:
        config: As composed; it is changed.
    """
    for key, path in list(_names(config, "")):
        named: dict[str, str] = {"_target_": path}
        kind = key.rpartition(".")[2]
        if kind.isdigit():
            named = {"_target_": MEMBERS["tool"], "path": path}
        OmegaConf.update(config, key, named, merge=False, force_add=True)
    _divide(config)


def _divide(config: DictConfig) -> None:
    parts = {"task": "train", "held_out": "held_out"}
    nodes = [OmegaConf.select(config, key, throw_on_missing=False) for key in parts]
    paths = {str(each.get("_target_")) for each in nodes if isinstance(each, DictConfig)}
    if len(paths) == 1 and all(map(FILE.fullmatch, paths)) and None not in nodes:
        for key, part in parts.items():
            if "split" not in config[key]:
                OmegaConf.update(config, f"{key}.split", part, force_add=True)


def _names(node: DictConfig, key: str) -> Iterator[tuple[str, str]]:
    """Key and value of every plug, and of every tool, that is named by its file alone."""
    for name in node:
        child, where = node._get_node(name), f"{key}.{name!s}" if key else str(name)
        if isinstance(child, DictConfig):
            if not (child._is_none() or child._is_missing() or child._is_interpolation()):
                yield from _names(child, where)
        elif name == "tools" and isinstance(child, ListConfig):
            found = child._content if isinstance(child._content, list) else []
            values = [each._value() for each in found]
            files = [isinstance(each, str) and FILE.fullmatch(each) for each in values]
            yield from ((f"{where}.{k}", values[k]) for k, is_file in enumerate(files) if is_file)
        elif name in (*GROUPS, "held_out") and isinstance(child, Node):
            value = child._value()
            if isinstance(value, str) and FILE.fullmatch(value):
                yield where, value


def drop_old_settings(config: DictConfig, overrides: Sequence[str]) -> None:
    """Take the settings of the member before out of every plug that an override replaces by name.

    What the overrides themselves set of such a plug stays, and of a member `function` what its file
    has.

    Args:
        config: As composed; it is changed.
        overrides: With which it was composed.
    """
    given = [each for each in parsed(overrides) if not each.is_delete()]
    for override in given:
        key, value = override.package or override.key_or_group, override.value()
        kept = {"_target_"}
        if key.endswith("._target_"):
            key = key.removesuffix("._target_")
        elif isinstance(value, dict) and "_target_" in value:
            kept |= set(map(str, value))
        elif value in _MEMBERS and (CONF / override.key_or_group / f"{value}.yaml").is_file():
            kept |= set(map(str, OmegaConf.load(CONF / override.key_or_group / f"{value}.yaml")))
        else:
            continue
        beginning = f"{key}."
        names = [each.key_or_group for each in given if each.key_or_group.startswith(beginning)]
        kept |= {name.removeprefix(beginning).partition(".")[0] for name in names}
        node = OmegaConf.select(config, key, throw_on_missing=False)
        if isinstance(node, DictConfig):
            with open_dict(node):
                for name in [str(each) for each in node if str(each) not in kept]:
                    del node[name]
