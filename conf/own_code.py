"""Code of the user where a configuration speaks of a class: a file, or a function.

    reward: {_target_: my_module.my_function, limit: 3}
    -> {_target_: ...FunctionReward, path: my_module:my_function, settings: {limit: 3}}
    allocator: {_target_: my_file.py:Mine, floor: 0.1}
    -> {_target_: rollout.own_code.build, path: my_file.py:Mine, floor: 0.1}

Hydra imports what `_target_` names, which no file is, and calls it, which for a function that
scores would be too early. Groups with a member `function` take functions.
"""

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rollout.rewards.function import scores_responses

FILE = re.compile(r"[^:]+\.py:[\w.]+")
"""FILE.py:NAME."""
BUILD = "rollout.own_code.build"
MEMBERS = {
    "reward": "rollout.rewards.function.FunctionReward",
    "task": "rollout.tasks.function.FunctionTask",
    "environment": "rollout.environments.function.FunctionEnvironment",
    "objective": "learner.objectives.function.FunctionObjective",
    "tool": "rollout.tools.own_function.OwnTool",
}
"""By group, the plug that holds a function: what conf/GROUP/function.yaml names, and of tools what
stands for `environment.tools=[FILE.py:NAME]`."""


def with_own_code(config: DictConfig) -> DictConfig:
    """Return the configuration with every file and function named by its path.

    Args:
        config: As composed, of any program; it stays as it is.
    """
    found = _with_tools(config)
    for key, plug in list(plugs(found, "")):
        for within, path in list(files_within(plug, key)):
            found = found if found is not config else config.copy()
            OmegaConf.update(found, f"{within}._target_", BUILD)
            OmegaConf.update(found, f"{within}.path", path, force_add=True)
        node = OmegaConf.select(found, key)
        # A name with a dot in it, which is refused later, is not found by its key.
        named = None if node is None else _named(group_of(key), node)
        if named is not None:
            found = found if found is not config else config.copy()
            OmegaConf.update(found, key, named, merge=False, force_add=True)
    return found


def _with_tools(config: DictConfig) -> DictConfig:
    """Write out the tools of an environment that are named by their file alone."""
    tools = OmegaConf.select(config, "environment.tools", throw_on_missing=False)
    if not isinstance(tools, ListConfig):
        return config
    plain: Any = OmegaConf.to_container(tools, resolve=False)
    written = [
        {"_target_": MEMBERS["tool"], "path": each}
        if isinstance(each, str) and FILE.fullmatch(each)
        else each
        for each in plain
    ]
    found = config.copy()
    OmegaConf.update(found, "environment.tools", written, merge=False, force_add=True)
    return found


def group_of(key: str) -> str:
    """Return the group whose members stand under a key, "" if none of them holds functions."""
    name = key.rpartition(".")[2]
    name = "task" if name == "held_out" else name
    return name if name in MEMBERS else ""


def plugs(node: DictConfig | ListConfig, key: str) -> Iterator[tuple[str, DictConfig]]:
    """Key and node of every plug in a configuration."""
    if isinstance(node, ListConfig):
        return
    for name in node:
        child = node._get_node(name)
        if not isinstance(child, DictConfig) or child._is_none() or child._is_missing():
            continue
        where = f"{key}.{name!s}" if key else str(name)
        if child._is_interpolation():
            continue
        if "_target_" in child:
            yield where, child
        else:
            yield from plugs(child, where)


def files_within(node: Any, key: str) -> Iterator[tuple[str, str]]:
    """Key and FILE.py:NAME of all that stands in a plug and is named by its file."""
    for at in range(len(node)) if isinstance(node, ListConfig) else node:
        child, where = node._get_node(at), f"{key}.{at!s}"
        if isinstance(child, DictConfig | ListConfig) and not (
            child._is_none() or child._is_missing() or child._is_interpolation()
        ):
            yield from files_within(child, where)
            target = child.get("_target_") if isinstance(child, DictConfig) else None
            if isinstance(target, str) and FILE.fullmatch(target):
                yield where, target


def _named(group: str, node: DictConfig) -> dict[str, Any] | None:
    try:
        target = str(node.get("_target_"))
        is_file = FILE.fullmatch(target) is not None
        if not is_file and not (group in MEMBERS and _is_function(group, target)):
            return None
        settings: Any = OmegaConf.to_container(node, resolve=True)
    except OmegaConfBaseException:
        # Building it says so with the key.
        return None
    others = {name: value for name, value in settings.items() if not name.startswith("_")}
    if group in MEMBERS and isinstance(others.get("settings"), dict):
        # As on the command line: of what a file names by itself, they are typed so.
        others |= others.pop("settings")
    if is_file and group not in MEMBERS:
        return {"_target_": BUILD, "path": target, **others}
    module, _, name = target.rpartition(".")
    fields = inspect.signature(get_object(MEMBERS[group])).parameters.keys() - {"path", "settings"}
    return {
        "_target_": MEMBERS[group],
        "path": target if is_file else f"{module}:{name}",
        "settings": {name: value for name, value in others.items() if name not in fields},
        **{name: value for name, value in others.items() if name in fields},
    }


def _is_function(group: str, target: str) -> bool:
    try:
        found = get_object(target)
    except Exception:
        # Whatever is wrong with it, building it says so with the key.
        return False
    return inspect.isfunction(found) and _FITS[group](found)


def _makes_losses(function: Callable[..., Any]) -> bool:
    # Objectives import torch, which is for those who name one.
    from learner.objectives.function import GIVEN

    return bool(set(GIVEN) & inspect.signature(function).parameters.keys())


_FITS: dict[str, Callable[[Callable[..., Any]], bool]] = {
    "reward": scores_responses,
    "task": lambda _: True,
    "environment": inspect.iscoroutinefunction,
    "tool": lambda _: False,
    "objective": _makes_losses,
}
"""By group, which functions are plugs themselves and not what makes one."""
