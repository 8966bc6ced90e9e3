"""The records that rollout makes: prompts in, scored groups out.

Task -> Prompt -> engine -> Completion -> environment -> Trajectory -> reward -> Group

The examples follow ticket 17 of `cost.types`, in tokens of the model shipped with the chain task.
`array` stands for `numpy.array`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from cost.types import LengthReport, PlayEnd, Ticket

TokenArray = npt.NDArray[np.int32]
LogprobArray = npt.NDArray[np.float32]
MaskArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Prompt:
    """One question of a task, tokenised with the policy's chat template.

    Example:
        Prompt(
            index=3,
            token_ids=array([2, 69, 23, 225, 70, 15, 24, 1, 3], int32),
            answer="7",
            source="chain",
            text="a3 b+4",
            features=(1.0, 0.0, 0.0, 0.0),
        )
    """

    index: int
    """Position in the task, in [0, N)."""
    token_ids: TokenArray
    """[T_prompt]"""
    answer: str
    """What the reward compares a response with."""
    source: str
    """Name of the data set or generator; metrics are grouped by it."""
    text: str
    """The user's message as written, for samples shown to people and for rewards."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """Further columns of the task's row, by name, for rewards that ask for them: plain values."""
    features: tuple[float, ...] = ()
    """What the task knows of its difficulty, such as counts of what is to be done; as many numbers
    for each prompt of a task, of any scale (`rollout.tasks.features`)."""


@dataclass(frozen=True, slots=True)
class VersionSpan:
    """A run of tokens [start, end) that one policy version produced.

    Example: new weights arrived after the eighth token.

        VersionSpan(start=8, end=13, version=5)
    """

    start: int
    end: int
    version: int


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn.

    Example: Sampling(temperature=0.6, top_p=0.95).
    """

    temperature: float
    """At least 0; 0 is greedy."""
    top_p: float = 1.0
    """Draw among the likeliest tokens that together have this probability, in (0, 1]."""
    top_k: int = 0
    """Draw among so many of the likeliest tokens; 0 for all."""


@dataclass(frozen=True, slots=True)
class Completion:
    """One engine call's output.

    Example: "b7 #### 7" and the token that ends a message.

        Completion(
            token_ids=array([70, 27, 225, 7, 7, 7, 7, 225, 27, 1], int32),
            rollout_logprobs=array([0, -0.693, 0, 0, 0, 0, 0, 0, -0.105, 0], float32),
            finish_reason="stop",
            version_spans=(VersionSpan(start=0, end=10, version=4),),
            cached_tokens=0,
        )
    """

    token_ids: TokenArray
    """[T]"""
    rollout_logprobs: LogprobArray
    """[T] log-probabilities under the distribution that was really sampled (after temperature)."""
    finish_reason: str
    """"stop" or "length"."""
    version_spans: tuple[VersionSpan, ...]
    """Cover [0, T) without gaps, in order."""
    cached_tokens: int
    """Prompt tokens that came out of the engine's prefix cache."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One call of the engine within a play, and what the environment made of it.

    Example: the policy called a tool, which took 20 ms.

        Turn(start=0, end=9, prefill_tokens=4, seconds=0.02, calls=1, failed_calls=0)
    """

    start: int
    """The policy's tokens are [start, end) of the trajectory; what lies between two turns is the
    environment's."""
    end: int
    prefill_tokens: int
    """Tokens before `start` that the engine computed for it, cached ones excluded."""
    seconds: float = 0.0
    """Wall-clock seconds of the environment's step after it."""
    calls: int = 0
    """Calls of tools in it."""
    failed_calls: int = 0
    """Of these, bad ones and those that the tool refused."""


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One play of an environment: everything after the prompt.

    Example: "b+4=8 #### 8", which is wrong, in one turn.

        Trajectory(
            token_ids=array([70, 15, 24, 33, 28, 225, 7, 7, 7, 7, 225, 28, 1], int32),
            loss_mask=array([True] * 13),
            rollout_logprobs=array([0, -0.693, 0, 0, -2.303, 0, 0, 0, 0, 0, 0, 0, 0], float32),
            version_spans=(VersionSpan(0, 8, version=4), VersionSpan(8, 13, version=5)),
            truncated=False,
            prefill_tokens=9,
        )
    """

    token_ids: TokenArray
    """[T]"""
    loss_mask: MaskArray
    """[T] False on tokens that the environment wrote."""
    rollout_logprobs: LogprobArray
    """[T] 0 where `loss_mask` is False; of an exploring ticket, at its own temperature."""
    version_spans: tuple[VersionSpan, ...]
    truncated: bool
    """True when the length limit ended it."""
    prefill_tokens: int
    """Prompt and environment tokens the engine computed (cached ones excluded)."""
    turns: tuple[Turn, ...] = ()
    """In their order; none stands for one turn of all the tokens."""
    inherited_tokens: int = 0
    """Of the policy's, those that another play of the group sampled; see
    `rollout.environments.branching`."""
    ending: PlayEnd | None = None
    """What ended it; None for the length limit where `truncated`, else the answer."""
    reward: float | None = None
    """The environment's own; None to have the reward plug score it."""
    failure: str = ""
    """What failed where `ending` is FAILURE; "" else."""

    @property
    def end(self) -> PlayEnd:
        """What ended it."""
        if self.ending is None:
            return PlayEnd.TOKENS if self.truncated else PlayEnd.ANSWER
        return self.ending

    @property
    def last_turn(self) -> TokenArray:
        """The policy's tokens of its last turn, which rewards read."""
        own = self.token_ids[self.turns[-1].start : self.turns[-1].end] if self.turns else None
        return self.token_ids[self.loss_mask] if own is None else own


@dataclass(frozen=True, slots=True)
class Group:
    """All trajectories of one ticket with their rewards.

    Example: `right` and `wrong` are the plays of the completion and the trajectory above.

        Group(
            ticket=Ticket(17, 3, num_samples=2, probability=0.0125, weight=0.625, max_tokens=256),
            prompt=prompt,
            trajectories=(right, wrong),
            rewards=array([1.0, 0.0]),
            reward_components={"correct": array([1.0, 0.0]), "format": array([1.0, 1.0])},
            reward_status=array([0, 0]),
            answers=("7", "8"),
            seconds=0.42,
        )
    """

    ticket: Ticket
    prompt: Prompt
    trajectories: tuple[Trajectory, ...]
    rewards: npt.NDArray[np.float64]
    """[n] NaN where `reward_status` is neither OK nor MASKED."""
    reward_components: dict[str, npt.NDArray[np.float64]]
    """Named parts of the reward, each [n]."""
    reward_status: npt.NDArray[np.int64]
    """[n] cost.types.RewardStatus"""
    answers: tuple[str, ...]
    """[n] the answer that the reward extracted, "" if none."""
    seconds: float
    reward_failure: str = ""
    """Why the scoring of a response failed, see `rollout.rewards.failures`; "" if none did."""


@dataclass(frozen=True, slots=True)
class GroupRef:
    """A finished group as the driver sees it: its report, and a reference to the data.

    Example:
        GroupRef(report=report, data=reference)
    """

    report: LengthReport
    data: Any
    """Ray object reference of the `Group`; None for a ticket that failed all its retries."""
