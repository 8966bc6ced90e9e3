import numpy as np
import pytest

from cost.proxies import AdvantageProxy, SurpriseProxy

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


@pytest.mark.parametrize(
    "changes", [{"advantage_exponent": 0.0}, {"length_exponent": float("inf")}]
)
def test_refuses(changes):
    with pytest.raises(ValueError, match=rf"proxy\.{next(iter(changes))} must be .* got"):
        AdvantageProxy(**changes)
