"""Costs of Cost-Aware SGD: four ways to draw, what each costs to epsilon, and what none can beat.

    f(w) = sum_i f_i(w)   f_i convex, |grad f_i(w)| <= G_i on the ball of radius R about the start
    querying component i costs c_i; wanted: least expected cost with E f(w) - min f <= epsilon

The setting, p ~ G / sqrt(c), and that there are a cost-complexity bound, a lower bound and a
statement on proxies are the paper's (Mohri et al. 2026, arXiv 2604.28020, abstracts). Its theorems
were not available to us: every constant and derivation is ours and stands in a docstring.

G includes the 1/n of a mean. Arrays are [n], one entry a component.
`launch/study/theory/sgd.py` runs the method.
"""

import math
from dataclasses import dataclass

import numpy as np

from cost.types import FloatArray


def uniform(norms: FloatArray, costs: FloatArray) -> FloatArray:
    """Draw every component alike: p = 1 / n.

    All four rules take [n] norms and costs and give [n] p.
    """
    norms, _ = _checked(norms, costs)
    return _shares(np.ones(len(norms)))


def norm_only(norms: FloatArray, costs: FloatArray) -> FloatArray:
    """Draw with least variance per draw: p ~ G."""
    norms, _ = _checked(norms, costs)
    return _shares(norms)


def cost_only(norms: FloatArray, costs: FloatArray) -> FloatArray:
    """Draw with p ~ 1 / sqrt(c), the best where all gradients are of one norm."""
    _, costs = _checked(norms, costs)
    return _shares(1 / np.sqrt(costs))


def cost_aware(norms: FloatArray, costs: FloatArray) -> FloatArray:
    """Draw with least cost x second moment: p ~ G / sqrt(c), the paper's rule.

    By Cauchy-Schwarz C(p) V(p) = (sum p c) (sum G^2 / p) >= (sum G sqrt(c))^2 with equality here.
    """
    norms, costs = _checked(norms, costs)
    return _shares(norms / np.sqrt(costs))


def second_moment(probabilities: FloatArray, norms: FloatArray) -> float:
    """Return V(p) = sum_i G_i^2 / p_i of one draw g_I / p_I; p may be 0 where G is.

    Raises:
        ValueError: If a component with a gradient is never drawn, which no weight can undo.
    """
    return float(np.sum(norms**2 / _divisors(probabilities, norms)))


def cost_moment(probabilities: FloatArray, norms: FloatArray, costs: FloatArray) -> float:
    """Return C(p) V(p), expected cost x second moment of a draw.

    It is what the bound multiplies by R^2 / eps^2.

    Example: norms (1, 1) and costs (1, 4) give 10 for uniform and 9 for `cost_aware`.
    """
    return float(probabilities @ costs) * second_moment(probabilities, norms)


@dataclass(frozen=True, slots=True)
class Plan:
    """What the upper bound prescribes and promises."""

    step: float
    """Constant step size."""
    num_steps: int
    cost: float
    """Expected total cost R^2 C V / epsilon^2, before the steps are rounded up."""


def upper_bound(radius: float, epsilon: float, step_cost: float, moment: float) -> Plan:
    """Plan the steps at which projected SGD is epsilon-optimal in expectation.

    Holds for the average of the iterates w_0 .. w_{T-1} of projected SGD with the constant step
    R / sqrt(T V), started at the centre of the ball. Proof: projection brings no point further from
    w*, the estimate is unbiased and f convex, so

        E|w_{t+1} - w*|^2 <= E|w_t - w*|^2 - 2 step E[f(w_t) - f*] + step^2 V.

    Summed over t, with |w_0 - w*| <= R and f(average) <= average of f:

        E f(average) - f* <= R^2 / (2 step T) + step V / 2 = R sqrt(V / T)  at that step,

    which is epsilon at T = R^2 V / epsilon^2: then the step is epsilon / V, and the cost C T.

    Args:
        radius: R, of the ball about the start that is projected on; it holds a minimiser.
        epsilon: Wanted suboptimality, positive.
        step_cost: C, expected cost of a step.
        moment: V, bound on the second moment of a step's estimate, everywhere in the ball.
    """
    _positive(radius=radius, epsilon=epsilon, step_cost=step_cost, moment=moment)
    steps = radius**2 * moment / epsilon**2
    num_steps = max(math.ceil(steps), 1)
    return Plan(radius / math.sqrt(num_steps * moment), num_steps, steps * step_cost)


def lower_bound(norms: FloatArray, costs: FloatArray, radius: float, epsilon: float) -> float:
    """Return the least expected cost of any method on its worst problem.

        R^2 (sum G sqrt(c))^2 / (64 ln(3) epsilon^2)

    The form of the argument is known of the paper, from a fragment of its appendix: two hypotheses
    that queries must tell apart, sum_i q_i Delta_i^2 at least a constant, and an adversary who sets
    Delta. Constants and derivation are ours. It is about noisy components: a query of i returns an
    unbiased gradient of norm <= G_i. (A finite sum whose components are read without noise is never
    dearer than reading all of them for every full gradient.)

    On [-R, R] let f(w) = s w sum_i Delta_i G_i with s = +1 or -1 unknown; a query of i returns
    G_i b, b = +1 or -1 with mean s Delta_i. With sum Delta G = 4 epsilon / R the wrong sign of w
    costs 4 epsilon, so a method that is epsilon-optimal errs with chance <= 1/4 under either s:
    total variation >= 1/2, and KL >= 1/2 by Pinsker. A query of i adds
    Delta ln((1 + Delta) / (1 - Delta)) <= 2 ln(3) Delta^2 to KL, for Delta <= 1/2. Hence
    sum_i q_i Delta_i^2 >= 1 / (4 ln 3), at a cost of at least min_i(c_i / Delta_i^2) / (4 ln 3).
    The adversary's best Delta is proportional to sqrt(c): that is the bound, for epsilon up to
    R sum G sqrt(c) / (8 max sqrt(c)). `cost_aware` is within 64 ln(3), about 70, of it.

    Raises:
        ValueError: If an argument is outside its range, epsilon's included.
    """
    norms, costs = _checked(norms, costs)
    _positive(radius=radius, epsilon=epsilon)
    root = float(norms @ np.sqrt(costs))
    largest = radius * root / (8 * math.sqrt(float(costs[norms > 0].max())))
    if epsilon > largest:
        raise ValueError(f"epsilon must be at most {largest!r} for this bound, got {epsilon!r}")
    return (radius * root / epsilon) ** 2 / (64 * math.log(3))


def _shares(ratio: FloatArray) -> FloatArray:
    total: np.float64 = ratio.sum()
    return np.asarray(ratio / total, dtype=np.float64)


def _divisors(probabilities: FloatArray, norms: FloatArray) -> FloatArray:
    """Return p, with 1 where neither p nor G is positive."""
    if ((probabilities <= 0) & (norms > 0)).any():
        raise ValueError("probabilities must be positive wherever norms are, got 0")
    return np.where(probabilities > 0, probabilities, 1.0)


def _checked(norms: FloatArray, costs: FloatArray) -> tuple[FloatArray, FloatArray]:
    norms, costs = np.asarray(norms, dtype=np.float64), np.asarray(costs, dtype=np.float64)
    if norms.ndim != 1 or norms.shape != costs.shape or not len(norms):
        raise ValueError(
            f"norms and costs must be vectors of one length, got {norms.shape!r} and "
            f"{costs.shape!r}"
        )
    if not (np.isfinite(norms).all() and (norms >= 0).all() and norms.any()):
        raise ValueError(f"norms must be finite, not negative and not all 0, got {norms!r}")
    if not (np.isfinite(costs).all() and (costs > 0).all()):
        raise ValueError(f"costs must be finite and positive, got {costs!r}")
    return norms, costs


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive and finite, got {value!r}")
