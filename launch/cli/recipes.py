"""Members of groups that take the place of others, whole.

Hydra merges what files set of a plug over whichever member there is in the end, and takes an
experiment's choice of a member before a recipe's:

    experiment=jsonl_math task=gsm8k -> gsm8k, but from jsonl_math's file
    reward: {_target_: mine.Reward}  reward=math -> mine.Reward
    override /objective: cispo       recipe=grpo -> cispo
    [jsonl_math, override /task: gsm8k] -> gsm8k, but from jsonl_math's file

What the command line names counts: a member is what its file says, and a recipe has the members
that it chooses, with what the command line sets of them. A member that an experiment has chosen
itself keeps the experiment's settings, those of the file that chose it and of the files built on
that one. A class that a file names is built with that file's settings alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from conf.keys import CONF, GROUPS
from launch.cli.command_line import SEVERAL_AT_ONCE, parsed, quoted, without_config_dirs
from launch.cli.measured import is_measured_by
from launch.cli.own_code import package_of
from launch.cli.refusals import UserError

RECIPES = ("recipe", "experiment")
"""Groups of recipes, in the order in which a program merges them."""


def with_whole_members(
    arguments: Sequence[str], program: str, folders: Sequence[str] = ()
) -> list[str]:
    """Undo what recipes set of a plug that another member or class takes the place of.

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
    _check_names(places)
    given = parsed(settings)
    primary = _with_parents("", program, [CONF])
    names = {group: member for (group, _), member in _choices(primary).items() if group in RECIPES}
    names |= {each.key_or_group: each.value() for each in given if each.key_or_group in RECIPES}
    recipe = _with_parents("recipe", names.get("recipe"), places)
    # A recipe that is named takes the place of the experiment's.
    through = () if "recipe" in {each.key_or_group for each in given} else RECIPES
    experiment = _with_parents("experiment", names.get("experiment"), places, through)
    own = {
        (each.key_or_group, each.package or package_of(each.key_or_group)): each.value()
        for each in given
        if each.key_or_group in GROUPS and each.key_or_group not in RECIPES
    }
    if not (recipe or experiment):
        return list(arguments)
    set_here = {each.key_or_group for each in given}
    before, of_recipe = _choices(primary), _choices(recipe)
    of_experiment = _choices(experiment)
    undone: list[str] = []
    for group, key in dict.fromkeys([*own, *of_recipe, *before, *of_experiment]):
        which, at_first = (group, key), before.get((group, key))
        if group in RECIPES or f"{key}._target_" in set_here:
            continue
        if program == "evaluate" and not is_measured_by(key):
            continue
        histories = [_history(which, recipe, at_first), _history(which, experiment, at_first)]
        if which in own:
            picked = member = own[which]
        elif which in of_recipe:
            picked, member = of_recipe[which], histories[0].member
            if of_experiment.get(which, picked) != picked:
                undone.append(f"{group}={picked}" if key == group else f"{group}@{key}={picked}")
        else:
            picked, member = of_experiment.get(which, at_first), histories[1].member
        undone += _whole(which, picked, member, histories).restored(places, set_here)
    return [*undone, *arguments]


def _check_names(places: Sequence[Path]) -> None:
    """Refuse folders with a file of the project's name and another content.

    Raises:
        UserError: Naming the file: hydra would take the project's, and say nothing.
    """
    project, *folders = places
    for folder in folders:
        for name in _names_of(project):
            own = folder / name
            if own.is_file() and own.read_bytes() != (project / name).read_bytes():
                raise UserError(
                    "--config-dir must have other names than the project's files, or the "
                    f"project's is taken; choose another name, got {str(own)!r}"
                )


@cache
def _names_of(folder: Path) -> tuple[str, ...]:
    return tuple(str(path.relative_to(folder)) for path in sorted(folder.rglob("*.yaml")))


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


def _history(which: tuple[str, str], configs: Sequence[DictConfig], member: Any) -> _History:
    history = _History(member)
    for config in configs:
        chosen = _choices([config]).get(which, history.member)
        if chosen != history.member:
            history.replace(chosen)
        body = OmegaConf.select(config, which[1])
        if body is None:
            continue
        if not isinstance(body, DictConfig) or "_target_" in body:
            history.replace(_Class())
        history.kept.append(body)
    return history


def _whole(
    which: tuple[str, str], picked: Any, member: Any, histories: Sequence[_History]
) -> _Plug:
    """What is to stand under a key: what files set of that very member, and nothing else."""
    own: list[Any] = []
    others: list[Any] = []
    for history in histories:
        of_it = history.member is member or history.member == member
        own += history.kept if of_it else []
        others += history.others if of_it else [*history.others, *history.kept]
    return _Plug(*which, picked, isinstance(member, _Class), own, others)


@dataclass(frozen=True, slots=True)
class _Plug:
    """What is to stand under a key.

    Attributes:
        group: The group of its member.
        key: Where it stands.
        member: The name of the member that hydra reads; None for no plug.
        is_class: Whether a class of a file stands there in that member's place.
        own: What files set of it.
        others: What they set of what it takes the place of.
    """

    group: str
    key: str
    member: Any
    is_class: bool
    own: list[Any]
    others: list[Any]

    def restored(self, places: Sequence[Path], set_here: set[str]) -> Iterator[str]:
        """Overrides after which nothing of anything else is left."""
        files = _with_parents(self.group, self.member, places)
        others = [*self.others, *files] if self.is_class else self.others
        named = self.is_class and not all(isinstance(body, DictConfig) for body in self.own)
        if not others or named:
            return
        if self.member is None and not self.is_class:
            yield f"++{self.key}=null"
        if not isinstance(self.member, str):
            return
        merged = OmegaConf.merge({}, *([] if self.is_class else files), *self.own)
        plain: Any = OmegaConf.to_container(merged, resolve=False)
        plain.pop("defaults", None)
        if not all(isinstance(body, DictConfig) for body in others):
            yield f"++{self.key}={_value(plain)}"
            return
        names = dict.fromkeys(str(name) for body in others for name in body if name != "defaults")
        if self.group in SEVERAL_AT_ONCE or not self.others:
            names = dict.fromkeys(name for name in names if name not in plain)
        for name in names:
            key = f"{self.key}.{name}"
            if name != "_target_" and (name in plain or key not in set_here):
                # Hydra looks up what it deletes, which may be null, or point at what is gone.
                yield f"++{key}=0"
                yield f"~{key}"
        if not plain.keys().isdisjoint(names):
            yield f"++{self.key}={_value(plain)}"


def _with_parents(
    group: str, name: Any, places: Sequence[Path], through: Sequence[str] = RECIPES
) -> list[DictConfig]:
    """The files of a member, those that its defaults name first; none where there is no such."""
    found = [path for place in places if (path := place / group / f"{name}.yaml").is_file()]
    config = _loaded(found[0], found[0].stat().st_mtime_ns) if found else None
    if not isinstance(config, DictConfig):
        return []
    parents: list[DictConfig] = []
    for entry in config.get("defaults", []):
        pairs = entry.items() if isinstance(entry, DictConfig) else [(group, entry)]
        for above, parent in pairs:
            of = str(above).removeprefix("override ").removeprefix("/")
            if isinstance(parent, str) and parent.startswith("/"):
                of, _, parent = parent[1:].rpartition("/")
            if (of == group or of in through) and isinstance(parent, str) and parent != "_self_":
                parents += _with_parents(of, parent, places, through)
    return [*parents, config]


@cache
def _loaded(path: Path, written_ns: int) -> Any:
    """A file's content, read once as long as it stays as it is."""
    return OmegaConf.load(path)


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
