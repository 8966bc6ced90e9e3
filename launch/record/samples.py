"""One group of a step as rows for people to read."""

from collections.abc import Sequence

from cost.types import Selection
from launch.record.tracking import Sample
from rollout.types import Group


def samples_of(group: Group, selection: Selection, texts: Sequence[str]) -> list[Sample]:
    """Put what was asked, answered and made of it side by side, one row a response.

    Args:
        group: n responses to one prompt.
        selection: What the scheduler made of them.
        texts: [n] the responses, decoded.
    """
    rows = zip(
        texts,
        group.answers,
        group.rewards,
        group.trajectories,
        selection.advantages,
        selection.weight,
        strict=True,
    )
    return [
        Sample(
            prompt=group.prompt.text,
            response=text,
            answer=answer,
            expected=group.prompt.answer,
            reward=float(reward),
            length_tokens=len(trajectory.token_ids),
            advantage=float(advantage),
            weight=float(weight),
        )
        for text, answer, reward, trajectory, advantage, weight in rows
    ]
