"""Whose code a configuration names, told without running any of it.

What `_target_` names is called when the configuration is built. A configuration that the user runs
may name anything, which is said before; one that was found in a run folder is data, of which
nothing but settings of this project is built.
"""

import inspect
from collections.abc import Iterator
from dataclasses import is_dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from conf.own_code import BUILD, FILE, MEMBERS

ROOMS = ("conf", "cost", "launch", "learner", "rollout")
"""Packages of this project."""
NAMES_CODE = (BUILD, *MEMBERS.values())
"""Settings of this project that name code of others, by their `path`."""


def foreign_code(config: DictConfig) -> dict[str, str]:
    """Name the code of others that building a configuration runs.

    Args:
        config: As composed, of any program.

    Returns:
        The file of each, as far as it is known, by key and name; empty for none.
    """
    try:
        plain = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException:
        # Whatever cannot be resolved, building it says so with the key.
        plain = OmegaConf.to_container(config, resolve=False)
    return {
        f"{key} {target}": _file_of(target)
        for key, target in _named(plain, "")
        if _is_foreign(target)
    }


def require_own_settings(node: Any, key: str, room: str) -> None:
    """Refuse plain values of a run folder that name more than settings of one of our packages.

    Args:
        node: What was read.
        key: Where it stood.
        room: The package, such as "cost".

    Raises:
        ValueError: Naming key and target, or an interpolation, which could make another one.
    """
    if "${" in repr(node):
        raise ValueError(f"{key} must hold plain values, got an interpolation")
    for at, target in _named(node, key):
        ours = target.startswith(f"{room}.") and not _is_foreign(target)
        found = _found(target) if ours else None
        if not (isinstance(found, type) and is_dataclass(found)):
            raise ValueError(
                f"{at} must name settings of {room}, for a run folder is data and none of its code "
                f"is run, got {target!r}"
            )


def _named(node: Any, key: str) -> Iterator[tuple[str, str]]:
    """Key and name of all that is called or imported when a node is built."""
    if isinstance(node, dict):
        if "_target_" in node:
            target = str(node["_target_"])
            yield key, str(node.get("path")) if target in NAMES_CODE else target
        for part, child in node.items():
            if part not in ("_target_", "path") or not isinstance(child, str):
                yield from _named(child, f"{key}.{part}" if key else str(part))
    elif isinstance(node, list):
        for place, child in enumerate(node):
            yield from _named(child, f"{key}[{place}]")
    elif isinstance(node, str) and FILE.fullmatch(node):
        # A plug or a tool of a recipe, which is written out later.
        yield key, node


def _is_foreign(target: str) -> bool:
    """Whether a name stands for what this project does not define.

    A module of ours may import os, so that "cost.module.os.system" does. What stands for nothing
    does not: building it says so with the key.
    """
    if target.partition(".")[0] not in ROOMS:
        return True
    found = _found(target)
    if found is None:
        return False
    module = inspect.getmodule(found)
    return module is None or module.__name__.partition(".")[0] not in ROOMS


def _found(target: str) -> Any:
    """What a name of this project stands for; None for nothing."""
    parts = target.split(".")
    for at in range(len(parts), 0, -1):
        try:
            found: Any = import_module(".".join(parts[:at]))
        except (ModuleNotFoundError, ValueError):
            continue
        for part in parts[at:]:
            found = getattr(found, part, None)
        return found
    return None


def _file_of(target: str) -> str:
    """Where the code lies, as far as that can be told without importing it."""
    place = target.rpartition(":")[0] or target
    if place.endswith(".py"):
        return str(Path(place).absolute())
    try:
        spec = find_spec(place.partition(".")[0])
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        return "not found"
    return spec.origin or ", ".join(spec.submodule_search_locations or ()) or "built in"
