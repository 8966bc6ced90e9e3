"""FLOPs that engines and learners compute for responses, counted from the shape of the model.

    LengthReport --generating--> engine      (prompt, response) --scoring--> one forward pass

What a learner computes for its rows is `learner.compute`'s. A response of T tokens takes T logits
and T - 1 tokens decoded: its first token is predicted by the prompt's last, and its last one is
never fed in. Environment tokens of several turns are among both `prefill_tokens` and `lengths`, so
that they count twice, as in `LengthReport.generated_tokens`.
"""

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


def generating(shape: ModelShape, report: LengthReport) -> float:
    """Return FLOPs of the engines for one ticket's group."""
    return group_flops(shape, report.prompt_tokens, report.prefill_tokens, report.lengths)


def group_flops(
    shape: ModelShape, prompt_tokens: int, prefill_tokens: int, lengths: IntArray
) -> float:
    """Return FLOPs of the engines for responses [n] to one prompt.

    Prompt tokens that were cached are those at the prompt's beginning: of `prefill_tokens`, as many
    whole prompts as fit, and the rest in equal parts at the ends of the others.
    """
    count, prompt = len(lengths), float(prompt_tokens)
    if not count:
        return 0.0
    steps = np.maximum(np.asarray(lengths, dtype=np.float64) - 1, 0.0)
    decode_pairs = prompt * steps + steps * (steps + 1) / 2
    whole = min(prefill_tokens // prompt_tokens, count)
    rest = prefill_tokens - whole * prompt
    part = rest / max(count - whole, 1)
    # Beyond the prompt there are later turns, on average in the middle of a response.
    sees = prompt - (part - 1) / 2 if whole < count else prompt + float(lengths.mean()) / 2
    pairs = float(decode_pairs.sum()) + whole * prompt * (prompt + 1) / 2 + rest * sees
    tokens = prefill_tokens + float(steps.sum())
    return shape.token * tokens + shape.head * float(lengths.sum()) + shape.pair * pairs


def scoring(
    shape: ModelShape, prompt_tokens: int | IntArray, lengths: IntArray | FloatArray
) -> FloatArray:
    """Return [n] FLOPs of a forward pass over each response with a copy of its prompt.

    Logits are computed for response tokens alone.
    """
    response = np.asarray(lengths, dtype=np.float64)
    tokens = np.asarray(prompt_tokens, dtype=np.float64) + response
    pairs = tokens * (tokens + 1) / 2
    found: FloatArray = shape.token * tokens + shape.head * response + shape.pair * pairs
    return found
