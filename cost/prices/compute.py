"""FLOPs that engines and learners compute for responses, counted from the shape of the model.

    LengthReport --generating--> engine      (prompt, response) --scoring--> one forward pass

What a learner computes for its rows is `learner.compute`'s. A response of T tokens takes T logits
and T - 1 tokens decoded: its first token is predicted by the prompt's last, and its last one is
never fed in. So it is in each of several turns; environment tokens are prefilled before the next
turn, and have no logits. Reports do not say where turns lie: they are taken to be equally long,
with equally many environment tokens between them.
"""

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
    """What a group's responses [n] have of turns; the default is one each.

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
    def of(cls, report: LengthReport) -> Self:
        """Take them from a report."""
        return cls(
            report.num_turns,
            report.environment_tokens,
            report.inherited_tokens,
            report.turn_prefill_tokens,
        )


ONE_TURN_EACH = Turns()


def generating(shape: ModelShape, report: LengthReport) -> float:
    """Return FLOPs of the engines for one ticket's group."""
    return group_flops(
        shape,
        report.prompt_tokens,
        report.prefill_tokens - int(report.turn_prefill_tokens.sum()),
        report.lengths,
        Turns.of(report),
    )


def group_flops(
    shape: ModelShape,
    prompt_tokens: int,
    prefill_tokens: int,
    lengths: IntArray,
    turns: Turns = ONE_TURN_EACH,
) -> float:
    """Return FLOPs of the engines for responses [n] to one prompt.

    Prompt tokens that were cached are those at the prompt's beginning: of `prefill_tokens`, as many
    whole prompts as fit, and the rest in equal parts at the ends of the others.

    Args:
        shape: Of the model.
        prompt_tokens: Of the prompt.
        prefill_tokens: Computed before first turns, of all responses.
        lengths: [n] tokens of each response, its environment's among them.
        turns: What the responses have of turns.
    """
    count, prompt = len(lengths), float(prompt_tokens)
    if not count:
        return 0.0
    own = np.asarray(lengths - turns.environment, dtype=np.float64)
    sampled = own - turns.inherited
    # Of turns that are another response's, in proportion.
    steps = np.maximum(own - turns.num_turns, 0.0) * sampled / np.maximum(own, 1.0)
    # Decoded tokens lie on average in the middle of the response, wherever its equal turns lie.
    decode_pairs = steps * (prompt + lengths / 2)
    whole = min(prefill_tokens // prompt_tokens, count)
    rest = prefill_tokens - whole * prompt
    part = rest / max(count - whole, 1)
    pairs = whole * prompt * (prompt + 1) / 2 + rest * (prompt - (part - 1) / 2)
    # Later turns begin on average here, each behind as many tokens that are computed for it.
    gaps = np.maximum(turns.num_turns - 1, 1)
    begins = prompt + (lengths + turns.environment / gaps) / 2
    again_pairs = turns.prefill * (begins - (turns.prefill / gaps - 1) / 2)
    pairs += float((decode_pairs + again_pairs).sum())
    tokens = prefill_tokens + float((steps + turns.prefill).sum())
    return shape.token * tokens + shape.head * float(sampled.sum()) + shape.pair * pairs


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
