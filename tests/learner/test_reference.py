"""Estimators of the divergence from the reference: values, and gradients in closed form."""

import pytest
import torch

from learner.reference import kl_estimates, response_kl

GENERATOR = torch.Generator().manual_seed(5)
LOGITS, REFERENCE = torch.randn(2, 7, generator=GENERATOR, dtype=torch.float64)


def divergence(p, q):
    return (p.exp() * (p - q)).sum()


def expected_gradient(estimator):
    """Mean over the learner's own tokens of the gradient of an estimate, by enumeration."""
    logits = LOGITS.clone().requires_grad_()
    learner, reference = logits.log_softmax(0), REFERENCE.log_softmax(0)
    estimates = kl_estimates(estimator, learner, reference)
    (learner.detach().exp() * estimates).sum().backward()
    return logits.grad


def gradient_of(function):
    logits = LOGITS.clone().requires_grad_()
    function(logits.log_softmax(0), REFERENCE.log_softmax(0)).backward()
    return logits.grad


def test_gradients_on_the_learner_s_own_tokens():
    assert expected_gradient("k1").abs().max() < 1e-12
    reverse = gradient_of(divergence)
    forward = gradient_of(lambda learner, reference: divergence(reference, learner))
    torch.testing.assert_close(expected_gradient("k2"), reverse)
    torch.testing.assert_close(expected_gradient("k3"), forward)
    assert (reverse - forward).abs().max() > 0.01


def test_k1_and_k3_have_the_divergence_for_mean():
    learner, reference = LOGITS.log_softmax(0), REFERENCE.log_softmax(0)
    for estimator in ("k1", "k3"):
        mean = (learner.exp() * kl_estimates(estimator, learner, reference)).sum()
        torch.testing.assert_close(mean, divergence(learner, reference))


def test_values_of_one_token():
    learner, reference = torch.tensor([-1.0]), torch.tensor([-1.5])
    assert kl_estimates("k1", learner, reference).item() == pytest.approx(0.5)
    assert kl_estimates("k2", learner, reference).item() == pytest.approx(0.125)
    assert kl_estimates("k3", learner, reference).item() == pytest.approx(0.6065306597 - 1 + 0.5)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_equal_policies_are_at_distance_zero_and_extremes_stay_finite(estimator):
    logprobs = torch.tensor([-0.5, -7.0], requires_grad=True)
    estimates = kl_estimates(estimator, logprobs, logprobs.detach())
    assert (estimates == 0).all()
    far = torch.tensor([-1e4, 1e4], requires_grad=True)
    estimates = kl_estimates(estimator, far, torch.zeros(2))
    assert estimates.isfinite().all()
    estimates.sum().backward()
    assert far.grad.isfinite().all()


def test_the_reference_is_a_constant():
    reference = torch.tensor([-1.0], requires_grad=True)
    learner = torch.tensor([-2.0], requires_grad=True)
    kl_estimates("k2", learner, reference).sum().backward()
    assert reference.grad is None and learner.grad is not None


def test_responses_add_up_their_own_tokens():
    rollout = torch.tensor([-1.0, -2.0, -0.5, -3.0])
    reference = torch.tensor([-1.5, -1.0, -0.5, -2.0])
    kl = response_kl(rollout, reference, torch.tensor([2, 0, 1, 1]))
    assert kl.tolist() == [-0.5, 0.0, 0.0, -1.0] and kl.dtype == torch.float64
