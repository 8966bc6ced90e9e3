"""Bounds that depend on the sampling probability."""

import math

import pytest
import torch

from learner.objectives.dcpo import Dcpo


@pytest.mark.parametrize(
    ("q", "low", "high"),
    [
        (0.9, 0.769, 1.187), (0.64, 0.5, 1.25), (0.1, 0.5, 2.0), (0.01, 0.5, 5.0),
        (0.001, 0.5, 10.0), (0.0, 0.5, 10.0),
    ],
)  # fmt: skip
def test_numbers_of_the_paper(q, low, high):
    lowest, highest = Dcpo().bounds(torch.tensor([q]))
    assert lowest.item() == pytest.approx(low, abs=5e-4)
    assert highest.item() == pytest.approx(high, abs=5e-4)


def test_the_cap_is_what_binds_at_one_in_a_thousand():
    assert Dcpo(max_ratio=100.0).bounds(torch.tensor([0.001]))[1].item() == pytest.approx(
        14.65, abs=5e-3
    )


@pytest.mark.parametrize("q", [0.05, 0.3, 0.7, 0.95])
def test_bounds_are_where_the_probability_has_moved_by_eps(q):
    """|(r - 1) r q| = eps at both bounds, unless no ratio below 1 gets so far."""
    objective = Dcpo(max_ratio=1e9)
    lowest, highest = (bound.item() for bound in objective.bounds(torch.tensor([q]).double()))
    assert (highest - 1) * highest * q == pytest.approx(objective.eps_high)
    if q > 4 * objective.eps_low:
        assert (1 - lowest) * lowest * q == pytest.approx(objective.eps_low)
    else:
        assert lowest == 0.5 and 0.25 * q <= objective.eps_low


@pytest.mark.parametrize("q", [0.9, 0.3, 0.01, 0.001])
def test_gradient_factor_is_the_ratio_within_the_bounds(run, grid, q):
    ratios, advantages = zip(*grid, strict=True)
    low = 0.5 + 0.5 * math.sqrt(max(1 - 0.64 / q, 0))
    high = min(0.5 + 0.5 * math.sqrt(1 + 0.8 / q), 10)
    output, gradient = run(Dcpo(), ratios, advantages, probabilities=[q] * len(grid))
    for index, (r, a) in enumerate(grid):
        if math.isclose(r, low):
            continue  # On the bound rounding decides.
        inside = r <= high if a > 0 else a == 0 or low <= r <= 10
        assert gradient[index].item() == pytest.approx(-a * r if inside else 0.0, abs=1e-12)
        bounded = min(r, high) if a > 0 else min(max(r, low), 10)
        assert output.token_losses[index].item() == pytest.approx(-bounded * a)
        assert output.metrics["clip_fraction"][index].item() == float(not inside)


@pytest.mark.parametrize(
    ("key", "value"),
    [("eps_low", 0.0), ("eps_high", -0.1), ("max_ratio", 1.0), ("eps_low", math.nan)],
)
def test_bounds_outside_their_range_are_refused(key, value):
    with pytest.raises(ValueError, match=rf"^objective\.{key} .* got {value!r}$"):
        Dcpo(**{key: value})
