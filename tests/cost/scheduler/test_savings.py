"""Savings in closed form, and by the draws themselves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cost.draws.allocators.uniform import Uniform
from cost.scheduler.savings import draw_saving, floored_share, thinning_saving
from cost.thinning.waterfill import waterfill
from tests.cost.play import select

quick = settings(max_examples=50)
SEEDS = st.integers(0, 10**6)


def optimal(costs, utilities):
    share = np.sqrt(utilities / costs)
    return share / share.sum()


def test_the_table_of_draws():
    """Costs 1 and 4, equal norms: 9 against 10."""
    p, costs, utilities = np.array([2, 1]) / 3, np.array([1.0, 4.0]), np.ones(2)
    assert draw_saving(p, costs, utilities) == pytest.approx(1 - 9 / 10)
    assert draw_saving(np.array([1, 2]) / 3, costs, utilities) == pytest.approx(1 - 13.5 / 10)


@given(SEEDS, st.integers(1, 30))
@quick
def test_the_best_draws_save_one_minus_the_squared_cosine(seed, size):
    rng = np.random.default_rng(seed)
    costs, utilities = rng.lognormal(0, 1, size), rng.lognormal(0, 2, size)
    norms, roots = np.sqrt(utilities), np.sqrt(costs)
    squared_cosine = (norms @ roots) ** 2 / (utilities.sum() * costs.sum())
    saving = draw_saving(optimal(costs, utilities), costs, utilities)
    assert saving == pytest.approx(1 - squared_cosine, abs=1e-9)
    other = rng.dirichlet(np.ones(size))
    assert draw_saving(other, costs, utilities) <= saving + 1e-9
    scaled = draw_saving(optimal(costs, utilities), 7 * costs, 1e-9 * utilities)
    assert scaled == pytest.approx(saving, abs=1e-9)


def test_uniform_draws_of_as_much_cost_have_as_much_variance():
    """Cost times variance of the weighted mean of real draws, against uniform draws."""
    rng = np.random.default_rng(0)
    costs, values = rng.lognormal(0, 1, 6), rng.normal(size=6) * [5, 1, 1, 1, 1, 0.1]
    # Signs at random make the mean gradient 0: second moment and variance are the same then.
    p = optimal(costs, values**2)

    def spent(probabilities):
        drawn = rng.choice(6, size=200_000, p=probabilities)
        signed = rng.choice([-1, 1], size=len(drawn)) * values[drawn]
        return costs[drawn].mean() * (signed / (6 * probabilities[drawn])).var()

    measured = 1 - spent(p) / spent(np.full(6, 1 / 6))
    assert draw_saving(p, costs, values**2) == pytest.approx(measured, abs=0.02)


def test_nothing_to_save():
    uniform, costs = np.full(4, 0.25), np.arange(1.0, 5.0)
    assert draw_saving(uniform, costs, np.arange(4.0)) == pytest.approx(0)
    assert draw_saving(uniform, costs, np.zeros(4)) == 0.0
    assert draw_saving(np.ones(1), np.ones(1), np.ones(1)) == pytest.approx(0)
    scores = np.array([1.0, 2.0, 0.0])
    assert thinning_saving(scores, costs[:3], np.ones(3)) == pytest.approx(0)
    assert thinning_saving(scores, costs[:3], np.full(3, 0.3)) == pytest.approx(0)
    assert thinning_saving(np.zeros(3), costs[:3], np.full(3, 0.3)) == 0.0
    assert thinning_saving(scores, costs[:3], np.zeros(3)) == 0.0
    assert thinning_saving(np.zeros(0), np.zeros(0), np.zeros(0)) == 0.0


def test_the_table_of_thinning():
    """Scores 1.5, .5, .5 at costs 100, 400, 900 and a budget of 700 of 1400."""
    scores, costs = np.array([1.5, 0.5, 0.5]), np.array([100.0, 400.0, 900.0])
    q = waterfill(scores, costs, 700.0)
    # Uniform inclusion has the value 2.75 / u, so that u = 2.75 / 3.291667 = .8354.
    assert thinning_saving(scores, costs, q) == pytest.approx(1 - 700 / (1400 * 2.75 / 3.2916667))


@given(SEEDS, st.integers(1, 30), st.floats(0.05, 0.95))
@quick
def test_uniform_thinning_at_the_stated_cost_adds_the_same_variance(seed, size, share):
    rng = np.random.default_rng(seed)
    scores, costs = rng.lognormal(0, 1, size), rng.lognormal(0, 1, size)
    q = waterfill(scores, costs, share * costs.sum(), floor=0.01)
    saving = thinning_saving(scores, costs, q)
    uniform = float(q @ costs) / (1 - saving) / costs.sum()
    assert 0 < uniform <= 1 + 1e-9
    added, theirs = (scores**2 @ (1 / p - 1) for p in (q, np.full(size, uniform)))
    assert theirs == pytest.approx(added, abs=1e-9 * (scores**2).sum() / min(q.min(), uniform))
    assert saving >= -1e-9, "no rule beats water-filling"
    # Of such scores the squares are no numbers any more.
    assert thinning_saving(1e-200 * scores, 1e-6 * costs, q) == pytest.approx(saving, abs=1e-9)


def test_to_avoid_what_is_worth_nothing_is_a_saving():
    """Draws of chance 3/4 of the one prompt of worth do with 2/3 of the uniform ones."""
    worths = np.array([0.0, 5.0])
    assert draw_saving(np.array([0.25, 0.75]), np.ones(2), worths) == pytest.approx(1 / 3)


def test_what_cannot_be_kept_is_not_a_saving():
    scores, costs, q = np.array([1.0, 2.0]), np.array([1.0, 3.0]), np.array([0.5, 1.0])
    more = [np.append(values, extra) for values, extra in ((scores, 9), (costs, 9), (q, 0))]
    assert thinning_saving(*more) == pytest.approx(thinning_saving(scores, costs, q))


def test_floored_share():
    assert floored_share(np.full(3, 1 / 3)) == 1.0
    assert floored_share(np.array([0.1, 0.1005, 0.2, 0.5995])) == 0.5
    assert floored_share(np.array([0.1, 0.1005, 0.102, 0.6975])) == 0.5


def test_the_scheduler_tells_what_its_draws_save(make_scheduler):
    metrics = make_scheduler().metrics()
    distribution = make_scheduler().distribution()
    expected = draw_saving(distribution.probabilities, distribution.costs, distribution.utilities)
    assert metrics["cost/draw_saving_estimated"] == expected > 0
    uniform = make_scheduler(allocator=Uniform()).metrics()
    assert uniform["cost/draw_saving_estimated"] == pytest.approx(0)
    assert uniform["cost/draw_floored_share"] == 1.0


def test_a_batch_is_credited_with_the_saving_of_its_own_draws(make_scheduler, make_report):
    """Whether the next batch was drawn before this one was selected is a matter of timing."""
    uniform_tokens = []
    for ahead in (False, True):
        scheduler = make_scheduler(max_staleness=1)
        drawn = [scheduler.draw(0, 0), scheduler.draw(1, 0)]
        saving = scheduler.metrics()["cost/draw_saving_estimated"]
        reports = [[make_report(ticket) for ticket in batch.tickets] for batch in drawn]
        for report in reports[0]:
            scheduler.observe(report)
        if ahead:
            scheduler.draw(2, 1)
            assert scheduler.metrics()["cost/draw_saving_estimated"] != saving
        select(scheduler, 0, reports[0])
        uniform_tokens.append(scheduler.metrics()["cost/uniform_generated_tokens_estimated"])
    tokens = sum(report.generated_tokens for report in reports[0])
    assert uniform_tokens[0] == pytest.approx(tokens / (1 - saving))
    assert uniform_tokens[1] == uniform_tokens[0]
