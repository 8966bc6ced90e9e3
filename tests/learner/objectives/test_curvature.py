"""CAPO's scalars against the matrices they stand for."""

import math

import pytest
import torch

from learner.objectives.curvature import (
    CurvatureMask,
    LogitChanges,
    curvature_moments,
    logit_changes,
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
    with pytest.raises(ValueError, match=r"^curvature\.lowest .* got 2$"):
        CurvatureMask(lowest=2, highest=1)
    with pytest.raises(ValueError, match=r"^curvature\.largest_shift .* got -1$"):
        CurvatureMask(largest_shift=-1)
