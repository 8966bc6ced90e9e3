"""The soft gate."""

import math

import pytest

from learner.objectives.sapo import Sapo


def gate(r, tau):
    return 1 / math.cosh(tau * (r - 1) / 2) ** 2


@pytest.mark.parametrize("objective", [Sapo(), Sapo(tau_positive=3.0, tau_negative=0.5)])
def test_gradient_factor_is_the_ratio_times_the_gate(gradient_factors, objective):
    def factor(r, a):
        return r * gate(r, objective.tau_positive if a > 0 else objective.tau_negative)

    gradient_factors(objective, factor)


@pytest.mark.parametrize(("r", "number"), [(0.5, 0.940), (1.0, 1.0), (2.0, 0.786)])
def test_numbers_of_the_paper_at_tau_one(run, r, number):
    _, gradient = run(Sapo(), [r], [1.0])
    assert -gradient.item() / r == pytest.approx(number, abs=5e-4)


def test_a_larger_tau_fades_sooner(run):
    for r in (0.3, 0.7, 1.4, 3.0):
        factors = [-run(Sapo(tau_positive=tau), [r], [1.0])[1].item() for tau in (0.5, 1.0, 2.0)]
        assert factors[0] > factors[1] > factors[2] > 0


def test_losses_are_the_gated_ratio(run):
    output, _ = run(Sapo(), [1.0, 2.0], [-1.0, 2.0])
    expected = [2 / 1.05, -2 * 4 / (1 + math.exp(-1.0))]
    assert output.token_losses.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("key", ["tau_positive", "tau_negative"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_temperatures_outside_their_range_are_refused(key, value):
    words = "be positive" if math.isfinite(value) else "be finite"
    with pytest.raises(ValueError, match=rf"^objective\.{key} must {words}, got {value!r}$"):
        Sapo(**{key: value})
