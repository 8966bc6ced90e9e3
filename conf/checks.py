"""What the checks of a configuration share.

The contract of a plug stands where plugs of its kind live. Those that need torch or lie in `launch`
cannot be imported from here, so that what configurations ask of such plugs is repeated below.
"""

from typing import Any, Protocol, runtime_checkable


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
