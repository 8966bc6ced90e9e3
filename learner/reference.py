"""Distance from a frozen reference policy, estimated from sampled tokens.

With d = log(reference / learner probability) of a token that the policy wrote (Schulman,
"Approximating KL divergence", 2020)

    k1 = -d                 k2 = d^2 / 2                 k3 = exp(d) - 1 - d

k1 and k3 have the mean KL(learner || reference) over the learner's own tokens; k2 agrees with it to
second order. As a term of the loss what counts is the mean of the gradient, over tokens of the
learner (ours, in closed form in the tests):

    k1    0: its gradient is the score, whose mean is 0. It is refused in the loss.
    k2    the gradient of KL(learner || reference), exactly.
    k3    the gradient of KL(reference || learner), which is the same to first order in d.

Taken off the reward, k1 has the gradient of KL(learner || reference) by the score function, and is
the only one offered there. All of this is for tokens that the learner itself would write now; those
of the rollout policy are used as they are, without a ratio.
"""

import torch
from torch import Tensor

from learner.objectives.ratios import MAX_LOG_RATIO


def kl_estimates(estimator: str, learner_logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Estimate the divergence of learner from reference at every token.

    Args:
        estimator: "k1", "k2" or "k3".
        learner_logprobs: [T] float32.
        ref_logprobs: [T] float32, taken as constants.

    Returns:
        [T] with the learner's gradient, in nats. |d| is clamped to 20, beyond which there is no
        gradient.
    """
    differences = (ref_logprobs.detach() - learner_logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    if estimator == "k1":
        return -differences
    if estimator == "k2":
        return differences.square() / 2
    assert estimator == "k3", "LearnerConfig lets no other through"
    return differences.expm1() - differences


def response_kl(rollout_logprobs: Tensor, ref_logprobs: Tensor, num_tokens: Tensor) -> Tensor:
    """Sum k1 over each of several responses.

    Args:
        rollout_logprobs: [K] float32 of the responses' loss tokens, one response after the other,
            under the policy that sampled.
        ref_logprobs: [K] float32 of the same tokens.
        num_tokens: [S] int64, loss tokens of each response; they add up to K.

    Returns:
        [S] float64, nats; a single one may be negative.
    """
    k1 = kl_estimates("k1", rollout_logprobs, ref_logprobs).double()
    owners = torch.arange(len(num_tokens)).repeat_interleave(num_tokens)
    return torch.zeros(len(num_tokens), dtype=torch.float64).index_add_(0, owners, k1)
