"""From a composed configuration to its schema's dataclasses.

    RunConfig node -> {model: ModelConfig, task: ChainTask, ...} -> RunConfig(**these)

Plugs are hydra's to build. Of a section it makes several objects, as it puts each that is done back
into a configuration and reads that once more, which takes as long as all else here.
"""

from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf


def typed(node: Any) -> Any:
    """Build the dataclasses and plugs of a configuration, from the innermost outwards.

    Args:
        node: A configuration as composed, of any program, or any value in it; it stays as it is.

    Raises:
        OmegaConfBaseException: If a value is missing or cannot be resolved.
        InstantiationException: With what a plug raised.
        ValueError: With what a schema's check says.
    """
    if not isinstance(node, DictConfig | ListConfig):
        return node
    if node._is_none():
        return None
    if isinstance(node, ListConfig):
        return [typed(each) for each in node]
    if "_target_" in node:
        return instantiate(node, _convert_="object")
    values: dict[Any, Any] = {name: typed(value) for name, value in node.items()}
    schema = OmegaConf.get_type(node)
    return values if schema in (None, dict) else schema(**values)
