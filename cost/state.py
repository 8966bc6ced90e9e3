"""What plugs learn: one rule for every plug point, and the way to plain data and back.

A plug holds settings. One that learns also has

    initial_state(prompts) -> state
    update(state, prompts, visits) -> state          pure: the given state is left as it is

and its method takes `state=` as a keyword. One that does not learn has none of the three; here its
state is None. A state is a frozen dataclass of arrays, numbers and other such dataclasses.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from typing import Any, ParamSpec, TypeVar

from cost.prompts import PromptPool, Visit

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class NoState:
    """State of a plug point that always has one, for a member that remembers nothing."""


def learns(plug: Any) -> bool:
    """Tell whether a plug keeps statistics between steps."""
    return hasattr(plug, "initial_state")


def initial_state(plug: Any, prompts: PromptPool) -> Any:
    """Return the state of a plug before its first observation; None if it does not learn."""
    return plug.initial_state(prompts) if learns(plug) else None


def updated(plug: Any, state: Any, prompts: PromptPool, visits: Sequence[Visit]) -> Any:
    """Return the state of a plug after some visits, which are in ticket order."""
    return plug.update(state, prompts, visits) if learns(plug) else None


def with_state(method: Callable[Arguments, Result], state: Any) -> Callable[Arguments, Result]:
    """Give a plug's method its state; the method of a plug that does not learn takes none."""
    return method if state is None else partial(method, state=state)


def to_plain(state: Any) -> dict[str, Any] | None:
    """Turn a state into dicts of arrays and numbers; the arrays are shared, not to be written."""
    if state is None:
        return None
    values = {field.name: getattr(state, field.name) for field in fields(state)}
    return {
        name: to_plain(value) if is_dataclass(value) else value for name, value in values.items()
    }


def from_plain(template: Any, plain: Mapping[str, Any] | None) -> Any:
    """Rebuild a state from `to_plain`'s answer.

    Args:
        template: A state of the same plug, such as its initial one.
        plain: What `to_plain` gave.

    Raises:
        ValueError: If the fields are not those of the template.
    """
    if template is None and plain is None:
        return None
    names = [field.name for field in fields(template)] if is_dataclass(template) else []
    if plain is None or set(plain) != set(names):
        raise ValueError(
            f"state must have the fields {names!r} of {type(template).__name__}, "
            f"got {None if plain is None else sorted(plain)!r}"
        )
    values = {
        name: from_plain(getattr(template, name), plain[name])
        if is_dataclass(getattr(template, name))
        else plain[name]
        for name in names
    }
    return type(template)(**values)
