"""One group of a step as rows for people to read."""

from collections.abc import Callable, Sequence

from cost.types import Selection
from launch.record.tracking import Sample, SampleTurn
from rollout.types import Group, TokenArray, Trajectory


def turns_of(trajectory: Trajectory, decode: Callable[[TokenArray], str]) -> tuple[SampleTurn, ...]:
    """Take a response of several turns apart, the environment's words among them; () of one.

    Args:
        trajectory: The response.
        decode: Makes text of tokens, special ones included.
    """
    if len(trajectory.turns) < 2:
        return ()
    found, at = [], 0
    for turn in trajectory.turns:
        if turn.start > at:
            told = trajectory.token_ids[at : turn.start]
            found.append(SampleTurn(False, decode(told), len(told)))
        own = trajectory.token_ids[turn.start : turn.end]
        found.append(
            SampleTurn(True, decode(own), len(own), turn.calls, turn.failed_calls, turn.seconds)
        )
        at = turn.end
    return tuple(found)


def samples_of(
    group: Group,
    selection: Selection,
    texts: Sequence[str],
    decode: Callable[[TokenArray], str] = str,
) -> list[Sample]:
    """Put what was asked, answered and made of it side by side, one row a response.

    Args:
        group: n responses to one prompt.
        selection: What the scheduler made of them.
        texts: [n] the responses, decoded.
        decode: Makes text of a turn's tokens.
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
            end=trajectory.end.name.lower(),
            failure=trajectory.failure,
            turns=turns_of(trajectory, decode),
        )
        for text, answer, reward, trajectory, advantage, weight in rows
    ]
