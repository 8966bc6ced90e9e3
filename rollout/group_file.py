"""A group that nobody has learned from yet, as a file without pickle.

group -> save_group -> file -> load_group -> group, equal to the bit
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cost.state_file import load_state, save_state
from cost.types import PlayEnd, Ticket
from rollout.types import Group, Prompt, Trajectory, Turn, VersionSpan


def save_group(path: Path, group: Group) -> None:
    """Write a group; OSError if it cannot be written."""
    plain = asdict(group)
    # Answers and spans are read back as lists, and no array holds texts of such lengths.
    save_state(path, plain)


def load_group(path: Path) -> Group:
    """Read what `save_group` wrote.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it holds no group.
    """
    plain = load_state(path)
    try:
        return Group(
            ticket=Ticket(**plain["ticket"]),
            prompt=Prompt(**{**plain["prompt"], "features": tuple(plain["prompt"]["features"])}),
            trajectories=tuple(_trajectory(one) for one in plain["trajectories"]),
            rewards=plain["rewards"],
            reward_components=plain["reward_components"],
            reward_status=plain["reward_status"],
            answers=tuple(plain["answers"]),
            seconds=plain["seconds"],
            reward_failure=plain["reward_failure"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"path must be a file of save_group, got {str(path)!r}") from error


def _trajectory(plain: Mapping[str, Any]) -> Trajectory:
    spans = tuple(VersionSpan(**span) for span in plain["version_spans"])
    turns = tuple(Turn(**turn) for turn in plain["turns"])
    ending = None if plain["ending"] is None else PlayEnd(plain["ending"])
    return Trajectory(**{**plain, "version_spans": spans, "turns": turns, "ending": ending})
