import numpy as np
import pytest

from cost.thinning.proxies import LEAST_EXPONENT, AdvantageProxy, SurpriseProxy

ARGUMENTS = (
    np.array([1.0, -2.0, 0.0]), np.array([4, 9, 16]), np.array([4.0, 1.0, 9.0]),
    np.array([0.25, 0.1, 0.5]), np.array([2.0, 1.0, 1.0]),
)  # fmt: skip


def test_advantage_proxy_is_the_papers_by_default():
    assert AdvantageProxy().score(*ARGUMENTS).tolist() == [1, 2, 0]


def test_exponents():
    score = AdvantageProxy(advantage_exponent=2.0, length_exponent=-0.5).score(*ARGUMENTS)
    np.testing.assert_allclose(score, [1 / 2, 4 / 3, 0])


def test_surprise_proxy():
    np.testing.assert_allclose(SurpriseProxy().score(*ARGUMENTS), [1.0, 0.2, 0])


def test_surprise_exponents():
    proxy = SurpriseProxy(advantage_exponent=2.0, surprise_exponent=0.25, length_exponent=-0.5)
    expected = [4**0.25 / 2 * 0.25 * 2, 4 / 3 * 0.1, 0]
    np.testing.assert_allclose(proxy.score(*ARGUMENTS), expected)


def test_without_surprise_and_length_only_the_aggregation_is_left():
    assert SurpriseProxy(surprise_exponent=0.0).score(*ARGUMENTS).tolist() == [0.5, 0.2, 0]


def test_an_empty_response_counts_as_one_token():
    ones = np.ones(3)
    arguments = (ones, np.array([0, 1, 2]), ones, ones, ones)
    for proxy in (AdvantageProxy(length_exponent=-1.0), SurpriseProxy(length_exponent=-1.0)):
        assert proxy.score(*arguments).tolist() == [1, 1, 0.5]


def test_fitted_exponents_are_taken_as_far_as_they_make_sense():
    """A fit may say that worth falls with the advantage, or with the surprise."""
    proxy = SurpriseProxy()
    assert proxy.with_exponents(2.0, 0.125, -3.0) == SurpriseProxy(2.0, 0.125, -3.0)
    assert proxy.with_exponents(-2.0, -0.5, 3.0) == SurpriseProxy(LEAST_EXPONENT, 0.0, 3.0)


@pytest.mark.parametrize("proxy", [AdvantageProxy, SurpriseProxy])
@pytest.mark.parametrize(
    "changes",
    [{"advantage_exponent": 0.0}, {"length_exponent": float("inf")}],
)
def test_refuses(proxy, changes):
    with pytest.raises(ValueError, match=rf"proxy\.{next(iter(changes))} must be .* got"):
        proxy(**changes)


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_refuses_a_surprise_exponent(value):
    with pytest.raises(
        ValueError, match=r"^proxy\.surprise_exponent must (be finite|not be negative)"
    ):
        SurpriseProxy(surprise_exponent=value)
