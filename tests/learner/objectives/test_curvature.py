"""CAPO's scalars against the matrices they stand for."""

import math

import pytest
import torch

from learner.curvature_config import RejectedShares
from learner.objectives.curvature import (
    CurvatureMask,
    LogitChanges,
    adam_change,
    curvature_moments,
    head_gradient,
    logit_changes,
    thresholds,
    token_changes,
)

VOCABULARY, HIDDEN, TOKENS = 5, 3, 40


@pytest.fixture(scope="module")
def scene():
    """Random tokens of a last layer, and the change of its weights."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    hidden, head = normal(TOKENS, HIDDEN), normal(VOCABULARY, HIDDEN)
    token_ids = torch.randint(VOCABULARY, (TOKENS,), generator=generator)
    logprobs = (hidden @ head.T).log_softmax(dim=1)
    return hidden, logprobs, token_ids, normal(TOKENS), 0.3 * normal(VOCABULARY, HIDDEN)


def test_moments_equal_those_of_the_explicit_matrices(scene):
    hidden, logprobs, token_ids, advantages, delta = scene
    changes = logit_changes(logprobs, hidden @ delta.T, token_ids)
    moment, shift_moment = curvature_moments(advantages, changes)
    step = delta.reshape(-1)
    for k in range(TOKENS):
        pi, h, a = logprobs[k].exp(), hidden[k], advantages[k]
        d = torch.eye(VOCABULARY, dtype=torch.float64)[token_ids[k]] - pi
        fisher = torch.diag(pi) - torch.outer(pi, pi)
        gradient = a * torch.kron(d, h)
        curvature = a * torch.kron(torch.outer(d, d) - fisher, torch.outer(h, h))
        shift = torch.kron(torch.outer(d, d), torch.outer(h, h))
        expected = gradient @ step + 0.5 * step @ curvature @ step
        assert moment[k].item() == pytest.approx(expected.item(), rel=1e-10, abs=1e-12)
        assert shift_moment[k].item() == pytest.approx((0.5 * step @ shift @ step).item())


def test_the_matrices_are_derivatives_of_the_token_objective(scene):
    """g is the gradient of A log pi in the head's weights, and H the Hessian of A pi / sg(pi)."""
    hidden, logprobs, token_ids, advantages, delta = scene
    changes = logit_changes(logprobs, hidden @ delta.T, token_ids)
    moment, _ = curvature_moments(advantages, changes)

    def objective(scale):
        moved = (logprobs + scale * hidden @ delta.T).log_softmax(dim=1)
        return advantages * (moved - logprobs).gather(1, token_ids[:, None]).squeeze(1).exp()

    scale = 1e-3
    first = (objective(scale) - objective(-scale)) / (2 * scale)
    second = (objective(scale) - 2 * objective(0.0) + objective(-scale)) / scale**2
    torch.testing.assert_close(moment, first + 0.5 * second, rtol=1e-4, atol=1e-6)


def test_thresholds_keep_what_lies_between_them():
    changes = LogitChanges(
        shifts=torch.tensor([0.0, 1.0, -1.0, 2.0]), variances=torch.tensor([0.0, 1.0, 1.0, 0.0])
    )
    advantages = torch.ones(4)
    moment, shift_moment = curvature_moments(advantages, changes)
    assert moment.tolist() == [0.0, 1.0, -1.0, 4.0]
    assert shift_moment.tolist() == [0.0, 0.5, 0.5, 2.0]
    assert CurvatureMask(lowest=-0.5).keep(advantages, changes).tolist() == [
        True,
        True,
        False,
        True,
    ]
    assert CurvatureMask(-0.5, 3.0).keep(advantages, changes).tolist() == [True, True, False, False]
    kept = CurvatureMask(largest_shift=0.4).keep(advantages, changes)
    assert kept.tolist() == [True, False, False, False]


def test_loose_thresholds_mask_nothing(scene):
    hidden, logprobs, token_ids, advantages, delta = scene
    changes = logit_changes(logprobs, hidden @ delta.T, token_ids)
    assert CurvatureMask().keep(advantages, changes).all()


def test_what_is_not_a_number_is_not_trained_on():
    changes = LogitChanges(shifts=torch.tensor([math.nan]), variances=torch.tensor([0.0]))
    assert not CurvatureMask().keep(torch.ones(1), changes).any()


def test_thresholds_that_leave_nothing_are_refused():
    with pytest.raises(ValueError, match=r"^lowest .* got 2$"):
        CurvatureMask(lowest=2, highest=1)
    with pytest.raises(ValueError, match=r"^largest_shift .* got -1$"):
        CurvatureMask(largest_shift=-1)


@pytest.fixture(scope="module")
def long_scene():
    """More tokens than fit one chunk, in float32."""
    generator = torch.Generator().manual_seed(1)
    hidden, head = (torch.randn(n, 4, generator=generator) for n in (600, 7))
    factors = torch.randn(600, generator=generator)
    return hidden, head, torch.randint(7, (600,), generator=generator), factors


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_the_head_s_gradient_is_autograd_s(long_scene, temperature):
    hidden, head, token_ids, factors = long_scene
    weights = head.clone().requires_grad_()
    logprobs = (hidden @ weights.T / temperature).log_softmax(dim=1)
    (factors * logprobs.gather(1, token_ids[:, None]).squeeze(1)).sum().backward()
    got = head_gradient(hidden, head, token_ids, factors, temperature)
    torch.testing.assert_close(got, weights.grad, rtol=1e-4, atol=1e-4)
    halves = [slice(0, 250), slice(250, 600)]
    parts = [head_gradient(hidden[h], head, token_ids[h], factors[h], temperature) for h in halves]
    torch.testing.assert_close(parts[0] + parts[1], got, rtol=1e-4, atol=1e-4)


def test_the_change_is_adam_s_at_every_step():
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(3, 2, generator=generator, dtype=torch.float64).requires_grad_()
    optimizer = torch.optim.Adam([weight], lr=0.1, betas=(0.8, 0.95), eps=1e-3)
    mean, square = torch.zeros_like(weight), torch.zeros_like(weight)
    for step in (1, 2, 3):
        weight.grad = torch.randn(3, 2, generator=generator, dtype=torch.float64)
        before = weight.detach().clone()
        expected = adam_change(
            weight.grad, mean, square, step=step, lr=0.1, betas=(0.8, 0.95), eps=1e-3
        )
        optimizer.step()
        torch.testing.assert_close(weight.detach() - before, expected)
        state = optimizer.state[weight]
        mean, square = state["exp_avg"].clone(), state["exp_avg_sq"].clone()


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_changes_in_chunks_are_those_of_the_whole(long_scene, temperature):
    hidden, head, token_ids, _ = long_scene
    delta = 0.1 * head.flip(0)
    got = token_changes(hidden, head, delta, token_ids, temperature)
    logprobs = (hidden @ head.T / temperature).log_softmax(dim=1)
    whole = logit_changes(logprobs, hidden @ delta.T / temperature, token_ids)
    torch.testing.assert_close(got.shifts, whole.shifts)
    torch.testing.assert_close(got.variances, whole.variances)
    # To first order the shift is what happens to the chosen token's log-probability.
    small = 1e-3
    moved = (hidden @ (head + small * delta).T / temperature).log_softmax(dim=1)
    slope = (moved - logprobs).gather(1, token_ids[:, None]).squeeze(1) / small
    torch.testing.assert_close(got.shifts, slope, rtol=0.05, atol=5e-3)


def test_no_token_has_no_change():
    none = torch.zeros(0, 4)
    changes = token_changes(none, torch.ones(7, 4), torch.ones(7, 4), none[:, 0].long())
    assert changes.shifts.shape == changes.variances.shape == (0,)
    assert not head_gradient(none, torch.ones(7, 4), none[:, 0].long(), none[:, 0]).any()


@pytest.mark.parametrize(
    "shares", [(0.02, 0.0, 0.02), (0.1, 0.05, 0.0), (0.0, 0.0, 0.3), (0.0, 0.0, 0.0)]
)
def test_each_threshold_leaves_out_its_share(shares):
    generator = torch.Generator().manual_seed(3)
    changes = LogitChanges(
        shifts=torch.randn(200, generator=generator),
        variances=torch.rand(200, generator=generator),
    )
    advantages = torch.randn(200, generator=generator)
    moment, shift = curvature_moments(advantages, changes)
    mask = thresholds(moment, shift, RejectedShares(low=shares[0], high=shares[1], shift=shares[2]))
    assert (moment < mask.lowest).sum() == round(200 * shares[0])
    assert (moment > mask.highest).sum() == round(200 * shares[1])
    assert (shift > mask.largest_shift).sum() == round(200 * shares[2])
    kept = mask.keep(advantages, changes)
    assert 200 * (1 - sum(shares)) <= kept.sum() <= 200 * (1 - max(shares))


def test_thresholds_leave_no_number_out_of_account():
    moment = torch.tensor([math.nan, 0.0, 1.0, 2.0])
    mask = thresholds(moment, moment.abs(), RejectedShares(low=0.34, high=0.0, shift=0.0))
    assert (mask.lowest, mask.highest, mask.largest_shift) == (1.0, 2.0, 2.0)
    for nothing in (torch.zeros(0), torch.full((3,), math.nan)):
        assert thresholds(nothing, nothing, RejectedShares()) == CurvatureMask()
    equal = torch.ones(10)
    mask = thresholds(equal, equal, RejectedShares(low=0.3, high=0.3, shift=0.3))
    assert (mask.lowest, mask.highest, mask.largest_shift) == (1.0, 1.0, 1.0)
