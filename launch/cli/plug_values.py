"""Whether a plug has its settings, and numbers, switches and lists are such: no schema says so.

objective.clip_low=null -> objective.clip_low must be a number, got None
+objective.clip_lo=0.1  -> objective.clip_lo must be left out: ... did you mean objective.clip_low?
"""

import dataclasses
import inspect
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig, OmegaConf

from conf.keys import nearest

_KINDS: dict[frozenset[str], tuple[str, tuple[type, ...]]] = {
    frozenset({"int"}): ("a whole number", (int,)),
    frozenset({"float"}): ("a number", (int, float)),
    frozenset({"int", "float"}): ("a number", (int, float)),
    frozenset({"bool"}): ("true or false", (bool,)),
}
"""By what a field is annotated with: what its value must be, and the types of such."""


def check_kinds(node: DictConfig) -> None:
    """Refuse settings that a plug's dataclass does not take, and values of another kind.

    Kinds are numbers, switches and lists. Fields of other annotations are for the plug to judge.

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
    _check_names(node, plug)
    for field in dataclasses.fields(plug):
        if field.name not in node:
            continue
        words = _words(field.type)
        wanted, types = _kind(words - {"None"})
        value = node[field.name]
        if not types or (value is None and "None" in words):
            continue
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            key = node._get_full_key(field.name)
            raise ValueError(f"{key} must be {wanted}, got {_written(node, field.name)!r}")


def _check_names(node: DictConfig, plug: type) -> None:
    taken = inspect.signature(plug).parameters
    if any(each.kind is each.VAR_KEYWORD for each in taken.values()):
        return
    for name in (str(each) for each in node):
        if name in taken or name.startswith("_"):
            continue
        if {"path", "settings"} <= taken.keys():
            # Of a function or class of the user's, whose settings have a place of their own.
            own = node._get_full_key("settings")
            raise ValueError(
                f"{node._get_full_key(name)} must be left out: settings of what "
                f"{node._get_full_key('path')} names go under {own}, as {own}.{name}; "
                f"got {_written(node, name)!r}"
            )
        close = nearest(name, taken)
        meant = f"; did you mean {node._get_full_key(close)}?" if close else ""
        raise ValueError(
            f"{node._get_full_key(name)} must be left out: {plug.__name__} has no such setting"
            f"{meant}; there are {', '.join(sorted(taken)) or 'none'}; "
            f"got {_written(node, name)!r}"
        )


def _kind(words: frozenset[str]) -> tuple[str, tuple[type, ...]]:
    if all(each.startswith(("list[", "tuple[")) for each in words):
        return "a list, such as [A,B]", (ListConfig,)
    return _KINDS.get(words, ("", ()))


def _written(node: DictConfig, name: str) -> Any:
    """A value as it stands there: not resolved, for what the environment gives may be a secret."""
    plain: Any = OmegaConf.to_container(node, resolve=False)
    return plain[name]


def _words(annotation: Any) -> frozenset[str]:
    """Take an annotation apart, written out or not: {"float", "None"} of `float | None`."""
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    return frozenset(part.strip() for part in text.split("|"))
