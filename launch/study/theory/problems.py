"""Logistic regression on real data, with a cost on every example.

f(w) = (1/n) sum_i log(1 + exp(-y_i <x_i, w>))     over |w| <= RADIUS, from w = 0
"""

import math
from dataclasses import dataclass

import numpy as np

from cost.draws.streams import generator_for
from cost.types import FloatArray, IntArray
from launch.cli.refusals import UserError

RADIUS = 3.0
SHARE_OF_GAP = 0.1
"""epsilon as a share of f(0) - min f."""
COST_CASES = {
    "independent": (0.0, 1.0),
    "dearer with norm": (2.0, 0.5),
    "cheaper with norm": (-2.0, 0.5),
}
"""Name -> (power of the norm, sigma of the lognormal factor): how costs arise."""


@dataclass(frozen=True, slots=True)
class LogisticSum:
    """A mean of logistic losses as a finite sum; component i is loss i over n."""

    rows: FloatArray
    """[n, d] y_i x_i."""

    def weighted_gradient(
        self, points: FloatArray, indices: IntArray, weights: FloatArray
    ) -> FloatArray:
        """Return what `launch.study.theory.sgd.FiniteSum` asks for."""
        rows = self.rows[indices]
        factors = -weights * _logistic(-np.einsum("rmd,rd->rm", rows, points)) / len(self.rows)
        gradients: FloatArray = np.einsum("rm,rmd->rd", factors, rows)
        return gradients

    def value(self, points: FloatArray) -> FloatArray:
        """Return what `launch.study.theory.sgd.FiniteSum` asks for."""
        values: FloatArray = np.logaddexp(0.0, -points @ self.rows.T).mean(axis=-1)
        return values

    def gradient(self, point: FloatArray) -> FloatArray:
        """Return the full gradient [d] at a point [d]."""
        total: FloatArray = -(_logistic(-self.rows @ point) @ self.rows) / len(self.rows)
        return total

    def norms_at(self, point: FloatArray) -> FloatArray:
        """Return the exact norms [n] of the components' gradients at a point [d]."""
        return _logistic(-self.rows @ point) * self._sizes()

    def norms_in_ball(self, radius: float) -> FloatArray:
        """Return G [n], exact Lipschitz constants over the ball.

        The worst margin is -radius |x_i|.
        """
        sizes = self._sizes()
        return _logistic(radius * len(self.rows) * sizes) * sizes

    def _sizes(self) -> FloatArray:
        """Return |x_i| / n, [n]."""
        return np.asarray(np.linalg.norm(self.rows, axis=1) / len(self.rows), dtype=np.float64)

    def minimiser(self, radius: float) -> FloatArray:
        """Find the minimiser [d] over the ball by accelerated projected gradient steps."""
        step = 4 * len(self.rows) / np.linalg.norm(self.rows, ord=2) ** 2
        point = ahead = np.zeros(self.rows.shape[1])
        speed = 1.0
        for _ in range(20_000):
            moved = _projected(ahead - step * self.gradient(ahead), radius)
            # Momentum that points uphill is dropped: the restart of O'Donoghue and Candes.
            uphill = (ahead - moved) @ (moved - point) > 0
            faster = 1.0 if uphill else (1 + math.sqrt(1 + 4 * speed**2)) / 2
            ahead = moved if uphill else moved + (speed - 1) / faster * (moved - point)
            settled = np.linalg.norm(moved - point) < 1e-10
            point, speed = moved, faster
            if settled and not uphill:
                break
        return point


@dataclass(frozen=True, slots=True)
class Case:
    """One data set with one way to price its examples."""

    data: str
    cost_case: str
    problem: LogisticSum
    costs: FloatArray
    """[n], of mean 1."""
    norms: FloatArray
    """[n] G, exact Lipschitz constants over the ball."""
    optimum: FloatArray
    """[d] minimiser over the ball."""
    least: float
    """min f."""
    epsilon: float


def load_cases(*, quick: bool = False) -> list[Case]:
    """Load every data set with every way to price its examples.

    `quick` takes two sets and one way.

    Raises:
        UserError: If scikit-learn is not installed.
    """
    cases: list[Case] = []
    for data, problem in _load_data(quick=quick).items():
        norms = problem.norms_in_ball(RADIUS)
        optimum = problem.minimiser(RADIUS)
        gap = math.log(2) - float(problem.value(optimum[None])[0])
        for cost_case in list(COST_CASES)[: 1 if quick else None]:
            power, sigma = COST_CASES[cost_case]
            rng = generator_for(0, f"theory/costs/{data}/{cost_case}")
            costs = norms**power * rng.lognormal(0.0, sigma, len(norms))
            cases.append(
                Case(
                    data,
                    cost_case,
                    problem,
                    costs / costs.mean(),
                    norms,
                    optimum,
                    math.log(2) - gap,
                    SHARE_OF_GAP * gap,
                )
            )
    return cases


def _load_data(*, quick: bool) -> dict[str, LogisticSum]:
    try:
        from sklearn import datasets
    except ImportError as error:
        raise UserError(
            "launch.theory takes its data from scikit-learn, which is not installed; "
            "pip install 'cost-aware-rl[theory]'"
        ) from error

    wine = datasets.load_wine(return_X_y=True)
    diabetes = datasets.load_diabetes(return_X_y=True)
    found = {
        "wine (first or not)": _standardised(wine[0], wine[1] == 0),
        "diabetes (above median)": _standardised(diabetes[0], diabetes[1] > np.median(diabetes[1])),
    }
    if quick:
        return found
    cancer = datasets.load_breast_cancer(return_X_y=True)
    digits = datasets.load_digits(return_X_y=True)
    return found | {
        "breast cancer": _standardised(cancer[0], cancer[1] == 1),
        "digits (odd or even)": _standardised(digits[0], digits[1] % 2 == 1),
    }


def _standardised(features: FloatArray, positive: FloatArray) -> LogisticSum:
    """Scale columns to mean 0 and deviation 1, leave out those that never vary, add a constant."""
    deviations = features.std(axis=0)
    varying = deviations > 0
    scaled = (features[:, varying] - features.mean(axis=0)[varying]) / deviations[varying]
    with_constant = np.column_stack([scaled, np.ones(len(scaled))])
    return LogisticSum(np.where(positive, 1.0, -1.0)[:, None] * with_constant)


def _logistic(values: FloatArray) -> FloatArray:
    halves: FloatArray = 0.5 * (1 + np.tanh(values / 2))
    return halves


def _projected(point: FloatArray, radius: float) -> FloatArray:
    return point * min(1.0, radius / max(float(np.linalg.norm(point)), 1e-300))
