"""FLOPs that engines and learners compute for responses, counted from the shape of the model.

    LengthReport --generating--> engine      (prompt, response) --scoring--> one forward pass

What a learner computes for its rows is `learner.compute`'s. A response of T tokens takes T logits
and T - 1 tokens decoded: its first token is predicted by the prompt's last, and its last one is
never fed in. So it is in each of several turns; environment tokens are prefilled before the next
turn, and have no logits. Reports do not say where turns lie: they are taken to be equally long,
with equally many environment tokens between them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from cost.prices.shape import ModelShape
from cost.types import FloatArray, IntArray, LengthReport

METRICS = {
    "cost/compute_flops": "FLOPs computed for learned batches, from the model's shape: the sum of "
    "the four below, all since the start of the run; attempts that were given up are left out",
    "cost/generate_flops": "prefill and decode, pilots and filtered groups included",
    "cost/learn_flops": "forward and backward passes, with what reference, recomputed "
    "log-probabilities and masks of tokens take in them",
    "cost/score_flops": "gradient norms, and the reference where it is in the reward",
    "cost/probe_flops": "parity probes, by engines and learners",
}


@dataclass(frozen=True, slots=True)
class Turns:
    """What responses [n] have of turns; the default is one each.

    Example: Turns(num_turns=array([3, 1]), environment=array([12, 0]), inherited=array([0, 0]),
        prefill=array([14, 0]))
    """

    num_turns: IntArray | int = 1
    """Calls of the engine."""
    environment: IntArray | int = 0
    """Tokens of the length that the environment wrote."""
    inherited: IntArray | int = 0
    """Tokens of the policy that were sampled for another response."""
    prefill: IntArray | int = 0
    """Tokens computed before turns after the first, by the end of what stands before each."""

    @classmethod
    def of(cls, reports: Sequence[LengthReport]) -> Self:
        """Take them from reports, one group's responses after the other's."""
        return cls(
            _joined([report.num_turns for report in reports]),
            _joined([report.environment_tokens for report in reports]),
            _joined([report.inherited_tokens for report in reports]),
            _joined([report.turn_prefill_tokens for report in reports]),
        )


def _joined(parts: Sequence[IntArray]) -> IntArray:
    """Return arrays one after the other; an empty one where there are none."""
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


ONE_TURN_EACH = Turns()


def generating(shape: ModelShape, reports: Sequence[LengthReport]) -> FloatArray:
    """Return FLOPs [G] of the engines for the groups of tickets."""
    turns = Turns.of(reports)
    counts = np.array([report.num_responses for report in reports], np.int64)
    prefill = np.array([report.prefill_tokens for report in reports], np.int64)
    return group_flops(
        shape,
        np.array([report.prompt_tokens for report in reports], np.int64),
        prefill - _sums(turns.prefill, counts).astype(np.int64),
        counts,
        _joined([report.lengths for report in reports]),
        turns,
    )


def _sums(values: FloatArray | IntArray | int, counts: IntArray) -> FloatArray:
    """Return the sum [G] of each group's values, of which so many [G] follow each other."""
    owners = np.repeat(np.arange(len(counts)), counts)
    weights = np.broadcast_to(values, owners.shape)
    return np.bincount(owners, weights, len(counts)).astype(np.float64)


def group_flops(
    shape: ModelShape,
    prompt_tokens: IntArray,
    prefill_tokens: IntArray,
    counts: IntArray,
    lengths: IntArray,
    turns: Turns = ONE_TURN_EACH,
) -> FloatArray:
    """Return FLOPs [G] of the engines for groups of responses, each to one prompt.

    Prompt tokens that were cached are those at the prompt's beginning: of `prefill_tokens`, as many
    whole prompts as fit, and the rest in equal parts at the ends of the others.

    Args:
        shape: Of the model.
        prompt_tokens: [G] of the prompts.
        prefill_tokens: [G] computed before first turns, of all responses.
        counts: [G] responses of each group, R in all.
        lengths: [R] tokens of each response, its environment's among them.
        turns: What the responses [R] have of turns.
    """
    prompt, each = prompt_tokens.astype(np.float64), np.repeat(prompt_tokens, counts)
    own = np.asarray(lengths - turns.environment, dtype=np.float64)
    sampled = own - turns.inherited
    # Of turns that are another response's, in proportion.
    steps = np.maximum(own - turns.num_turns, 0.0) * sampled / np.maximum(own, 1.0)
    # Decoded tokens lie on average in the middle of the response, wherever its equal turns lie.
    decode_pairs = steps * (each + lengths / 2)
    whole = np.minimum(prefill_tokens // prompt_tokens, counts)
    rest = prefill_tokens - whole * prompt
    part = rest / np.maximum(counts - whole, 1)
    pairs = whole * prompt * (prompt + 1) / 2 + rest * (prompt - (part - 1) / 2)
    # Later turns begin on average here, each behind as many tokens that are computed for it.
    gaps = np.maximum(turns.num_turns - 1, 1)
    begins = each + (lengths + turns.environment / gaps) / 2
    again_pairs = turns.prefill * (begins - (turns.prefill / gaps - 1) / 2)
    pairs += _sums(decode_pairs + again_pairs, counts)
    tokens = prefill_tokens + _sums(steps + turns.prefill, counts)
    flops = shape.token * tokens + shape.head * _sums(sampled, counts) + shape.pair * pairs
    return np.where(counts > 0, flops, 0.0)


def scoring(
    shape: ModelShape,
    prompt_tokens: int | IntArray,
    lengths: IntArray | FloatArray,
    own_lengths: IntArray | FloatArray | None = None,
) -> FloatArray:
    """Return [n] FLOPs of a forward pass over each response with a copy of its prompt.

    Logits are computed for tokens of the policy alone.

    Args:
        shape: Of the model.
        prompt_tokens: Of each response's prompt.
        lengths: [n] tokens of each response.
        own_lengths: [n] of these, those that the policy wrote; None for all.
    """
    response = np.asarray(lengths, dtype=np.float64)
    scored = response if own_lengths is None else np.asarray(own_lengths, dtype=np.float64)
    tokens = np.asarray(prompt_tokens, dtype=np.float64) + response
    pairs = tokens * (tokens + 1) / 2
    found: FloatArray = shape.token * tokens + shape.head * scored + shape.pair * pairs
    return found
