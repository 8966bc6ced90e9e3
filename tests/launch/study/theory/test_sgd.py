"""Samplers by enumeration, the descent against a plain loop, and cost to epsilon as predicted."""

import itertools
from dataclasses import dataclass

import numpy as np
import pytest

import launch.study.theory.sgd
from cost.thinning.waterfill import waterfill
from launch.study.theory.bounds import cost_aware, second_moment, uniform, upper_bound
from launch.study.theory.sgd import Checkpoint, Poisson, WithReplacement, cost_to_reach, descend


@dataclass(frozen=True)
class Quadratic:
    """f_i(w) = |w|^2 / (2 n) - <z_i, w> with sum z = 0: minimum 0 at 0, gradients mostly noise."""

    shifts: np.ndarray

    def weighted_gradient(self, points, indices, weights):
        total = weights.sum(axis=1)[:, None] * points / len(self.shifts)
        return total - np.einsum("rm,rmd->rd", weights, self.shifts[indices])

    def value(self, points):
        return 0.5 * (points**2).sum(axis=-1)

    def norms(self, radius):
        return np.linalg.norm(self.shifts, axis=1) + radius / len(self.shifts)


def quadratic(size=40, seed=0):
    rng = np.random.default_rng(seed)
    half = rng.normal(size=(size // 2, 3)) * rng.lognormal(-3, 1, (size // 2, 1))
    return Quadratic(np.concatenate([half, -half])), rng.lognormal(0, 1, size)


def with_replacement_patterns(sampler):
    """Every outcome of a step, by the sampler's own draw, and its chance."""
    p = sampler.probabilities
    middles = np.cumsum(p) - p / 2
    for choice in itertools.product(np.flatnonzero(p), repeat=sampler.num_draws):
        yield sampler.draw(middles[list(choice)]), np.prod(p[list(choice)])


def poisson_patterns(sampler):
    p = sampler.probabilities
    for included in itertools.product([True, False], repeat=len(p)):
        uniforms = np.where(included, p / 2, (1 + p) / 2)
        yield sampler.draw(uniforms), np.prod(np.where(included, p, 1 - p))


GRADIENTS = np.array([[1.0, 0.5], [-0.3, 2.0], [0.0, 0.0], [0.7, -1.1]])
STEP_COSTS = np.array([1.0, 4.0, 2.0, 0.5])
NORMS = np.linalg.norm(GRADIENTS, axis=1)


@pytest.mark.parametrize(
    ("sampler", "patterns"),
    [
        (WithReplacement(cost_aware(NORMS, STEP_COSTS)), with_replacement_patterns),
        (WithReplacement(np.full(4, 0.25), num_draws=3), with_replacement_patterns),
        (Poisson(waterfill(NORMS, STEP_COSTS, 3.0)), poisson_patterns),
        (Poisson(np.array([0.2, 0.9, 0.5, 1.0])), poisson_patterns),
    ],
)
def test_samplers_are_unbiased_with_the_stated_variance_and_cost(sampler, patterns):
    mean, moment, spent, chance = np.zeros(2), 0.0, 0.0, 0.0
    for (indices, weights), probability in patterns(sampler):
        estimate = weights @ GRADIENTS[indices]
        mean += probability * estimate
        moment += probability * (estimate @ estimate)
        spent += probability * STEP_COSTS[indices][weights > 0].sum()
        chance += probability
    total = GRADIENTS.sum(axis=0)
    assert chance == pytest.approx(1)
    np.testing.assert_allclose(mean, total, atol=1e-12)
    variance = sampler.variance(NORMS, float(total @ total))
    assert moment - total @ total == pytest.approx(variance)
    assert spent == pytest.approx(sampler.step_cost(STEP_COSTS))


def test_with_replacement_survives_the_extreme_uniforms():
    sampler = WithReplacement(np.array([0.0, 0.3, 0.7, 0.0]))
    indices, weights = sampler.draw(np.array([0.0, np.nextafter(1.0, 0.0)]))
    assert indices.tolist() == [1, 2]
    np.testing.assert_allclose(weights, [1 / 0.3, 1 / 0.7])


def test_poisson_rows_of_different_lengths_keep_their_components():
    sampler = Poisson(np.array([0.5, 0.5, 0.5]))
    indices, weights = sampler.draw(np.array([[0.9, 0.9, 0.9], [0.9, 0.1, 0.2], [0.3, 0.9, 0.9]]))
    kept = [row[w > 0].tolist() for row, w in zip(indices, weights, strict=True)]
    assert kept == [[], [1, 2], [0]]
    assert weights[weights > 0].tolist() == [2, 2, 2]


def test_bad_probabilities_are_refused():
    with pytest.raises(ValueError, match="sum to 1"):
        WithReplacement(np.array([0.5, 0.4]))
    with pytest.raises(ValueError, match="num_draws must be at least 1"):
        WithReplacement(np.array([0.5, 0.5]), num_draws=0)
    with pytest.raises(ValueError, match=r"lie in \[0, 1\]"):
        Poisson(np.array([0.5, 1.2]))


def run(problem, costs, contestants, checkpoints, *, num_seeds=2, radius=2.0, start=None):
    return descend(
        problem,
        contestants,
        [np.random.default_rng(seed) for seed in range(num_seeds)],
        costs=costs,
        start=np.array([1.0, 0.0, 0.0]) if start is None else start,
        radius=radius,
        checkpoints=checkpoints,
    )


def test_descent_is_a_plain_loop():
    problem, costs = quadratic(8)
    p = cost_aware(problem.norms(2), costs)
    step, start, radius = 0.3, np.array([1.0, 0.0, 0.0]), 1.0
    contestants = [(WithReplacement(p), step), (WithReplacement(uniform(p, costs)), 0.1)]
    (point,) = run(problem, costs, contestants, [50], num_seeds=3, radius=radius)

    rng = np.random.default_rng(2)
    w, total, spent, moment = start, np.zeros(3), 0.0, 0.0
    for _ in range(50):
        total = total + w
        chosen = int(np.searchsorted(np.cumsum(p), rng.random(), side="right"))
        gradient = (w / 8 - problem.shifts[chosen]) / p[chosen]
        spent += costs[chosen]
        moment += gradient @ gradient
        w = w - step * gradient
        w = start + (w - start) * min(1, radius / np.linalg.norm(w - start))
    np.testing.assert_allclose(point.average[0, 2], total / 50)
    assert point.spent[0, 2] == pytest.approx(spent)
    assert point.moment[0, 2] == pytest.approx(moment / 50)


def test_neither_company_nor_blocks_nor_checkpoints_change_a_run(monkeypatch):
    problem, costs = quadratic(8)
    aware = (WithReplacement(cost_aware(problem.norms(2), costs)), 0.05)
    other = (WithReplacement(np.full(8, 1 / 8)), 0.01)
    *_, alone = run(problem, costs, [aware], [3, 40])
    monkeypatch.setattr(launch.study.theory.sgd, "MOST_UNIFORMS", 14)
    (together,) = run(problem, costs, [other, aware], [40])
    np.testing.assert_allclose(together.average[1], alone.average[0])
    np.testing.assert_allclose(together.spent[1], alone.spent[0])


def test_the_first_average_is_the_start_and_no_point_leaves_the_ball():
    problem, costs = quadratic()
    start = np.array([3.0, 0.0, 0.0])
    contestants = [(WithReplacement(np.full(40, 1 / 40)), 10.0)]
    first, last = run(problem, costs, contestants, [1, 100], radius=0.5, start=start)
    np.testing.assert_array_equal(first.average[0], [start, start])
    assert (np.linalg.norm(last.average - start, axis=-1) <= 0.5 + 1e-12).all()


def test_cost_to_reach_interpolates_and_says_when_it_did_not_arrive():
    def at(steps, spent, values):
        shape = (2, 2)
        average = np.reshape(np.array(values, float), (2, 2, 1))
        return Checkpoint(steps, np.reshape(spent, shape), average, np.full(shape, float(steps)))

    def value(points):
        return points[:, 0]

    progress = [
        at(1, [10.0, 10, 10, 10], [9, 9, 1, 9]),
        at(2, [20.0, 30, 20, 20], [5, 1, 9, 9]),
        at(3, [40.0, 40, 30, 30], [1, 9, 9, 9]),
    ]
    reached = cost_to_reach(value, progress, 3.0)
    np.testing.assert_allclose(reached.cost, [[30, 25], [10, np.inf]])
    np.testing.assert_allclose(reached.moment, [[3, 2], [1, np.inf]])


@pytest.fixture(scope="module")
def measured():
    """Cost to epsilon of cost-aware and uniform sampling at the bound's step, and predictions."""
    problem, costs = quadratic(seed=1)
    start, radius, epsilon = np.array([1.0, 0.0, 0.0]), 1.0, 0.1
    norms = problem.norms(2.0)
    rules = [cost_aware(norms, costs), uniform(norms, costs)]
    plans = [upper_bound(radius, epsilon, float(p @ costs), second_moment(p, norms)) for p in rules]
    contestants = [(WithReplacement(p), plan.step) for p, plan in zip(rules, plans, strict=True)]
    most = max(plan.num_steps for plan in plans)
    checkpoints = np.unique(np.geomspace(1, most, 150).astype(int)).tolist()
    progress = run(
        problem, costs, contestants, checkpoints, num_seeds=200, radius=radius, start=start
    )
    reached = cost_to_reach(problem.value, progress, epsilon)
    cosine = norms @ np.sqrt(costs) / np.sqrt((norms**2).sum() * costs.sum())
    return reached.cost.mean(axis=1), plans, cosine**2


def test_cost_to_epsilon_falls_as_the_squared_cosine(measured):
    (aware, plain), plans, prediction = measured
    assert prediction < 0.8
    assert plans[0].cost / plans[1].cost == pytest.approx(prediction)
    assert aware / plain == pytest.approx(prediction, rel=0.1)


def test_the_upper_bound_holds_and_is_not_idle(measured):
    costs, plans, _ = measured
    for found, plan in zip(costs, plans, strict=True):
        assert 0.05 * plan.cost < found < plan.cost


def test_poisson_descent_reaches_the_minimum():
    problem, costs = quadratic()
    norms = problem.norms(2.0)
    sampler = Poisson(waterfill(norms, costs, 0.5 * float(costs.sum())))
    (point,) = run(problem, costs, [(sampler, 0.02)], [4000], num_seeds=4)
    assert problem.value(point.average[0]).mean() < 0.01
    assert point.spent.mean() / 4000 == pytest.approx(0.5 * costs.sum(), rel=0.02)
