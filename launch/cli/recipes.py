"""Members of groups that take the place of others, whole, and recipes that win over experiments.

Hydra merges what files set of a plug over whichever member there is in the end, and an experiment
after a recipe:

    experiment=jsonl_math task=gsm8k -> gsm8k, but from jsonl_math's file
    reward: {_target_: mine.Reward}  reward=math -> mine.Reward
    override /objective: cispo       recipe=grpo -> cispo
    learner: {num_minibatches: 2}    recipe=gspo -> 2, for the recipe's 4
    [jsonl_math, override /task: gsm8k] -> gsm8k, but from jsonl_math's file

What the command line names counts: a member is what its file says, and a recipe has the members
that it chooses, its own settings of them and all else that it sets, whatever the experiment says.
An experiment that chooses a recipe itself may change it, also where the command line names the same
recipe. A member that an experiment has chosen itself keeps the experiment's settings, those of the
file that chose it and of the files built on that one. A class that a file names is built with that
file's settings alone. Single settings on the command line win over all files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from conf.keys import CONF, GROUPS, flat
from launch.cli.command_line import (
    SEVERAL_AT_ONCE,
    parsed,
    quoted,
    with_quotes,
    without_config_dirs,
)
from launch.cli.measured import is_of_training
from launch.cli.own_code import package_of, with_own_files
from launch.cli.recipe_files import RECIPES, Files, check_names, choices, files_of, with_parents


def with_whole_members(
    arguments: Sequence[str], program: str, folders: Sequence[str] = ()
) -> list[str]:
    """Undo what files set in the place of what counts more: of another member, or of a recipe.

    Example: with_whole_members(["recipe=gvm_raft", "objective=cispo"], "train") is
    ["++objective.clip_high=0", "~objective.clip_high", "recipe=gvm_raft", "objective=cispo"].

    Args:
        arguments: The command line, or overrides alone.
        program: Whose they are.
        folders: More folders of configurations, beside those that `--config-dir` names here.

    Raises:
        UserError: If an argument cannot be parsed, or `--config-dir` names no folder or one with
            files that hydra would pass over.
    """
    named, settings = without_config_dirs(arguments)
    places = [CONF] + [Path(each) for each in (*folders, *named)]
    check_names(places)
    given = parsed(settings)
    primary = with_parents("", program, [CONF])
    files = files_of(given, primary, places)
    if not files.ranked:
        return list(arguments)
    own = {
        (each.key_or_group, each.package or package_of(each.key_or_group)): each.value()
        for each in given
        if each.key_or_group in GROUPS and each.key_or_group not in RECIPES
    }
    set_here = {each.key_or_group for each in given}
    before, chosen, of_hydra = map(choices, (primary, files.ranked, files.merged))
    plugs = [each for each in dict.fromkeys([*own, *before, *chosen]) if each[0] not in RECIPES]
    undone: list[str] = []
    for group, key in plugs:
        which, at_first = (group, key), before.get((group, key))
        if f"{key}._target_" in set_here or (program == "evaluate" and is_of_training(key, {})):
            continue
        history = _history(which, files, at_first)
        picked = own.get(which, chosen.get(which, at_first))
        if which in own:
            if history.member is not picked and history.member != picked:
                history.replace(picked)
        elif of_hydra.get(which, picked) != picked:
            choice = group if key == group else f"{group}@{key}"
            undone.append(f"~{choice}" if picked is None else f"{choice}={picked}")
        undone += _Plug(group, key, picked, history).restored(places, set_here)
    undone += _outranked(files, [key for _, key in plugs], program)
    # Once more, for settings of a class or function that only a file names.
    return with_own_files([*undone, *arguments], program)


def without_outranked(
    base: Sequence[str], arm: Sequence[str], program: str, folders: Sequence[str]
) -> list[str]:
    """Leave out of a base the members in whose place the recipe of an arm has others.

    What the base sets of such a member goes with it. The arm's own choice of a member is for hydra.

    Example: without_outranked(["seed=1", "objective=cispo"], ["recipe=grpo"], "train", []) is
    ["seed=1"].

    Args:
        base: Overrides that several arms share.
        arm: Overrides on top of them.
        program: Whose they are.
        folders: Of configurations, beside the project's.

    Raises:
        UserError: If one cannot be parsed.
    """
    given = parsed(with_quotes(with_own_files(arm, program)))
    names = [each.value() for each in given if each.key_or_group == "recipe"]
    recipe = with_parents("recipe", names[-1], [CONF, *map(Path, folders)]) if names else []
    own = {_key_of(each) for each in given if _names_plug(each)}
    members = {key: member for (_, key), member in choices(recipe).items() if key not in own}
    entries = [(each, parsed(with_quotes(with_own_files([each], program)))) for each in base]
    replaced = {
        key
        for _, overrides in entries
        for each in overrides
        if _names_plug(each) and (key := _key_of(each)) in members
        if each.is_delete() or each.value() != members[key]
    }
    return [
        entry
        for entry, overrides in entries
        if not any(
            f"{_key_of(each)}.".startswith(f"{key}.") for each in overrides for key in replaced
        )
    ]


def _names_plug(override: Override) -> bool:
    """Whether an override chooses a member, none, or a class."""
    key, value = override.key_or_group, None if override.is_delete() else override.value()
    of_class = key.endswith("._target_") or (isinstance(value, dict) and "_target_" in value)
    return of_class or (key in GROUPS and not isinstance(value, dict))


def _key_of(override: Override) -> str:
    key = override.key_or_group
    where = override.package or (package_of(key) if key in GROUPS else key)
    return str(where).removesuffix("._target_")


class _Class:
    """What a file names by `_target_` or its path, in the place of any member."""


@dataclass(slots=True)
class _History:
    """How files, one after the other, come to what stands under a key.

    Attributes:
        member: The name of the last member, or a `_Class`.
        kept: What files set of it.
        others: What files set of those before.
    """

    member: Any
    kept: list[Any] = field(default_factory=list)
    others: list[Any] = field(default_factory=list)

    def replace(self, member: Any) -> None:
        """Another member takes the place."""
        self.member, self.others, self.kept = member, [*self.others, *self.kept], []


def _history(which: tuple[str, str], files: Files, member: Any) -> _History:
    history, of_recipe = _History(member), choices(files.recipe)
    sets = any(OmegaConf.select(config, which[1]) is not None for config in files.recipe)
    for config in files.ranked:
        if files.recipe and config is files.recipe[0] and (sets or which in of_recipe):
            # Hydra may merge what experiments set of it after the recipe.
            history.others += history.kept
            history.kept = [] if which in of_recipe else history.kept
        chosen = choices([config]).get(which, history.member)
        if chosen != history.member:
            history.replace(chosen)
        body = OmegaConf.select(config, which[1])
        if body is None:
            continue
        if not isinstance(body, DictConfig) or "_target_" in body:
            history.replace(_Class())
        history.kept.append(body)
    return history


@dataclass(frozen=True, slots=True)
class _Plug:
    """What is to stand under a key: what files set of its member, and of nothing before that.

    Attributes:
        group: The group of its member.
        key: Where it stands.
        member: The name of the member that hydra reads; None for no plug.
        history: How it came there. A class of a file may stand there in that member's place.
    """

    group: str
    key: str
    member: Any
    history: _History

    def restored(self, places: Sequence[Path], set_here: set[str]) -> Iterator[str]:
        """Overrides after which nothing of anything else is left."""
        own, others = self.history.kept, self.history.others
        is_class = isinstance(self.history.member, _Class)
        files = with_parents(self.group, self.member, places)
        if is_class and not all(isinstance(body, DictConfig) for body in own):
            typed = any(name.startswith(f"{self.key}.") for name in set_here)
            if (others or typed) and isinstance(own[-1], str):
                yield f"++{self.key}._target_={_value(own[-1])}"
            return
        before = [*others, *files] if is_class else others
        if not before:
            return
        if self.member is None and not is_class:
            yield f"++{self.key}=null"
        if not isinstance(self.member, str):
            return
        merged = OmegaConf.merge({}, *([] if is_class else files), *own)
        plain: Any = OmegaConf.to_container(merged, resolve=False)
        plain.pop("defaults", None)
        if not all(isinstance(body, DictConfig) for body in before):
            yield f"++{self.key}={_value(plain)}"
            return
        names = dict.fromkeys(str(name) for body in before for name in body if name != "defaults")
        if self.group in SEVERAL_AT_ONCE or not others:
            names = dict.fromkeys(name for name in names if name not in plain)
        for name in names:
            key = f"{self.key}.{name}"
            if name != "_target_" and (name in plain or key not in set_here):
                # Hydra looks up what it deletes, which may be null, or point at what is gone.
                yield f"++{key}=0"
                yield f"~{key}"
        if not plain.keys().isdisjoint(names):
            yield f"++{self.key}={_value(plain)}"


def _outranked(files: Files, plugs: Sequence[str], program: str) -> Iterator[str]:
    """Overrides with what a recipe sets beside plugs, and hydra merges an experiment over."""
    if not files.recipe:
        return
    ranked, merged = (OmegaConf.merge({}, *each) for each in (files.ranked, files.merged))
    theirs = _settings_of(merged)
    for key, value in _settings_of(ranked).items():
        of_plug = any(f"{key}.".startswith(f"{plug}.") for plug in plugs)
        same = value in ({}, "???") or (key in theirs and theirs[key] == value)
        if not (same or of_plug or (program == "evaluate" and is_of_training(key, ranked))):
            yield f"++{key}={_value(value)}"


def _settings_of(config: Any) -> dict[str, Any]:
    content: Any = OmegaConf.to_container(config, resolve=False)
    content.pop("defaults", None)
    return flat(content)


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
