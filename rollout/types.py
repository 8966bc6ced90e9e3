"""The records that rollout makes: prompts in, scored groups out.

Task -> Prompt -> engine -> Completion -> environment -> Trajectory -> reward -> Group
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cost.types import LengthReport, Ticket

TokenArray = npt.NDArray[np.int32]
LogprobArray = npt.NDArray[np.float32]
MaskArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Prompt:
    """One question of a task, tokenised with the policy's chat template."""

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


@dataclass(frozen=True, slots=True)
class VersionSpan:
    """A run of tokens [start, end) that one policy version produced."""

    start: int
    end: int
    version: int


@dataclass(frozen=True, slots=True)
class Completion:
    """One engine call's output."""

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
class Trajectory:
    """One play of an environment: everything after the prompt."""

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


@dataclass(frozen=True, slots=True)
class Group:
    """All trajectories of one ticket with their rewards."""

    ticket: Ticket
    prompt: Prompt
    trajectories: tuple[Trajectory, ...]
    rewards: npt.NDArray[np.float64]
    """[n] NaN where `reward_status` is not OK."""
    reward_components: dict[str, npt.NDArray[np.float64]]
    """Named parts of the reward, each [n]."""
    reward_status: npt.NDArray[np.int64]
    """[n] cost.types.RewardStatus"""
    answers: tuple[str, ...]
    """[n] the answer that the reward extracted, "" if none."""
    seconds: float


@dataclass(frozen=True, slots=True)
class GroupRef:
    """A finished group as the driver sees it: its report, and a reference to the data."""

    report: LengthReport
    num_tokens: int
    """Prompt and response tokens of all trajectories, prompt counted once per trajectory."""
    data: Any
    """Ray object reference of the `Group`; None for a ticket that failed all its retries."""
