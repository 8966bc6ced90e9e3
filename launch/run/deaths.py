"""Who died, and how, told from the errors that Ray raises.

The death of an actor reaches whoever awaits it, and whoever awaits that one in turn, wrapped in one
more error each time. The death of the cluster may reach anybody as any error.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ray import exceptions

from launch.cli.refusals import RunError

_HOW = (
    ("memory monitor", "was killed for want of memory"),
    ("out-of-memory", "was killed for want of memory"),
    ("ray.kill", "was killed by this run"),
    ("creation task", "could not start"),
    ("node was terminated", "was lost with its node"),
    ("node has died", "was lost with its node"),
    ("INTENDED", "ended by itself"),
)
"""What Ray's texts have in them, and what it means; the first that is found counts."""


class PartDied(RunError):  # noqa: N818
    """A part of a run died or hangs."""

    def __init__(self, part: str, how: str, log: str, stacks: str = "") -> None:
        """Say it in one line.

        Args:
            part: "scheduler", "learner 1", "rollout actor 0" or "cluster".
            how: What became of it, such as "does not answer for 30 s".
            log: Its own log, or the folder with the logs of all.
            stacks: Folder with what all parts were doing; "" where nobody looked.
        """
        logs = f"its log is {log}" if log.endswith(".err") else f"logs are in {log}"
        doing = f", and what each part was doing in {stacks}" if stacks else ""
        super().__init__(f"{part} {how}; {logs}{doing}")
        self.part, self.how, self.log, self.stacks = part, how, log, stacks


@dataclass(frozen=True, slots=True)
class ActorDeath:
    """What Ray says of an actor that died.

    Example:
        ActorDeath(actor_id="183870d3f200f260750b3e1d01000000", how="died")
    """

    actor_id: str
    """Hexadecimal; "" where Ray does not say."""
    how: str


def actor_death(error: BaseException) -> ActorDeath | None:
    """Return the actor's death that an error tells of, whoever it was told first; None for none."""
    found = None
    # The innermost one is of whom the others awaited.
    for inner in _causes(error):
        if isinstance(inner, exceptions.RayTaskError):
            continue
        if isinstance(inner, exceptions.RayActorError):
            found = ActorDeath(inner.actor_id or "", _how(inner))
        elif isinstance(inner, exceptions.OutOfMemoryError):
            found = ActorDeath("", "was killed for want of memory")
    return found


def data_lost(error: BaseException) -> bool:
    """Say whether an error tells of data that were lost with their node."""
    return any(isinstance(inner, exceptions.ObjectLostError) for inner in _causes(error))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and those it wraps, from the outside in."""
    inner: BaseException | None = error
    while inner is not None:
        yield inner
        # What a task raised comes as a RayTaskError that is of the cause's class, too.
        inner = inner.cause if isinstance(inner, exceptions.RayTaskError) else inner.__cause__


def _how(error: exceptions.RayActorError) -> str:
    if isinstance(error, exceptions.ActorUnavailableError):
        return "cannot be reached"
    text = str(error)
    return next((how for part, how in _HOW if part in text), "died")
