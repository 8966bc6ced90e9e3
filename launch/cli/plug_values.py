"""Whether the numbers and switches among a plug's settings are such, which no schema says.

objective.clip_low=null -> objective.clip_low must be a number, got None
"""

import dataclasses
import inspect
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

_KINDS: dict[frozenset[str], tuple[str, tuple[type, ...]]] = {
    frozenset({"int"}): ("a whole number", (int,)),
    frozenset({"float"}): ("a number", (int, float)),
    frozenset({"int", "float"}): ("a number", (int, float)),
    frozenset({"bool"}): ("true or false", (bool,)),
}
"""By what a field is annotated with: what its value must be, and the types of such."""


def check_kinds(node: DictConfig) -> None:
    """Refuse a text, null or list where a plug's dataclass has a number, and a number for a switch.

    Fields of other annotations are for the plug itself to judge.

    Args:
        node: What describes the plug, with its `_target_`, and those within it.

    Raises:
        ValueError: Beginning with the key and ending with the value.
        OmegaConfBaseException: If a value is missing or cannot be resolved.
    """
    for name in node:
        child = node._get_node(name)
        if (
            isinstance(child, DictConfig)
            and not (child._is_none() or child._is_missing() or child._is_interpolation())
            and "_target_" in child
        ):
            check_kinds(child)
    try:
        plug: Any = get_object(node["_target_"])
    except Exception:
        # What cannot be found is told of where it is built.
        return
    if not (inspect.isclass(plug) and dataclasses.is_dataclass(plug)):
        return
    for field in dataclasses.fields(plug):
        if field.name not in node:
            continue
        words = _words(field.type)
        wanted, types = _KINDS.get(words - {"None"}, ("", ()))
        value = node[field.name]
        if not types or (value is None and "None" in words):
            continue
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            # Not resolved, for what comes from the environment may be a secret.
            written: Any = OmegaConf.to_container(node, resolve=False)
            key = node._get_full_key(field.name)
            raise ValueError(f"{key} must be {wanted}, got {written[field.name]!r}")


def _words(annotation: Any) -> frozenset[str]:
    """Take an annotation apart, written out or not: {"float", "None"} of `float | None`."""
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    return frozenset(part.strip() for part in text.split("|"))
