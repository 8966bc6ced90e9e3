"""Token losses and their gradients."""

import pickle

import pytest
import torch

from learner.objectives import ClippedSurrogate

RATIOS = (0.05, 0.5, 0.79, 0.81, 1.0, 1.27, 1.29, 2.0, 9.0)
GRID = [(r, a) for r in RATIOS for a in (-1.5, 0.0, 2.0)]


def run(objective, ratios, advantages, mask=None):
    """Losses and d loss / d learner_logprobs."""
    learner = torch.tensor(ratios, dtype=torch.float64).log().requires_grad_()
    advantages = torch.tensor(advantages, dtype=torch.float64)
    mask = torch.ones(len(ratios), dtype=torch.bool) if mask is None else mask
    output = objective.token_losses(
        learner, torch.zeros_like(advantages), advantages, torch.zeros(len(ratios)).long(), mask
    )
    output.token_losses.sum().backward()
    return output, learner.grad


@pytest.mark.parametrize("dual_clip", [None, 3.0])
def test_losses_and_gradients_follow_the_closed_form(dual_clip):
    ratios, advantages = zip(*GRID, strict=True)
    objective = ClippedSurrogate(clip_low=0.2, clip_high=0.28, dual_clip=dual_clip)
    output, gradient = run(objective, ratios, advantages)
    for index, (r, a) in enumerate(GRID):
        surrogate = min(r * a, min(max(r, 0.8), 1.28) * a)
        inside = (a >= 0 and r <= 1.28) or (a < 0 and r >= 0.8)
        if dual_clip is not None and a < 0:
            inside = inside and r <= dual_clip
            surrogate = max(surrogate, dual_clip * a)
        assert output.token_losses[index].item() == pytest.approx(-surrogate, abs=1e-12)
        assert gradient[index].item() == pytest.approx(-a * r if inside else 0.0, abs=1e-12)
        assert output.metrics["clip_fraction"][index].item() == float(not inside and a != 0)


def test_nothing_is_clipped_at_ratio_one():
    output, gradient = run(ClippedSurrogate(), [1.0] * 3, [-0.7, 0.0, 1.9])
    assert output.token_losses.tolist() == [0.7, 0.0, -1.9]
    assert gradient.tolist() == [0.7, 0.0, -1.9]
    assert not output.metrics["clip_fraction"].any()


def test_extreme_ratios_stay_finite():
    learner = torch.tensor([-500.0, 500.0, 0.0], requires_grad=True)
    output = ClippedSurrogate().token_losses(
        learner,
        torch.tensor([0.0, 0.0, -500.0]),
        torch.tensor([-1.0, -1.0, 1.0]),
        torch.zeros(3).long(),
        torch.ones(3, dtype=torch.bool),
    )
    output.token_losses.sum().backward()
    assert output.token_losses.isfinite().all() and learner.grad.isfinite().all()


def test_masked_tokens_lose_nothing():
    output, gradient = run(
        ClippedSurrogate(), [1.1, 1.1], [1.0, 1.0], mask=torch.tensor([True, False])
    )
    assert output.token_losses[1] == 0 and gradient[1] == 0 and gradient[0] != 0


@pytest.mark.parametrize(
    ("key", "settings"),
    [
        ("clip_low", {"clip_low": 0.0}),
        ("clip_low", {"clip_low": 1.1}),
        ("clip_high", {"clip_high": -0.1}),
        ("dual_clip", {"dual_clip": 1.1}),
    ],
)
def test_bounds_outside_their_range_are_refused(key, settings):
    with pytest.raises(ValueError, match=rf"^objective\.{key} .* got {settings[key]!r}$"):
        ClippedSurrogate(**settings)


def test_it_travels_to_the_workers():
    objective = ClippedSurrogate(dual_clip=3.0)
    assert pickle.loads(pickle.dumps(objective)) == objective
