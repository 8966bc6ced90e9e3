"""The runs and draws behind the experiments: every rule on one case, many seeds at once."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from cost.draws.streams import generator_for
from cost.thinning.waterfill import waterfill
from cost.types import FloatArray
from launch.study.theory.bounds import cost_aware, cost_only, norm_only, uniform, upper_bound
from launch.study.theory.problems import RADIUS, Case
from launch.study.theory.sgd import (
    Poisson,
    Reached,
    Sampler,
    WithReplacement,
    cost_to_reach,
    descend,
)

RULES: dict[str, Callable[[FloatArray, FloatArray], FloatArray]] = {
    "cost-aware": cost_aware,
    "uniform": uniform,
    "norm-only": norm_only,
    "cost-only": cost_only,
}
POISSON = "uniform, Poisson"
POISSON_OURS = "cost-aware, Poisson"
POISSON_BUDGET = 8.0
"""Expected cost of one Poisson step, in mean costs of an example."""
ESTIMATES = 4000
"""Estimates of the gradient a seed draws for the variance."""
MULTIPLES = tuple(float(2**k) for k in range(5, 11))
"""Step sizes tried, in steps that the bound prescribes for the tuned runs' epsilon."""
TUNING_SEEDS = 6
TUNING_STEPS = 60_000
"""Most steps of a run that a step size is tried on."""


def samplers_on(case: Case, norms: FloatArray) -> dict[str, Sampler]:
    """Apply every rule to these norms; Poisson sampling has a budget, uniform and water-filled."""
    budget = POISSON_BUDGET * float(case.costs.mean())
    share = budget / float(case.costs.sum())
    found: dict[str, Sampler] = {
        name: WithReplacement(rule(norms, case.costs)) for name, rule in RULES.items()
    }
    found[POISSON_OURS] = Poisson(waterfill(norms, case.costs, budget))
    found[POISSON] = Poisson(np.full(len(norms), share))
    return found


def generators(case: Case, purpose: str, count: int) -> list[np.random.Generator]:
    """Make one random stream a seed, of a purpose's own."""
    name = f"theory/{purpose}/{case.data}/{case.cost_case}"
    return [generator_for(seed, name) for seed in range(count)]


def plan_moment(case: Case, sampler: Sampler) -> float:
    """Bound a step's second moment over the ball: variance at signal 0, or with |grad f| <= sum G.

    One draw with replacement has second moment V whatever the signal. Poisson sampling has
    sum G^2 (1/p - 1) + |grad f|^2.
    """
    most = float(case.norms.sum()) ** 2 if isinstance(sampler, Poisson) else 0.0
    return sampler.variance(case.norms, 0.0) + most


def run_at_bound(
    case: Case, samplers: dict[str, Sampler], seeds: Sequence[np.random.Generator]
) -> dict[str, tuple[FloatArray, FloatArray]]:
    """Return [S] cost to epsilon and [S] mean |estimate|^2, each sampler at the bound's step."""
    found: dict[str, tuple[FloatArray, FloatArray]] = {}
    # Poisson steps are dearer to simulate, and fewer: a run of their own.
    for kind in (WithReplacement, Poisson):
        group = {name: s for name, s in samplers.items() if isinstance(s, kind)}
        plans = {
            name: upper_bound(
                RADIUS, case.epsilon, sampler.step_cost(case.costs), plan_moment(case, sampler)
            )
            for name, sampler in group.items()
        }
        most = max(plan.num_steps for plan in plans.values())
        contestants = [(sampler, plans[name].step) for name, sampler in group.items()]
        reached = _run(case, contestants, seeds, most)
        if not np.isfinite(reached.cost).all():
            raise ArithmeticError(f"a run on {case.data} did not reach epsilon within its bound")
        for index, name in enumerate(group):
            found[name] = (reached.cost[index], reached.moment[index])
    return found


def run_tuned(
    case: Case, samplers: dict[str, Sampler], num_seeds: int
) -> tuple[dict[str, FloatArray], dict[str, float]]:
    """Return [S] cost to epsilon of each rule at its best step, and that over the bound's step.

    Steps are chosen on seeds of their own.
    """
    rules = {name: samplers[name] for name in RULES}
    bounds = {name: case.epsilon / plan_moment(case, sampler) for name, sampler in rules.items()}
    tried = [(rules[name], bounds[name] * multiple) for name in rules for multiple in MULTIPLES]
    tuning = _run(case, tried, generators(case, "tuning", TUNING_SEEDS), TUNING_STEPS)
    multiples: dict[str, float] = {}
    for name, cost in zip(rules, tuning.cost.reshape(len(rules), len(MULTIPLES), -1), strict=True):
        # A step at which fewer seeds arrive comes later, whatever it costs the others.
        lost = np.isinf(cost).sum(axis=1)
        spent = np.where(np.isinf(cost), 0.0, cost).sum(axis=1)
        multiples[name] = MULTIPLES[int(np.lexsort((spent, lost))[0])]
    best = [(rules[name], bounds[name] * multiples[name]) for name in rules]
    reached = _run(case, best, generators(case, "tuned", num_seeds), 20 * TUNING_STEPS)
    if not np.isfinite(reached.cost).all():
        raise ArithmeticError(f"a tuned run on {case.data} did not reach epsilon")
    return dict(zip(rules, reached.cost, strict=True)), multiples


def _run(
    case: Case,
    contestants: Sequence[tuple[Sampler, float]],
    generators: Sequence[np.random.Generator],
    most_steps: int,
) -> Reached:
    progress = descend(
        case.problem,
        contestants,
        generators,
        costs=case.costs,
        start=np.zeros(case.problem.rows.shape[1]),
        radius=RADIUS,
        checkpoints=_checkpoints(most_steps),
    )
    return cost_to_reach(case.problem.value, progress, case.least + case.epsilon)


def _checkpoints(most_steps: int) -> list[int]:
    """Return numbers of steps 4% apart."""
    count = math.ceil(math.log(most_steps) / math.log(1.04)) + 1
    return [int(steps) for steps in np.unique(np.ceil(np.geomspace(1, most_steps, count)))]


def variances(
    case: Case, samplers: dict[str, Sampler], seeds: Sequence[np.random.Generator]
) -> dict[str, FloatArray]:
    """Measure [S] cost of a step x variance of the estimate at the minimiser, over `ESTIMATES`."""
    found: dict[str, list[float]] = {name: [] for name in samplers}
    for rng in seeds:
        for name, sampler in samplers.items():
            count = ESTIMATES // 4 if isinstance(sampler, Poisson) else ESTIMATES
            indices, weights = sampler.draw(rng.random((count, sampler.num_uniforms)))
            points = np.broadcast_to(case.optimum, (count, len(case.optimum)))
            estimates = case.problem.weighted_gradient(points, indices, weights)
            spent = np.where(weights > 0, case.costs[indices], 0.0).sum(axis=1).mean()
            found[name].append(float(spent * estimates.var(axis=0, ddof=1).sum()))
    return {name: np.array(values) for name, values in found.items()}


def predictions(case: Case, samplers: dict[str, Sampler]) -> dict[str, float]:
    """Return cost x variance at the minimiser in closed form."""
    norms = case.problem.norms_at(case.optimum)
    gradient = case.problem.gradient(case.optimum)
    signal = float(gradient @ gradient)
    return {
        name: sampler.step_cost(case.costs) * sampler.variance(norms, signal)
        for name, sampler in samplers.items()
    }
