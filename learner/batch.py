"""Packed rows: several prompt + response segments one after the other, without padding.

Positions restart at 0 in every segment, which is how attention tells the segments apart
(`learner.logprobs`). Every array is indexed by the token it is about: `rollout_logprobs[t]` is the
log-probability of `token_ids[t]` given what precedes it in its segment.

`loss_weights` carries the estimator's factors

    weight_kj * a_kj / (P * n_k)

where P and n_k were fixed before the draws. Nothing here divides by what survived the thinning.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from cost.types import Selection
from rollout.types import Group

PADDING_SEGMENT = -1


@dataclass(frozen=True, slots=True)
class Segment:
    """One response with its prompt, ready to be packed."""

    token_ids: npt.NDArray[np.int64]
    """[T] prompt, then response."""
    loss_mask: npt.NDArray[np.bool_]
    """[T] True on tokens that the policy wrote."""
    rollout_logprobs: npt.NDArray[np.float32]
    """[T] 0 where `loss_mask` is False."""
    advantage: float
    loss_weight: float
    """weight * a / (P * n), the same for every token."""


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """One packed row. Padding has the segment id -1 and weight 0."""

    token_ids: torch.Tensor
    """[T] int64"""
    position_ids: torch.Tensor
    """[T] int64, restarts at 0 in every segment."""
    segment_ids: torch.Tensor
    """[T] int64, 0, 1, ... in packing order."""
    loss_mask: torch.Tensor
    """[T] bool, never True on a segment's first token."""
    rollout_logprobs: torch.Tensor
    """[T] float32, 0 where `loss_mask` is False."""
    advantages: torch.Tensor
    """[T] float32"""
    loss_weights: torch.Tensor
    """[T] float32, 0 where `loss_mask` is False."""

    @property
    def is_padding(self) -> bool:
        """True for a row that only keeps the ranks in step."""
        return bool(self.segment_ids[0] == PADDING_SEGMENT)

    def to(self, device: torch.device) -> "MicroBatch":
        """Copy the row to a device."""
        return MicroBatch(
            token_ids=self.token_ids.to(device),
            position_ids=self.position_ids.to(device),
            segment_ids=self.segment_ids.to(device),
            loss_mask=self.loss_mask.to(device),
            rollout_logprobs=self.rollout_logprobs.to(device),
            advantages=self.advantages.to(device),
            loss_weights=self.loss_weights.to(device),
        )


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
    )


def collate(segments: Sequence[Segment]) -> MicroBatch:
    """Pack segments into one row; no segments give the padding row."""
    if not segments:
        return padding_row()
    lengths = [len(segment.token_ids) for segment in segments]
    loss_mask = torch.from_numpy(np.concatenate([segment.loss_mask for segment in segments]))
    per_token = torch.tensor([[s.advantage, s.loss_weight] for s in segments], dtype=torch.float32)
    advantages, loss_weights = per_token.repeat_interleave(torch.tensor(lengths), dim=0).unbind(1)
    return MicroBatch(
        token_ids=torch.from_numpy(np.concatenate([segment.token_ids for segment in segments])),
        position_ids=torch.cat([torch.arange(length) for length in lengths]),
        segment_ids=torch.arange(len(segments)).repeat_interleave(torch.tensor(lengths)),
        loss_mask=loss_mask,
        rollout_logprobs=torch.from_numpy(
            np.concatenate([segment.rollout_logprobs for segment in segments])
        ),
        advantages=advantages.contiguous(),
        loss_weights=torch.where(loss_mask, loss_weights, 0.0),
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
