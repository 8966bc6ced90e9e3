"""Members of groups that a command line chooses in the place of a recipe's, whole.

Hydra merges what files set of a plug over whichever member there is in the end, and takes an
experiment's choice of a member before a recipe's:

    experiment=jsonl_math task=gsm8k -> gsm8k, but from jsonl_math's file
    reward: {_target_: mine.Reward}  reward=math -> mine.Reward
    override /objective: cispo       recipe=grpo -> cispo

What the command line names counts: a member is what its file says, and a recipe has the members
that it chooses, with what the command line sets of them. A member that an experiment has chosen
itself keeps the experiment's settings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    recipe, experiment = (_with_parents(each, names.get(each, ""), places) for each in RECIPES)
    own = {
        (each.key_or_group, each.package or package_of(each.key_or_group)): each.value()
        for each in given
        if each.key_or_group in GROUPS and each.key_or_group not in RECIPES
    }
    if not (recipe or experiment) or not (recipe or own):
        return list(arguments)
    set_here = {each.key_or_group for each in given}
    primary = _with_parents("", program, [CONF])
    undone: list[str] = []
    chosen = _choices([*primary, *recipe, *experiment])
    for (group, key), member in own.items():
        plug = _Plug(group, key, member, [], _bodies(key, [*recipe, *experiment]))
        if not plug.is_that_of(chosen):
            undone += plug.restored(places, set_here)
    chosen = _choices([*primary, *experiment])
    for (group, key), member in _choices(recipe).items():
        plug = _Plug(group, key, member, _bodies(key, recipe), _bodies(key, experiment))
        if (group, key) not in own and not plug.is_that_of(chosen):
            if _choices(experiment).get((group, key), member) != member:
                undone.append(f"{group}={member}" if key == group else f"{group}@{key}={member}")
            undone += plug.restored(places, set_here)
    return [*undone, *arguments]


@dataclass(frozen=True, slots=True)
class _Plug:
    """A member that the command line chooses, by itself or through a recipe.

    Attributes:
        group: Its group.
        key: Where it stands.
        member: Its name; None for no plug.
        own: What the recipe that chooses it sets of it.
        others: What other files set under its key.
    """

    group: str
    key: str
    member: Any
    own: list[Any]
    others: list[Any]

    def is_that_of(self, chosen: Mapping[tuple[str, str], Any]) -> bool:
        """Whether it is what those files have chosen, so that their settings are of it."""
        named = any(not isinstance(body, DictConfig) or "_target_" in body for body in self.others)
        return not named and chosen.get((self.group, self.key)) == self.member

    def restored(self, places: Sequence[Path], set_here: set[str]) -> Iterator[str]:
        """Overrides after which nothing of the other files is left."""
        if self.others and self.member is None:
            yield f"++{self.key}=null"
        if not self.others or not isinstance(self.member, str):
            return
        files = _with_parents(self.group, self.member, places)
        merged = OmegaConf.merge({}, *files, *self.own)
        plain: Any = OmegaConf.to_container(merged, resolve=False)
        plain.pop("defaults", None)
        if not all(isinstance(body, DictConfig) for body in self.others):
            yield f"++{self.key}={_value(plain)}"
            return
        for name in dict.fromkeys(str(name) for body in self.others for name in body):
            key = f"{self.key}.{name}"
            if key not in set_here:
                # Hydra looks up what it deletes, which may be null, or point at what is gone.
                yield f"++{key}=0"
                yield f"~{key}"
                if name in plain:
                    yield f"++{key}={_value(plain[name])}"


def _bodies(key: str, configs: Sequence[DictConfig]) -> list[Any]:
    """What files set under a key."""
    return [body for each in configs if (body := OmegaConf.select(each, key)) is not None]


def _with_parents(group: str, name: str, places: Sequence[Path]) -> list[DictConfig]:
    """The files of a member, those that its defaults name first; none where there is no such."""
    found = [path for place in places if (path := place / group / f"{name}.yaml").is_file()]
    config = OmegaConf.load(found[0]) if found else None
    if not isinstance(config, DictConfig):
        return []
    parents: list[DictConfig] = []
    for entry in config.get("defaults", []):
        pairs = entry.items() if isinstance(entry, DictConfig) else [(group, entry)]
        for above, parent in pairs:
            of = str(above).removeprefix("override ").removeprefix("/")
            if (of == group or of in RECIPES) and isinstance(parent, str) and parent != "_self_":
                parents += _with_parents(of, parent, places)
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
