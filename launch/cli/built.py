"""From a composed configuration to the objects that it describes."""

from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf

from launch.cli.plug_values import check_kinds


def built(node: Any) -> Any:
    """Return what `hydra.utils.instantiate(node, _convert_="object")` returns, plugs included.

    hydra does no more than instantiate what has a `_target_`: it would copy and check everything
    around that at every level anew, which takes four times as long.

    Args:
        node: A configuration or a part of it; other values stay as they are.

    Raises:
        InstantiationException: If a plug does not take its settings.
        OmegaConfBaseException: If a value is missing or cannot be resolved.
        ValueError: If a dataclass of the schema refuses its values, or a plug's setting is not of
            the kind that its field says.
    """
    if isinstance(node, DictConfig | ListConfig) and node._is_none():
        return None
    if isinstance(node, ListConfig):
        return [built(value) for value in node]
    if not isinstance(node, DictConfig):
        return node
    if "_target_" in node:
        check_kinds(node)
        return instantiate(node, _convert_="object")
    values: dict[Any, Any] = {key: built(value) for key, value in node.items()}
    kind: Any = OmegaConf.get_type(node)
    return values if kind is dict else kind(**values)
