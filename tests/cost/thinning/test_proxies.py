import numpy as np
import pytest

from cost.thinning.proxies import AdvantageProxy, SurpriseProxy

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


def test_an_empty_response_has_a_finite_score():
    arguments = (np.array([1.0]), np.array([0]), np.array([0.0]), np.array([1.0]), np.array([1.0]))
    for proxy in (AdvantageProxy(length_exponent=-1.0), SurpriseProxy(length_exponent=-1.0)):
        assert np.isfinite(proxy.score(*arguments)).all()


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
    with pytest.raises(ValueError, match=r"^proxy\.surprise_exponent must be finite and not neg"):
        SurpriseProxy(surprise_exponent=value)
