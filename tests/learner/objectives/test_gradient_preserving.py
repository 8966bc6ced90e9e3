"""Clipped values with gradients that stay."""

import math

import pytest
import torch

from learner.objectives.clipped_surrogate import ClippedSurrogate
from learner.objectives.gradient_preserving import GradientPreservingClip


@pytest.mark.parametrize("preserve_low", [True, False])
def test_gradient_factor_on_the_grid(gradient_factors, preserve_low):
    def factor(r, a):
        if a > 0 and r > 1.28:
            return 1.28
        if a < 0 and r < 0.8:
            return 0.8 if preserve_low else 0.0
        return r

    gradient_factors(GradientPreservingClip(preserve_low=preserve_low), factor)


@pytest.mark.parametrize("preserve_low", [True, False])
def test_values_are_those_of_the_clipped_surrogate(run, grid, preserve_low):
    ratios, advantages = zip(*grid, strict=True)
    output, _ = run(GradientPreservingClip(preserve_low=preserve_low), ratios, advantages)
    other, _ = run(ClippedSurrogate(), ratios, advantages)
    assert output.token_losses.tolist() == pytest.approx(other.token_losses.tolist(), abs=1e-12)
    assert torch.equal(output.metrics["clip_fraction"], other.metrics["clip_fraction"])


def test_the_gradient_stays_where_log_ratios_are_clamped(run):
    _, gradient = run(GradientPreservingClip(), [math.exp(-25), math.exp(25)], [-1.0, 1.0])
    assert gradient.tolist() == pytest.approx([0.8, -1.28])


def test_the_language_model_term_is_on_responses_of_positive_advantage(run, grid):
    ratios, advantages = zip(*grid, strict=True)
    # The size of an advantage plays no part, only its sign.
    advantages = [a / 8 for a in advantages]
    plain, plain_gradient = run(GradientPreservingClip(), ratios, advantages)
    output, gradient = run(GradientPreservingClip(lm_weight=1.0), ratios, advantages)
    for index, (r, a) in enumerate(grid):
        added = -math.log(0.3 * r) if a > 0 else 0.0
        difference = output.token_losses[index] - plain.token_losses[index]
        assert difference.item() == pytest.approx(added, abs=1e-12)
        slope = (gradient[index] - plain_gradient[index]).item()
        assert slope == pytest.approx(-1.0 if a > 0 else 0.0, abs=1e-12)


def test_the_language_model_term_leaves_masked_tokens_alone(run):
    output, gradient = run(
        GradientPreservingClip(lm_weight=0.1), [1.0, 1.0], [1.0, 1.0],
        segment_ids=[0, 0], loss_mask=[False, True],
    )  # fmt: skip
    assert output.token_losses[0] == 0 and gradient[0] == 0


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("clip_low", 0.0),
        ("clip_high", -0.1),
        ("lm_weight", -0.1),
        ("lm_weight", math.nan),
        ("clip_high", math.inf),
    ],
)
def test_settings_outside_their_range_are_refused(key, value):
    with pytest.raises(ValueError, match=rf"^objective\.{key} .* got {value!r}$"):
        GradientPreservingClip(**{key: value})
