"""What plugs learn: one rule for every plug point, and the way to plain data and back.

A plug holds settings. One that learns also has

    initial_state(prompts) -> state
    update(state, prompts, visits) -> state          pure: the given state is left as it is

and its method takes `state=` as a keyword. One that does not learn has none of the three; its state
is None. A state is a frozen dataclass of arrays, numbers and other such dataclasses. The scheduler
binds plugs and states together (`cost.scheduler.plugs`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from typing import Any, Protocol, runtime_checkable

from cost.prompts import PromptPool, Visit


@dataclass(frozen=True, slots=True)
class NoState:
    """State of a plug point that always has one, for a member that remembers nothing."""


@runtime_checkable
class Learns(Protocol):
    """A plug that keeps statistics between steps."""

    def initial_state(self, prompts: PromptPool) -> Any:
        """Return the state before the first observation."""

    def update(self, state: Any, prompts: PromptPool, visits: Sequence[Visit]) -> Any:
        """Return the state after one batch's visits, which are in ticket order."""


class HasState(Protocol):
    """A part whose state is saved and loaded as plain data."""

    def state_dict(self) -> dict[str, Any]:
        """Return everything as dicts of arrays and numbers."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""


def initial_state(plug: Any, prompts: PromptPool) -> Any:
    """Return the state of a plug before its first observation; None if it does not learn.

    Raises:
        ValueError: If it is no dataclass, so that no checkpoint could hold it.
    """
    if not _learns(plug.__class__):
        return None
    state = plug.initial_state(prompts)
    if state is not None and (isinstance(state, type) or not is_dataclass(state)):
        raise ValueError(
            f"{type(plug).__name__}.initial_state must return a frozen dataclass of arrays and "
            f"numbers, which checkpoints hold, or None, got {state!r}"
        )
    return state


def updated(plug: Any, state: Any, prompts: PromptPool, visits: Sequence[Visit]) -> Any:
    """Return the state of a plug after some visits, which are in ticket order.

    Raises:
        ValueError: If it is of another type than before.
    """
    if not _learns(plug.__class__):
        return None
    found = plug.update(state, prompts, visits)
    if type(found) is not type(state):
        raise ValueError(
            f"{type(plug).__name__}.update must return the next state, of type "
            f"{type(state).__name__} as before, got {found!r}"
        )
    return found


@cache
def _learns(kind: type) -> bool:
    # Asked of every plug at every batch, and as slow as some plugs' update.
    return issubclass(kind, Learns)


def keywords(state: Any) -> dict[str, Any]:
    """Return the keyword that a plug's method takes its state by; none if it does not learn."""
    return {} if state is None else {"state": state}


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
