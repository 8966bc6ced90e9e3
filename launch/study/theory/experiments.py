"""What the theory predicts and what runs measure, case by case.

All predictions are ratios, cost-aware over a baseline. Three measurements stand beside them:

    variance   cost x variance of the gradient estimate at the minimiser, probabilities from the
               exact gradient norms there; the actual sampler's estimates against the closed form
    bound      cost to epsilon at the step size the bound prescribes, epsilon / V: realised cost of
               the draws until the average of the iterates is epsilon-optimal, against C V
    tuned      the same where each rule has its best step size, chosen on other seeds

The bound's step makes time scale with V, and its noise, step x V / 2, the same for all rules. So
agreement at that step says that C V decides the cost once steps are set as the bound sets them; the
tuned runs say how much of it remains when they are not.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cost.draws.streams import generator_for
from cost.thinning.waterfill import waterfill
from cost.types import FloatArray
from launch.study.theory.bounds import (
    cost_aware,
    cost_moment,
    cost_only,
    lower_bound,
    norm_only,
    uniform,
    upper_bound,
    wrong_proxy_factor,
)
from launch.study.theory.problems import RADIUS, Case
from launch.study.theory.sgd import (
    Poisson,
    Reached,
    Sampler,
    WithReplacement,
    cost_to_reach,
    descend,
)
from launch.study.theory.subset import best_subset

RULES: dict[str, Callable[[FloatArray, FloatArray], FloatArray]] = {
    "cost-aware": cost_aware,
    "uniform": uniform,
    "norm-only": norm_only,
    "cost-only": cost_only,
}
POISSON = "uniform, Poisson"
BASELINES = ("uniform", "norm-only", "cost-only", POISSON)
POISSON_BUDGET = 8.0
"""Expected cost of one Poisson step, in mean costs of an example."""
ESTIMATES = 4000
"""Estimates of the gradient a seed draws for the variance."""
TUNED_SHARE = 0.2
"""epsilon of the tuned runs over that of the bound's: without its caution the easier target is
reached within a few dozen draws, which says little about a rule."""
MULTIPLES = tuple(float(2**k) for k in range(5, 11))
"""Step sizes tried, in steps that the bound prescribes for the tuned runs' epsilon."""
TUNING_SEEDS = 6
TUNING_STEPS = 60_000
"""Most steps of a run that a step size is tried on."""
BAR = 0.1
"""Agreement asked of the variance and of the bound's own step: |measured / predicted - 1|."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A measured ratio with its 95% interval over seeds."""

    ratio: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Cost-aware over one baseline, in one case."""

    data: str
    cost_case: str
    baseline: str
    variance_predicted: float
    variance: Interval
    predicted: float
    """Of C V with the Lipschitz constants: the ratio of the bound's costs."""
    bound: Interval
    bound_moment: Interval
    """Step cost x mean |estimate|^2 along the runs of `bound`: the bound's own quantity, with what
    the gradients really were in place of their Lipschitz constants."""
    tuned: Interval | None
    """None for Poisson sampling, which is not tuned."""

    @property
    def deviations(self) -> tuple[float, float]:
        """Measured over predicted less 1, of the variance and of the bound's own step."""
        return (
            self.variance.ratio / self.variance_predicted - 1,
            self.bound.ratio / self.predicted - 1,
        )


@dataclass(frozen=True, slots=True)
class Costs:
    """Cost-aware sampling in one case, in mean costs of an example."""

    data: str
    cost_case: str
    num_examples: int
    epsilon: float
    lower: float
    measured: float
    """At the bound's own step."""
    upper: float
    tuned_epsilon: float
    tuned: float
    """To `tuned_epsilon`, at the best step."""
    tuned_multiple: float
    """That step, in steps of the bound for `tuned_epsilon`."""


def compare(case: Case, num_seeds: int) -> tuple[list[Comparison], Costs]:
    """Measure one case."""
    seeds = _generators(case, "runs", num_seeds)
    samplers = _samplers(case, case.norms)
    bound_run = _run_at_bound(case, samplers, seeds)
    tuned_case = replace(case, epsilon=TUNED_SHARE * case.epsilon)
    tuned, multiples = _run_tuned(tuned_case, samplers, num_seeds)
    at_optimum = _samplers(case, case.problem.norms_at(case.optimum))
    variances = _variances(case, at_optimum, _generators(case, "variance", num_seeds))
    predictions = _predictions(case, at_optimum)
    moments = {name: plan_moment(case, sampler) for name, sampler in samplers.items()}
    costs = {name: sampler.step_cost(case.costs) for name, sampler in samplers.items()}
    rng = generator_for(0, f"theory/bootstrap/{case.data}/{case.cost_case}")

    comparisons: list[Comparison] = []
    for baseline in BASELINES:
        ours = "cost-aware, Poisson" if baseline == POISSON else "cost-aware"
        comparisons.append(
            Comparison(
                data=case.data,
                cost_case=case.cost_case,
                baseline=baseline,
                variance_predicted=predictions[ours] / predictions[baseline],
                variance=ratio_interval(variances[ours], variances[baseline], rng),
                predicted=costs[ours] * moments[ours] / (costs[baseline] * moments[baseline]),
                bound=ratio_interval(bound_run[ours][0], bound_run[baseline][0], rng),
                bound_moment=ratio_interval(
                    costs[ours] * bound_run[ours][1],
                    costs[baseline] * bound_run[baseline][1],
                    rng,
                ),
                tuned=ratio_interval(tuned[ours], tuned[baseline], rng)
                if baseline in tuned
                else None,
            )
        )
    plan = upper_bound(RADIUS, case.epsilon, costs["cost-aware"], moments["cost-aware"])
    return comparisons, Costs(
        data=case.data,
        cost_case=case.cost_case,
        num_examples=len(case.costs),
        epsilon=case.epsilon,
        lower=lower_bound(case.norms, case.costs, RADIUS, case.epsilon),
        measured=float(bound_run["cost-aware"][0].mean()),
        upper=plan.cost,
        tuned_epsilon=tuned_case.epsilon,
        tuned=float(tuned["cost-aware"].mean()),
        tuned_multiple=multiples["cost-aware"],
    )


def plan_moment(case: Case, sampler: Sampler) -> float:
    """Bound a step's second moment over the ball: variance at signal 0, or with |grad f| <= sum G.

    One draw with replacement has second moment V whatever the signal. Poisson sampling has
    sum G^2 (1/p - 1) + |grad f|^2.
    """
    most = float(case.norms.sum()) ** 2 if isinstance(sampler, Poisson) else 0.0
    return sampler.variance(case.norms, 0.0) + most


def ratio_interval(over: FloatArray, under: FloatArray, rng: np.random.Generator) -> Interval:
    """Ratio of means with a 95% bootstrap interval; seeds are resampled in pairs.

    Args:
        over: [S] measurements of the numerator, one a seed.
        under: [S] those of the denominator, of the same seeds.
        rng: For the 4000 resamples.
    """
    picks = rng.integers(len(over), size=(4000, len(over)))
    low, high = np.quantile(over[picks].mean(axis=1) / under[picks].mean(axis=1), [0.025, 0.975])
    return Interval(float(over.mean() / under.mean()), float(low), float(high))


@dataclass(frozen=True, slots=True)
class ProxyError:
    """C V under wrong proxies, over the optimum."""

    spread: float
    """Largest over smallest error of the proxies."""
    mean: float
    worst: float
    promised: float
    """Kantorovich's bound."""


def wrong_proxies(case: Case, num_trials: int = 500) -> list[ProxyError]:
    """Draw with proxies that are wrong by one of two factors, at random: the hardest kind."""
    rng = generator_for(0, "theory/proxies")
    best = cost_moment(cost_aware(case.norms, case.costs), case.norms, case.costs)
    found: list[ProxyError] = []
    for spread in (2.0, 4.0, 16.0):
        ratios = []
        for share in rng.uniform(0.05, 0.95, num_trials):
            errors = np.where(rng.random(len(case.norms)) < share, spread, 1.0)
            p = cost_aware(case.norms * errors, case.costs)
            ratios.append(cost_moment(p, case.norms, case.costs) / best)
        factor = wrong_proxy_factor(1.0, spread)
        found.append(ProxyError(spread, float(np.mean(ratios)), max(ratios), factor))
    return found


@dataclass(frozen=True, slots=True)
class Dropping:
    """What leaving out costly components does to the bound."""

    sigma: float
    """Of lognormal costs."""
    looseness: float
    """epsilon over 2 R sum G; at 1 any point of the ball is good enough."""
    share: float
    """theta, of epsilon, for the dropped."""
    dropped_examples: float
    """Their share of all components."""
    dropped_work: float
    """Their share of sum G sqrt(c)."""
    cost: float
    """Cost of the bound, over that with all components."""


def dropping(case: Case) -> list[Dropping]:
    """Choose subsets greedily, for costs and epsilons from usual to extreme."""
    found: list[Dropping] = []
    for sigma in (1.0, 2.0, 3.0):
        rng = generator_for(0, "theory/dropping")
        costs = rng.lognormal(0.0, sigma, len(case.norms))
        work = case.norms * np.sqrt(costs)
        for looseness in (0.01, 0.1, 0.3):
            epsilon = looseness * 2 * RADIUS * float(case.norms.sum())
            subset = best_subset(case.norms, costs, RADIUS, epsilon)
            found.append(
                Dropping(
                    sigma=sigma,
                    looseness=looseness,
                    share=subset.share,
                    dropped_examples=float(np.mean(~subset.keep)),
                    dropped_work=float(work[~subset.keep].sum() / work.sum()),
                    cost=subset.cost / (RADIUS * float(work.sum()) / epsilon) ** 2,
                )
            )
    return found


def _samplers(case: Case, norms: FloatArray) -> dict[str, Sampler]:
    """Every rule on these norms; Poisson sampling has a budget, uniform and water-filled."""
    budget = POISSON_BUDGET * float(case.costs.mean())
    share = budget / float(case.costs.sum())
    found: dict[str, Sampler] = {
        name: WithReplacement(rule(norms, case.costs)) for name, rule in RULES.items()
    }
    found["cost-aware, Poisson"] = Poisson(waterfill(norms, case.costs, budget))
    found[POISSON] = Poisson(np.full(len(norms), share))
    return found


def _generators(case: Case, purpose: str, count: int) -> list[np.random.Generator]:
    name = f"theory/{purpose}/{case.data}/{case.cost_case}"
    return [generator_for(seed, name) for seed in range(count)]


def _run_at_bound(
    case: Case, samplers: dict[str, Sampler], seeds: Sequence[np.random.Generator]
) -> dict[str, tuple[FloatArray, FloatArray]]:
    """[S] cost to epsilon and [S] mean |estimate|^2, each sampler at the bound's step."""
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


def _run_tuned(
    case: Case, samplers: dict[str, Sampler], num_seeds: int
) -> tuple[dict[str, FloatArray], dict[str, float]]:
    """[S] cost to epsilon of each rule at its best step, and which multiple of the bound's it is.

    Steps are chosen on seeds of their own.
    """
    rules = {name: samplers[name] for name in RULES}
    bounds = {name: case.epsilon / plan_moment(case, sampler) for name, sampler in rules.items()}
    tried = [(rules[name], bounds[name] * multiple) for name in rules for multiple in MULTIPLES]
    tuning = _run(case, tried, _generators(case, "tuning", TUNING_SEEDS), TUNING_STEPS)
    multiples: dict[str, float] = {}
    for name, cost in zip(rules, tuning.cost.reshape(len(rules), len(MULTIPLES), -1), strict=True):
        # A step at which fewer seeds arrive comes later, whatever it costs the others.
        lost = np.isinf(cost).sum(axis=1)
        spent = np.where(np.isinf(cost), 0.0, cost).sum(axis=1)
        multiples[name] = MULTIPLES[int(np.lexsort((spent, lost))[0])]
    best = [(rules[name], bounds[name] * multiples[name]) for name in rules]
    reached = _run(case, best, _generators(case, "tuned", num_seeds), 20 * TUNING_STEPS)
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
    """Numbers of steps 4% apart."""
    count = math.ceil(math.log(most_steps) / math.log(1.04)) + 1
    return [int(steps) for steps in np.unique(np.ceil(np.geomspace(1, most_steps, count)))]


def _variances(
    case: Case, samplers: dict[str, Sampler], seeds: Sequence[np.random.Generator]
) -> dict[str, FloatArray]:
    """[S] realised cost of a step x variance of the estimate at the minimiser, over `ESTIMATES`."""
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


def _predictions(case: Case, samplers: dict[str, Sampler]) -> dict[str, float]:
    """Cost x variance at the minimiser, in closed form."""
    norms = case.problem.norms_at(case.optimum)
    gradient = case.problem.gradient(case.optimum)
    signal = float(gradient @ gradient)
    return {
        name: sampler.step_cost(case.costs) * sampler.variance(norms, signal)
        for name, sampler in samplers.items()
    }
