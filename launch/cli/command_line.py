"""What a user types: bare words, options and overrides, checked before hydra composes them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from conf.keys import CONF, GROUPS
from launch.cli.refusals import UserError, one_line

HYDRA_OPTIONS_WITH_VALUE = (
    "--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn",
    "--config-dir", "-cd", "--experimental-rerun", "--info", "-i",
)  # fmt: skip


def with_words(arguments: Sequence[str], key: str | None) -> list[str]:
    """Turn the bare words of a command line into an override of one list key.

    A bare word has no `=`, begins with none of `-`, `+` and `~`, and is no value of an option of
    hydra's. Words reach the program letter for letter: nothing in them means anything to hydra.

    Example: with_words(["runs/a", "out=x.html", "b c"], "runs") is ["runs=['runs/a','b c']",
    "out=x.html"].

    Args:
        arguments: The command line without the program's name.
        key: The list key that holds the words; None for a program that takes none.

    Raises:
        UserError: If there are words for a program that takes none.
    """
    places = list(bare_words(arguments))
    if not places:
        return list(arguments)
    words = [arguments[place] for place in places]
    if key is None:
        raise UserError(f"settings must be written as KEY=VALUE, got {words[0]!r}")
    override = f"{key}=[{','.join(quoted(word) for word in words)}]"
    first = places[0]
    rest = [arguments[i] for i in range(first + 1, len(arguments)) if i not in places]
    return [*arguments[:first], override, *rest]


def bare_words(arguments: Sequence[str]) -> Iterator[int]:
    """Give the places of what is no setting, no option and no value of one."""
    for place, argument in enumerate(arguments):
        bare = "=" not in argument and not argument.startswith(("-", "+", "~"))
        if bare and not _is_value(arguments, place):
            yield place


def _is_value(arguments: Sequence[str], place: int) -> bool:
    """Whether what stands there is the value of an option of hydra's."""
    return place > 0 and arguments[place - 1] in HYDRA_OPTIONS_WITH_VALUE


def options_last(arguments: Sequence[str]) -> list[str]:
    """Put options, with their values, behind all overrides, in whose middle hydra takes none.

    Behind and not before, since `--info` may do without a value, and would take an override for it.

    Example: options_last(["a=1", "--cfg", "job", "b=2"]) is ["a=1", "b=2", "--cfg", "job"].
    """
    options = [
        argument.startswith("-") or _is_value(arguments, place)
        for place, argument in enumerate(arguments)
    ]
    pairs = list(zip(arguments, options, strict=True))
    return [each for each, is_option in pairs if not is_option] + [
        each for each, is_option in pairs if is_option
    ]


def quoted(word: str) -> str:
    """Quote a word for hydra's grammar, which leaves all but interpolations as they are."""
    # Backslashes count only before what they could escape.
    plain = re.sub(r"(\\*)\$\{", r"\1\1\\${", word)
    plain = re.sub(r"(\\*)'", r"\1\1\\'", plain)
    trailing = "\\" * (len(plain) - len(plain.rstrip("\\")))
    return f"'{plain}{trailing}'"


def unquoted(value: str) -> str:
    """Return the word that stands on a command line as a value, in quotes or not.

    Example: unquoted(quoted("it's")) and unquoted("it's") are "it's".
    """
    if value.startswith(("'", '"')):
        try:
            return str(OverridesParser.create().parse_override(f"word={value}").value())
        except HydraException:
            pass
    return value.strip("'\"")


def without_config_dirs(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the folders of `--config-dir`, absolute, and the other arguments.

    Raises:
        UserError: If one is no folder.
    """
    folders, others, words = [], [], iter(arguments)
    for word in words:
        option, _, value = word.partition("=")
        if option not in ("--config-dir", "-cd"):
            others.append(word)
            continue
        value = value or next(words, "")
        if not Path(value).is_dir():
            raise UserError(f"--config-dir must name a folder, got {value!r}")
        folders.append(str(Path(value).resolve()))
    return folders, others


_SETTING = r"""\s*[^\s=,'"\[\]{}()$]+=[^,'"\[\]{}()$]*"""
_PLAIN_SETTINGS = re.compile(rf"\[{_SETTING}(,{_SETTING})*\]")
"""A list of settings, such as the arms of a comparison hold, none of which has a list in it."""
_OF_HYDRA = re.compile(r"""\Z|['"\[]|\{(?!\{)|.*\$\{""", re.DOTALL)
"""Values that begin as a quoted text, a list or a mapping does, or hold an interpolation."""


def with_quotes(arguments: Sequence[str]) -> list[str]:
    """Quote the values that hydra's grammar has no place for: paths with umlauts, templates.

    Example: with_quotes(["run_dir=/home/jörg/a=1"]) is ["run_dir='/home/jörg/a=1'"], and
        with_quotes(["base=[seed=1,learner.lr=2]"]) is ["base=['seed=1','learner.lr=2']"].

    Args:
        arguments: The command line without the program's name. Values that are quoted, lists of
            anything but plain settings, mappings or interpolations already stay as they are.
    """
    return [
        argument if _is_value(arguments, place) else _with_quotes(argument)
        for place, argument in enumerate(arguments)
    ]


def _with_quotes(argument: str) -> str:
    key, separator, value = argument.partition("=")
    if not separator or argument.startswith("-"):
        return argument
    if _PLAIN_SETTINGS.fullmatch(value):
        return f"{key}=[{','.join(quoted(each.strip()) for each in value[1:-1].split(','))}]"
    if _OF_HYDRA.match(value) or _parses(argument):
        return argument
    override = f"{key}={quoted(value)}"
    # Where that does not help the key is what is wrong.
    return override if _parses(override) else argument


def _parses(override: str) -> bool:
    try:
        OverridesParser.create().parse_override(override)
    except HydraException:
        return False
    return True


def check_options(arguments: Sequence[str]) -> None:
    """Refuse options that hydra does not know, or that lack their value, in one line.

    Raises:
        UserError: With what hydra's parser says; it would print its whole usage before that.
    """

    def refuse(message: str) -> NoReturn:
        raise UserError(f"options must be those that --hydra-help lists: {message}")

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    chosen = parser.parse_args([each for each in arguments if each != "--version"])
    if chosen.multirun:
        raise UserError(
            "options must not ask for several runs at once; start launch.train once for each, or "
            "compare them with launch.compare, got --multirun"
        )


def check_overrides(arguments: Sequence[str]) -> None:
    """Refuse several values in turn, and for a group anything but the name of one of its members.

    For a group hydra takes lists, which lay several members over each other, and fails on other
    values.

    Args:
        arguments: The command line, or overrides alone.

    Raises:
        UserError: Naming the override.
    """
    for override in parsed(arguments):
        if not override.key_or_group:
            line = override.input_line
            raise UserError(f"settings must be written as KEY=VALUE, got {line!r}")
        group = override.key_or_group.removeprefix("/")
        key = f"{group}@{override.package}" if override.package else group
        if override.is_sweep_override():
            raise UserError(_several_values(key, str(override.input_line).partition("=")[2]))
        value: Any = None if override.is_delete() else override.value()
        _check_member(key, value)
        if override.is_delete() or group not in GROUPS or isinstance(value, str | dict):
            continue
        if not (group in SEVERAL_AT_ONCE and isinstance(value, list)):
            raise UserError(
                f"{key} must be the name of one member of its group, which --help lists; "
                f"~{key} takes none, got {value!r}"
            )


def _check_member(key: str, value: Any) -> None:
    """Refuse `scheduler.price=tokens`: a member is chosen by its group."""
    group = key.rpartition(".")[2]
    if "." not in key or "@" in key or not isinstance(value, str):
        return
    # An experiment is also what MLflow calls a folder of runs.
    if group != "experiment" and (CONF / group / f"{value}.yaml").is_file():
        raise UserError(
            f"{key} holds the settings of a member of the group {group}, which is chosen by "
            f"{group}@{key}={value}, got {value!r}"
        )


def _several_values(key: str, value: str) -> str:
    return (
        f"{key} must be one value; give several to launch.compare, each as an arm "
        f'"+arms.NAME=[{key}=VALUE]", put a list in brackets ({key}=[A,B]), and in quotes a text '
        f"that has commas, got {value!r}"
    )


SEVERAL_AT_ONCE = ("tracker",)
"""Groups whose members hold settings by name, so that several go together."""


def check_emptied(overrides: Sequence[str], config: DictConfig) -> None:
    """Refuse `KEY={}` where KEY holds something: hydra merges, so that nothing would change.

    Args:
        overrides: As given, for hydra.
        config: What they composed to.

    Raises:
        UserError: Naming the key.
    """
    for override in parsed(overrides):
        key = override.package or override.key_or_group.replace("/", ".")
        if override.is_delete() or override.value() != {}:
            continue
        if OmegaConf.select(config, key, throw_on_missing=False):
            raise UserError(
                f"{key} must be given what is to change, since an empty mapping is merged into "
                "what it holds; name another member of its group or a setting, got {}"
            )


def parsed(arguments: Sequence[str]) -> list[Override]:
    """Parse the overrides of a command line.

    Raises:
        UserError: Naming the first that cannot be parsed.
    """
    # Options and their values hold no setting, whatever is in them.
    settings = [
        argument
        for place, argument in enumerate(arguments)
        if not argument.startswith("-") and not _is_value(arguments, place)
    ]
    return [_parse(setting) for setting in settings]


def _parse(setting: str) -> Override:
    try:
        return OverridesParser.create().parse_override(setting)
    except HydraException as error:
        raise UserError(
            "settings must be written as KEY=VALUE, values with signs of their own in quotes "
            f"({one_line(error)}), got {setting!r}"
        ) from error
