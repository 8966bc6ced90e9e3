import numpy as np
import pytest

from launch.run.parity import Difference, ParityError, Tolerance


def arrays(*rows):
    return [np.asarray(row, dtype=np.float32) for row in rows]


def test_difference_is_over_all_tokens_of_all_responses():
    found = Difference.between(arrays([-1.0, -2.0], [-3.0]), arrays([-1.0, -2.5], [-3.0]))
    assert found.maximum == 0.5
    assert found.mean == pytest.approx(0.5 / 3)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_an_infinite_difference(value):
    assert Difference.between(arrays([value]), arrays([-1.0])).maximum == np.inf


def test_float32_tolerance_is_on_the_maximum_and_names_the_version():
    tolerance = Tolerance(1e-3)
    tolerance.check(4, Difference(0.0, 0.0, 9e-4))
    with pytest.raises(ParityError, match=r"^version 5: .* differ by 0\.002 .*max_difference"):
        tolerance.check(5, Difference(0.0, 0.0, 2e-3))


def test_bfloat16_tolerance_is_on_mean_and_tail_against_the_baseline():
    tolerance = Tolerance(None, slack=2.0, baseline=Difference(0.04, 0.2, 0.3))
    tolerance.check(1, Difference(0.07, 0.39, 5.0))
    with pytest.raises(ParityError, match=r"^version 2: .*\(mean\)"):
        tolerance.check(2, Difference(0.09, 0.2, 0.3))
    with pytest.raises(ParityError, match=r"\(p99\)"):
        tolerance.check(2, Difference(0.04, 0.5, 0.6))
