"""Packed rows: several prompt + response segments one after the other, without padding.

    [P R_1 | P R_2 | P' R'_1]         prompts repeated: positions restart at 0 in every segment
    [P R_1 R_2 | P' R'_1]             prompts shared: those of R_2 restart at |P|

Positions are how attention tells what a token sees, and where each token is predicted from
(`learner.attention`, `learner.logprobs`). Every array is indexed by the token it is about:
`rollout_logprobs[t]` is the log-probability of `token_ids[t]` given what its segment has before it.
A shared prompt carries the segment id, the advantage and the loss weight 0 of its first response;
nothing may be read of it there, as of any prompt: no token of it is in the loss mask. Whatever is
summed over a response's tokens must be summed over its loss tokens.

`loss_weights` carries the estimator's factors

    weight_kj * a_kj / (P * n_k)

where P and n_k were fixed before the draws. Nothing here divides by what survived the thinning.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from cost.types import Selection
from rollout.types import Group

PADDING_SEGMENT = -1


@dataclass(frozen=True, slots=True)
class Segment:
    """Holds one response with its prompt, ready to be packed."""

    token_ids: npt.NDArray[np.int64]
    """[T] the prompt's tokens, then the response's."""
    loss_mask: npt.NDArray[np.bool_]
    """[T] It is True on tokens that the policy wrote."""
    rollout_logprobs: npt.NDArray[np.float32]
    """[T] It is 0 where `loss_mask` is False."""
    advantage: float
    loss_weight: float
    """It is weight * a / (P * n), the same for every token."""
    num_prompt_tokens: int = 0
    """Leading tokens, none of them in the loss mask, that other segments may have in common."""


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Holds one packed row. Padding has the segment id -1 and weight 0."""

    token_ids: torch.Tensor
    """[T] int64, the tokens in packing order."""
    position_ids: torch.Tensor
    """[T] int64, restarts at 0, or at the length of the prompt that a response shares."""
    segment_ids: torch.Tensor
    """[T] int64, 0, 1, ... in packing order; a shared prompt belongs to its first response."""
    loss_mask: torch.Tensor
    """[T] bool, True on tokens that the policy wrote, never at position 0."""
    rollout_logprobs: torch.Tensor
    """[T] float32, 0 where `loss_mask` is False."""
    advantages: torch.Tensor
    """[T] float32, the response's own, the same for all of its tokens."""
    loss_weights: torch.Tensor
    """[T] float32, 0 where `loss_mask` is False."""

    @property
    def is_padding(self) -> bool:
        """Whether the row only keeps the ranks in step."""
        return bool(self.segment_ids[0] == PADDING_SEGMENT)

    def to(self, device: torch.device) -> "MicroBatch":
        """Copy the row to a device."""
        return MicroBatch(*(getattr(self, each.name).to(device) for each in fields(self)))


def segment_of(group: Group, selection: Selection, response: int, *, num_groups: int) -> Segment:
    """Take one response out of its group.

    Args:
        group: The whole group.
        selection: The group's row of the scheduler's choice.
        response: Index of the response, in [0, n).
        num_groups: P, groups of the optimiser step, empty ones included.

    Raises:
        ValueError: If the selection is another ticket's, or the prompt is empty.
    """
    if selection.ticket_id != group.ticket.ticket_id:
        raise ValueError(
            f"selection.ticket_id must be the group's {group.ticket.ticket_id}, "
            f"got {selection.ticket_id!r}"
        )
    num_prompt_tokens = len(group.prompt.token_ids)
    if num_prompt_tokens == 0:
        raise ValueError(f"prompt.token_ids must not be empty, got {group.prompt!r}")
    trajectory = group.trajectories[response]
    # The ticket's number of responses, not the number that arrived or survived.
    divisor = num_groups * group.ticket.num_samples
    weight = float(selection.weight[response]) * float(selection.factors[response]) / divisor
    return Segment(
        token_ids=np.concatenate([group.prompt.token_ids, trajectory.token_ids]).astype(np.int64),
        loss_mask=np.concatenate([np.zeros(num_prompt_tokens, np.bool_), trajectory.loss_mask]),
        rollout_logprobs=np.concatenate(
            [np.zeros(num_prompt_tokens, np.float32), trajectory.rollout_logprobs]
        ).astype(np.float32),
        advantage=float(selection.advantages[response]),
        loss_weight=weight,
        num_prompt_tokens=num_prompt_tokens,
    )


def collate(segments: Sequence[Segment], *, shared_prefix: bool = False) -> MicroBatch:
    """Pack segments into one row; no segments give the padding row.

    Args:
        segments: They are laid out in this order.
        shared_prefix: Whether segments that follow each other with the same prompt share one copy.

    Raises:
        ValueError: If a prompt has a token in the loss mask.
    """
    if not segments:
        return padding_row()
    starts = [0] * len(segments)
    if shared_prefix:
        before: Segment | None = None
        for index, segment in enumerate(segments):
            if segment.loss_mask[: segment.num_prompt_tokens].any():
                raise ValueError(
                    "loss_mask must be False on the prompt that segments share, got a loss token "
                    f"among the first {segment.num_prompt_tokens}"
                )
            if before is not None and _same_prompt(before, segment):
                starts[index] = segment.num_prompt_tokens
            before = segment

    def tokens(values: Sequence[npt.NDArray[Any]]) -> torch.Tensor:
        laid_out = [value[start:] for value, start in zip(values, starts, strict=True)]
        return torch.from_numpy(np.concatenate(laid_out))

    lengths = torch.tensor(
        [len(s.token_ids) - start for s, start in zip(segments, starts, strict=True)]
    )
    loss_mask = tokens([segment.loss_mask for segment in segments])
    per_token = torch.tensor([[s.advantage, s.loss_weight] for s in segments], dtype=torch.float32)
    advantages, loss_weights = per_token.repeat_interleave(lengths, dim=0).unbind(1)
    return MicroBatch(
        token_ids=tokens([segment.token_ids for segment in segments]),
        position_ids=tokens([np.arange(len(segment.token_ids)) for segment in segments]),
        segment_ids=torch.arange(len(segments)).repeat_interleave(lengths),
        loss_mask=loss_mask,
        rollout_logprobs=tokens([segment.rollout_logprobs for segment in segments]),
        advantages=advantages.contiguous(),
        loss_weights=torch.where(loss_mask, loss_weights, 0.0),
    )


def _same_prompt(one: Segment, other: Segment) -> bool:
    size = one.num_prompt_tokens
    return 0 < size == other.num_prompt_tokens and np.array_equal(
        one.token_ids[:size], other.token_ids[:size]
    )


def padding_row() -> MicroBatch:
    """Make the row that keeps the ranks' counts equal.

    Two tokens, so that one is predicted: the backward pass then visits every parameter, as on the
    other ranks, with a gradient of zero.
    """
    return MicroBatch(
        token_ids=torch.zeros(2, dtype=torch.int64),
        position_ids=torch.arange(2),
        segment_ids=torch.full((2,), PADDING_SEGMENT),
        loss_mask=torch.tensor([False, True]),
        rollout_logprobs=torch.zeros(2),
        advantages=torch.zeros(2),
        loss_weights=torch.zeros(2),
    )
