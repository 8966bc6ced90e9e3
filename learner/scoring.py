"""Responses that are scored and not trained on: laid out with their prompts repeated."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from learner.batch import MicroBatch, Segment, collate
from learner.batch_plan import Row
from learner.engine import Engine
from learner.partition import plan_rows
from learner.reference import response_kl
from rollout.types import Group


def sequence_logprobs(
    engine: Engine, sequences: Sequence[tuple[npt.ArrayLike, npt.ArrayLike]], row_tokens: int
) -> list[npt.NDArray[np.float32]]:
    """Score responses under the present weights; every rank must ask.

    Args:
        engine: The training engine.
        sequences: Prompt tokens [T_prompt] and response tokens [T] of each; the same on every rank.
        row_tokens: Most tokens of a row, unless one sequence is longer.

    Returns:
        [T] float32 log-probabilities per response, at the sampling temperature.
    """
    segments = [
        unscored_segment(prompt, response, np.ones(len(np.asarray(response)), np.bool_))
        for prompt, response in sequences
    ]
    lengths = [len(segment.token_ids) for segment in segments]
    scores: dict[int, npt.NDArray[np.float32]] = {}
    for items in plan_rows(lengths, 1, max([row_tokens, *lengths]))[0]:
        row = collate([segments[item] for item in items]).to(engine.device)
        with torch.no_grad():
            logprobs = engine.logprobs(row)[0].cpu().numpy()
        ends = np.cumsum([lengths[item] for item in items])
        for item, end in zip(items, ends, strict=True):
            length = int(segments[item].loss_mask.sum())
            scores[item] = logprobs[end - length : end]
    return [scores[item] for item in range(len(segments))]


def response_divergences(
    engine: Engine, groups: Mapping[int, Group], items: Row
) -> npt.NDArray[np.float64]:
    """Estimate a row's responses' divergence from the reference; every rank must ask.

    Args:
        engine: The training engine.
        groups: Those that the row names, by their positions.
        items: The row's responses; none for padding.

    Returns:
        [S] nats, see `learner.reference.response_kl`.
    """
    row = unscored_row(groups, items)
    # For padding too: under ZeRO-3 the ranks may share out what the reference is made of.
    ref_logprobs = engine.reference_logprobs(row.to(engine.device)).cpu()
    if row.is_padding:
        return np.zeros(0)
    played = [groups[k].trajectories[j] for k, j in items]
    sampled = [trajectory.rollout_logprobs[trajectory.loss_mask] for trajectory in played]
    kl = response_kl(
        torch.from_numpy(np.concatenate(sampled)),
        ref_logprobs[row.loss_mask],
        torch.tensor([len(logprobs) for logprobs in sampled]),
    )
    divergences: npt.NDArray[np.float64] = kl.numpy()
    return divergences


def unscored_row(groups: Mapping[int, Group], row: Row) -> MicroBatch:
    """Lay out responses that are only to be scored; prompts are repeated."""
    return collate(
        [
            unscored_segment(
                groups[k].prompt.token_ids,
                groups[k].trajectories[j].token_ids,
                groups[k].trajectories[j].loss_mask,
            )
            for k, j in row
        ]
    )


def unscored_segment(
    prompt: npt.ArrayLike, response: npt.ArrayLike, loss_mask: npt.NDArray[np.bool_]
) -> Segment:
    """Lay a response [T] out behind its prompt; the mask [T] is the response's."""
    token_ids = np.concatenate([np.asarray(prompt), np.asarray(response)]).astype(np.int64)
    num_prompt_tokens = len(token_ids) - len(loss_mask)
    return Segment(
        token_ids=token_ids,
        loss_mask=np.concatenate([np.zeros(num_prompt_tokens, np.bool_), loss_mask]),
        rollout_logprobs=np.zeros(len(token_ids), np.float32),
        advantage=0.0,
        loss_weight=0.0,
    )
