"""From a composed configuration to its schema's dataclasses.

    RunConfig node -> {model: ModelConfig, task: ChainTask, ...} -> RunConfig(**these)

Plugs are hydra's to build. Of a section it makes several objects, as it puts each that is done back
into a configuration and reads that once more, which takes as long as all else here.
"""

import copy
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf


def typed(config: DictConfig) -> Any:
    """Build the dataclasses and plugs of a configuration, from the innermost outwards.

    Args:
        config: As composed, of any program; it stays as it is.

    Raises:
        OmegaConfBaseException: If a value is missing or cannot be resolved.
        InstantiationException: With what a plug raised.
        ValueError: With what a schema's check says.
    """
    resolved = copy.deepcopy(config)
    OmegaConf.set_readonly(resolved, False)
    OmegaConf.resolve(resolved)
    return _typed(resolved)


def _typed(node: Any) -> Any:
    if not isinstance(node, DictConfig | ListConfig):
        return node
    if node._is_none():
        return None
    if isinstance(node, ListConfig):
        return [_typed(each) for each in node]
    if "_target_" in node:
        return instantiate(node, _convert_="object")
    values: dict[Any, Any] = {name: _typed(value) for name, value in node.items()}
    schema = OmegaConf.get_type(node)
    return values if schema in (None, dict) else schema(**values)
