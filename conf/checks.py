"""What the checks of a configuration share.

The contract of a plug stands where plugs of its kind live. Those that need torch or lie in `launch`
cannot be imported from here, so that what configurations ask of such plugs is repeated below.
"""

import dataclasses
import math
import os
import re
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

from omegaconf import DictConfig, OmegaConf

from conf.keys import nearest

LARGEST = 1e18
"""No number of a configuration is larger; what counts FLOPs or bytes a second comes near it."""
UNBOUNDED = re.compile(r"_per_second$")
"""Keys that may be infinite: a speed so large that what it is for takes no time."""
LONGEST_NAME = 100
LONGEST_PATH = 4095
LONGEST_PART = 255
"""Bytes of a path and of one name in it that Linux takes."""


def check_keys(config: DictConfig, prefix: str = "") -> None:
    """Refuse keys that the schema does not have, which `+KEY=VALUE` adds at the top.

    Args:
        config: As composed.
        prefix: What stands before its keys.

    Raises:
        ValueError: Naming the first of them.
    """
    kind = OmegaConf.get_type(config)
    if not dataclasses.is_dataclass(kind):
        return
    known = {each.name for each in dataclasses.fields(kind)}
    for key in (str(name) for name in config):
        if key not in known:
            close = nearest(key, known)
            meant = f"; did you mean {prefix}{close}?" if close else ""
            raise ValueError(
                f"{prefix}{key} must be left out: there is no such setting{meant}; there are "
                f"{', '.join(sorted(known))}; got {config._get_node(key)!r}"
            )
        node = config._get_node(key)
        if isinstance(node, DictConfig) and not (node._is_none() or node._is_missing()):
            check_keys(node, f"{prefix}{key}.")


def check_values(config: DictConfig) -> None:
    """Refuse what no setting can be, of plugs too: infinite and absurd numbers, broken text.

    Raises:
        ValueError: Beginning with the key and ending with the value.
    """
    for key, value in _leaves(OmegaConf.to_container(config, resolve=False), ""):
        if isinstance(value, str):
            require(
                _is_text(value),
                f"{key} must be text without null bytes and broken letters",
                value,
            )
        elif isinstance(value, int | float) and not UNBOUNDED.search(key):
            require(math.isfinite(value), f"{key} must be finite", value)
            require(abs(value) <= LARGEST, f"{key} must lie within +-{LARGEST:g}", value)


def _is_text(value: str) -> bool:
    return "\0" not in value and not any("\ud800" <= letter <= "\udfff" for letter in value)


def _leaves(node: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for name, child in node.items():
            yield from _leaves(child, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list):
        for place, child in enumerate(node):
            yield from _leaves(child, f"{key}[{place}]")
    else:
        yield key, node


def require_name(key: str, name: str) -> None:
    """Raise a ValueError unless a name is safe as a file's, an actor's, a page's and a shell's."""
    require(
        re.fullmatch(rf"[A-Za-z0-9_][A-Za-z0-9_.-]{{0,{LONGEST_NAME - 1}}}", name) is not None,
        f"{key} must be 1 to {LONGEST_NAME} letters, digits, '_', '.' and '-', the first no '.' "
        "and no '-'",
        name,
    )


def require_path(key: str, path: str) -> None:
    """Raise a ValueError unless a text can be the path of a file or folder on this machine."""
    require(bool(path.strip()), f"{key} must not be empty", path)
    require(
        re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path) is None,
        f"{key} must be a path on this machine or one that its nodes share, and no URL",
        path,
    )
    require(path.isprintable(), f"{key} must be a path of printable letters", path)
    longest = max(len(os.fsencode(part)) for part in path.split("/"))
    require(
        longest <= LONGEST_PART and len(os.fsencode(path)) <= LONGEST_PATH,
        f"{key} must be at most {LONGEST_PATH} bytes long and {LONGEST_PART} between slashes",
        path[:LONGEST_NAME] + "...",
    )


def require(condition: bool, message: str, value: object) -> None:
    """Raise a ValueError that ends in the value, unless the condition holds."""
    if not condition:
        raise ValueError(f"{message}, got {value!r}")


def require_plug(key: str, plug: object, contract: type) -> None:
    """Raise a ValueError naming the key, unless the plug has what its contract asks for.

    Args:
        key: Where the configuration holds the plug.
        plug: What hydra built.
        contract: A protocol that `isinstance` can check.
    """
    if not isinstance(plug, contract):
        members = [name for name in vars(contract) if not name.startswith("_")]
        missing = next(name for name in members if getattr(plug, name, None) is None)
        raise ValueError(f"{key} must be a plug with the method {missing}, got {plug!r}")


@runtime_checkable
class ObjectivePlug(Protocol):
    """What configurations ask of `learner.objectives.types.Objective`."""

    def token_losses(self, *arguments: Any) -> Any:
        """Compute the loss of every token of a packed row."""


@runtime_checkable
class TrackerPlug(Protocol):
    """What configurations ask of `launch.record.tracking.Tracker`."""

    def open(self, run: Any) -> Any:
        """Start tracking a run."""


@runtime_checkable
class ProfilePlug(Protocol):
    """What configurations ask of `launch.study.simulation.profile.Profile`."""

    @property
    def engine(self) -> Any:
        """Say how fast the engines are."""
