"""Rewards that are functions, where a configuration speaks of a class.

    {_target_: my_module.my_function, limit: 3}
    -> {_target_: ...FunctionReward, path: my_module:my_function, settings: {limit: 3}}

Hydra calls what `_target_` names, which for a function that scores would be too early.
"""

import inspect
from collections.abc import Iterator
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from rollout.rewards.function import FunctionReward, scores_responses


def with_functions(config: DictConfig) -> DictConfig:
    """Return the configuration with every reward whose `_target_` is a function named by its path.

    Args:
        config: As composed, of any program; it stays as it is.
    """
    found = config
    for key in _reward_keys(config):
        node = OmegaConf.select(config, key, throw_on_missing=False)
        named = _named(node) if isinstance(node, DictConfig) else None
        if named is not None:
            found = found if found is not config else config.copy()
            OmegaConf.update(found, key, named, merge=False, force_add=True)
    return found


def _reward_keys(config: DictConfig) -> Iterator[str]:
    yield "reward"
    sets = OmegaConf.select(config, "evaluation.sets", throw_on_missing=False)
    for name in map(str, sets) if isinstance(sets, DictConfig) else ():
        yield f"evaluation.sets.{name}.reward"


def _named(node: DictConfig) -> dict[str, Any] | None:
    target: Any = node.get("_target_")
    try:
        function = get_object(target)
    except Exception:
        # Whatever is wrong with it, building it says so with the key.
        return None
    if not inspect.isfunction(function) or not scores_responses(function):
        return None
    module, _, name = target.rpartition(".")
    settings: Any = OmegaConf.to_container(node, resolve=True)
    return {
        "_target_": f"{FunctionReward.__module__}.{FunctionReward.__qualname__}",
        "path": f"{module}:{name}",
        "settings": {key: value for key, value in settings.items() if not key.startswith("_")},
    }
