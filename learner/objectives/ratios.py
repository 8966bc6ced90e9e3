"""Ratios of learner to rollout probability: of tokens, and of whole runs of tokens."""

import torch
from torch import Tensor

from learner.objectives.types import LossInputs

MAX_LOG_RATIO = 20.0


def token_ratios(learner_logprobs: Tensor, rollout_logprobs: Tensor) -> Tensor:
    """Return [T] r = learner / rollout probability, with gradient.

    Beyond e^20 a ratio says nothing any more, and its exponential would overflow: the logarithm is
    clamped to [-20, 20], without gradient outside.
    """
    return _log_ratios(learner_logprobs, rollout_logprobs).exp()


def segment_ratios(inputs: LossInputs) -> Tensor:
    """Return [T] the geometric mean ratio of each token's response, with the token's own gradient.

    The value is s = exp(mean over the response's loss tokens of the log-ratio), the same for all of
    them. The gradient with respect to the log-probability of token t is s at place t and 0 at all
    other places: sg(s) * pi_t / sg(pi_t), "GSPO-token" of arXiv:2507.18071 (read second-hand).
    """
    return segment_log_ratios(inputs).exp() * own_gradient(inputs.learner_logprobs)


def segment_log_ratios(inputs: LossInputs) -> Tensor:
    """Return [T] the logarithm of `segment_ratios`, without gradient."""
    # Padding has the id -1.
    return _mean_log_ratios(inputs, inputs.segment_ids + 1)


def turn_ratios(inputs: LossInputs) -> Tensor:
    """Return [T] as `segment_ratios`, of each token's turn in place of its response.

    A turn is a longest run of loss tokens within a segment: what the policy wrote between two
    messages of the environment.
    """
    means = _mean_log_ratios(inputs, turns(inputs.segment_ids, inputs.loss_mask))
    return means.exp() * own_gradient(inputs.learner_logprobs)


def turns(segment_ids: Tensor, loss_mask: Tensor) -> Tensor:
    """Number the turns of a row: [T] int64, 1, 2, ... on loss tokens, of no meaning elsewhere."""
    goes_on = torch.zeros_like(loss_mask)
    goes_on[1:] = loss_mask[:-1] & (segment_ids[1:] == segment_ids[:-1])
    return (loss_mask & ~goes_on).cumsum(0)


def turn_numbers(segment_ids: Tensor, loss_mask: Tensor) -> Tensor:
    """Number the turns of each response: [T] int64, 0, 1, ... on loss tokens."""
    numbers = turns(segment_ids, loss_mask)
    # Of each segment the number of turns that the row has before it.
    firsts = torch.full((len(numbers) + 1,), len(numbers) + 1, device=numbers.device)
    own = torch.where(loss_mask, numbers, len(numbers) + 1)
    firsts = firsts.scatter_reduce(0, segment_ids + 1, own, "amin")
    return numbers - firsts[segment_ids + 1]


def own_gradient(learner_logprobs: Tensor) -> Tensor:
    """Return [T] exactly 1, whose gradient with respect to a token's log-probability is 1."""
    return (learner_logprobs - learner_logprobs.detach()).exp()


def run_means(values: Tensor, run_ids: Tensor, mask: Tensor) -> Tensor:
    """Return [T] for each token the mean over the masked tokens of its run, 0 if it has none.

    Args:
        values: [T] float, without gradient.
        run_ids: [T] int64 in [0, T].
        mask: [T] bool, which tokens count.
    """
    # In float64 the order of addition, which a GPU does not fix, does not reach the float32 result.
    sums = torch.zeros(len(values) + 1, dtype=torch.float64, device=values.device)
    counts = torch.zeros_like(sums)
    sums.index_add_(0, run_ids, torch.where(mask, values, 0.0).double())
    counts.index_add_(0, run_ids, mask.double())
    return (sums / counts.clamp(min=1))[run_ids].to(values.dtype)


def _log_ratios(learner_logprobs: Tensor, rollout_logprobs: Tensor) -> Tensor:
    return (learner_logprobs - rollout_logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)


def _mean_log_ratios(inputs: LossInputs, run_ids: Tensor) -> Tensor:
    log_ratios = _log_ratios(inputs.learner_logprobs.detach(), inputs.rollout_logprobs)
    return run_means(log_ratios, run_ids, inputs.loss_mask)
