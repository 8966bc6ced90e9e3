"""Clipped weights in front of log pi."""

import math

import pytest
import torch

from learner.objectives.cispo import Cispo
from learner.objectives.types import LossInputs


@pytest.mark.parametrize(
    "objective", [Cispo(), Cispo(max_ratio=1.2, min_ratio=0.8), Cispo(1.0, 1.0)]
)
def test_gradient_factor_is_the_clipped_ratio(gradient_factors, objective):
    def clipped(r, a):
        return min(max(r, objective.min_ratio), objective.max_ratio)

    gradient_factors(objective, clipped)


def test_the_weight_has_no_gradient():
    """A second derivative would show one: d/dl of -sg(w) A l is -w A, which is constant."""
    learner = torch.tensor([-0.5], dtype=torch.float64, requires_grad=True)
    inputs = LossInputs(
        learner_logprobs=learner,
        rollout_logprobs=torch.tensor([-1.0]),
        advantages=torch.ones(1),
        segment_ids=torch.zeros(1, dtype=torch.int64),
        loss_mask=torch.ones(1, dtype=torch.bool),
    )
    loss = Cispo().token_losses(inputs).token_losses.sum()
    (gradient,) = torch.autograd.grad(loss, learner, create_graph=True)
    assert gradient.item() == pytest.approx(-math.exp(0.5))
    assert not gradient.requires_grad


def test_clip_fraction_counts_both_bounds_and_both_signs(run):
    objective = Cispo(max_ratio=2.0, min_ratio=0.5)
    output, _ = run(objective, [0.4, 0.6, 1.9, 2.1, 2.1, 2.1], [1, 1, 1, 1, -1, 0])
    assert output.metrics["clip_fraction"].tolist() == [1, 0, 0, 1, 1, 0]


def test_weights_that_are_always_one_are_no_clip(run):
    """Nothing is wrong with a step because REINFORCE does not look at its ratios."""
    output, _ = run(Cispo(max_ratio=1.0, min_ratio=1.0), [0.4, 1.0, 2.1], [1, 1, -1])
    assert "clip_fraction" not in output.metrics


@pytest.mark.parametrize(
    ("key", "value"),
    [("max_ratio", 0.9), ("min_ratio", -0.1), ("min_ratio", 1.1), ("max_ratio", math.nan)],
)
def test_bounds_outside_their_range_are_refused(key, value):
    with pytest.raises(ValueError, match=rf"^objective\.{key} .* got {value!r}$"):
        Cispo(**{key: value})
