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

from dataclasses import dataclass, replace

import numpy as np

from cost.draws.streams import generator_for
from cost.types import FloatArray
from launch.study.theory.bounds import lower_bound, upper_bound
from launch.study.theory.problems import RADIUS, Case
from launch.study.theory.runs import (
    POISSON,
    POISSON_OURS,
    generators,
    plan_moment,
    predictions,
    run_at_bound,
    run_tuned,
    samplers_on,
    variances,
)

BASELINES = ("uniform", "norm-only", "cost-only", POISSON)
TUNED_SHARE = 0.2
"""epsilon of the tuned runs over that of the bound's: without its caution the easier target is
reached within a few dozen draws, which says little about a rule."""
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
        """Return measured over predicted less 1, of the variance and of the bound's own step."""
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
    seeds = generators(case, "runs", num_seeds)
    samplers = samplers_on(case, case.norms)
    bound_run = run_at_bound(case, samplers, seeds)
    tuned_case = replace(case, epsilon=TUNED_SHARE * case.epsilon)
    tuned, multiples = run_tuned(tuned_case, samplers, num_seeds)
    at_optimum = samplers_on(case, case.problem.norms_at(case.optimum))
    measured = variances(case, at_optimum, generators(case, "variance", num_seeds))
    predicted = predictions(case, at_optimum)
    moments = {name: plan_moment(case, sampler) for name, sampler in samplers.items()}
    costs = {name: sampler.step_cost(case.costs) for name, sampler in samplers.items()}
    rng = generator_for(0, f"theory/bootstrap/{case.data}/{case.cost_case}")

    comparisons: list[Comparison] = []
    for baseline in BASELINES:
        ours = POISSON_OURS if baseline == POISSON else "cost-aware"
        comparisons.append(
            Comparison(
                data=case.data,
                cost_case=case.cost_case,
                baseline=baseline,
                variance_predicted=predicted[ours] / predicted[baseline],
                variance=ratio_interval(measured[ours], measured[baseline], rng),
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


def ratio_interval(over: FloatArray, under: FloatArray, rng: np.random.Generator) -> Interval:
    """Return the ratio of means with a 95% bootstrap interval; seeds are resampled in pairs.

    Args:
        over: [S] measurements of the numerator, one a seed.
        under: [S] those of the denominator, of the same seeds.
        rng: For the 4000 resamples.
    """
    picks = rng.integers(len(over), size=(4000, len(over)))
    low, high = np.quantile(over[picks].mean(axis=1) / under[picks].mean(axis=1), [0.025, 0.975])
    return Interval(float(over.mean() / under.mean()), float(low), float(high))
