"""What is believed of pass rates, as a distribution and not as a number: Beta(a, b) per prompt.

    a_i = k m_i + discounted successes,    b_i = k (1 - m_i) + discounted failures

m is a prediction and k the responses it counts for. A worth that bends over the pass rate is then
its mean over what is believed, not its value at the mean: a prompt believed to be either always or
never solved is worth little, though its expected pass rate is a half. Closed forms (textbook):

    E p (1 - p) = a b / ((a + b) (a + b + 1))
    E p^n = product over j < n of (a + j) / (a + b + j)
    P(a group of n is mixed) = 1 - E p^n - E (1 - p)^n
"""

import numpy as np

from cost.types import FloatArray


def mixed_chance(passing: FloatArray, failing: FloatArray, group_size: int) -> FloatArray:
    """Return the chance that a group has responses that pass and responses that fail.

    Args:
        passing: [N] a, positive.
        failing: [N] b, positive.
        group_size: n, at least 1; the time taken is proportional to it.

    Returns:
        [N] float64, in [0, 1].
    """
    total = passing + failing
    all_pass, all_fail = np.ones_like(total), np.ones_like(total)
    for drawn in range(group_size):
        all_pass *= (passing + drawn) / (total + drawn)
        all_fail *= (failing + drawn) / (total + drawn)
    return np.maximum(1.0 - all_pass - all_fail, 0.0)


def expected_variance(passing: FloatArray, failing: FloatArray) -> FloatArray:
    """Return E p (1 - p), [N] float64 in [0, 1 / 4].

    Args:
        passing: [N] a, positive.
        failing: [N] b, positive.
    """
    total = passing + failing
    return passing * failing / (total * (total + 1.0))
