"""From a composed configuration to its schema's dataclasses.

    RunConfig node -> {model: ModelConfig, task: ChainTask, ...} -> RunConfig(**these)

Plugs are hydra's to build. Of schemas it makes several objects each, as it puts every finished
section back into a configuration to read it once more: half a program's time before it starts.
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
    if isinstance(node, ListConfig) and not node._is_none():
        return [_typed(each) for each in node]
    if not isinstance(node, DictConfig) or node._is_none():
        return None if isinstance(node, DictConfig | ListConfig) else node
    if "_target_" in node:
        return instantiate(node, _convert_="object")
    values = {str(name): _typed(value) for name, value in node.items()}
    made = OmegaConf.get_type(node)
    return values if made in (None, dict) else made(**values)
