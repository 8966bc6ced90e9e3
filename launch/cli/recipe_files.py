"""Files of recipes and experiments: which there are, what they are built on, and which count more.

experiment=E recipe=R                         -> E's files, then R's
experiment=E, which has override /recipe: R   -> those that E is built on, R's, then E
hydra merges                                  -> R's files, then E's
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from launch.cli.own_code import package_of
from launch.cli.refusals import UserError

RECIPES = ("recipe", "experiment")
"""Groups of recipes, in the order in which a program merges them."""


@dataclass(frozen=True, slots=True)
class Files:
    """Files of a recipe and an experiment, each after those that it is built on.

    Attributes:
        ranked: All of them; the later ones count more.
        merged: All of them, in the order in which hydra merges them.
        recipe: The recipe's.
    """

    ranked: list[DictConfig]
    merged: list[DictConfig]
    recipe: list[DictConfig]


def files_of(
    given: Sequence[Override], primary: Sequence[DictConfig], places: Sequence[Path]
) -> Files:
    """Return the files of the recipe and the experiment that are chosen.

    Args:
        given: The overrides of a command line.
        primary: The program's own files.
        places: Folders of configurations.
    """
    names = {group: member for (group, _), member in choices(primary).items() if group in RECIPES}
    typed = {each.key_or_group: each.value() for each in given if each.key_or_group in RECIPES}
    names |= typed
    experiment = with_parents("experiment", names.get("experiment"), places)
    own = choices(experiment).get(("recipe", "recipe"))
    name = names.get("recipe") if own is None or "recipe" in typed else own
    recipe = with_parents("recipe", name, places)
    merged = [*recipe, *experiment]
    if recipe and any(config is recipe[-1] for config in experiment):
        return Files(experiment, merged, recipe)
    if own is None or name != own:
        return Files([*experiment, *recipe], merged, recipe)
    ranked = with_parents("experiment", names["experiment"], places, own)
    return Files(ranked, merged, recipe)


def with_parents(
    group: str, name: Any, places: Sequence[Path], recipe: Any = None
) -> list[DictConfig]:
    """The files of a member, those that its defaults name first; none where there is no such.

    Args:
        group: The member's.
        name: The member's.
        places: Folders of configurations.
        recipe: A recipe whose files belong where it is chosen; hydra merges them before.
    """
    found = [path for place in places if (path := place / group / f"{name}.yaml").is_file()]
    config = _loaded(found[0], found[0].stat().st_mtime_ns) if found else None
    if not isinstance(config, DictConfig):
        return []
    parents: list[DictConfig] = []
    for entry in config.get("defaults", []):
        if isinstance(entry, DictConfig):
            named = [str(key).removeprefix("override ").removeprefix("/") for key in entry]
            if recipe is not None and named == ["recipe"] and recipe in entry.values():
                parents += with_parents("recipe", recipe, places)
            continue
        of, parent = group, str(entry)
        if parent.startswith("/"):
            of, _, parent = parent[1:].rpartition("/")
        if of in (group, *RECIPES) and parent != "_self_":
            parents += with_parents(of, parent, places, recipe)
    return [*parents, config]


@cache
def _loaded(path: Path, written_ns: int) -> Any:
    """A file's content, read once as long as it stays as it is."""
    return OmegaConf.load(path)


def choices(configs: Sequence[DictConfig]) -> dict[tuple[str, str], Any]:
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


def check_names(places: Sequence[Path]) -> None:
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
