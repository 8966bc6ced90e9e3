"""Thinning by price: the least cost times variance, found from earlier batches alone."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from scipy.optimize import minimize

from cost.ledger import METRICS
from cost.prices.flops import FlopsPrice
from cost.thinning.priced import Priced, SpentState
from cost.thinning.thinning import Candidates
from tests.cost.play import select
from tests.cost.prices.test_prices import SHAPE


def batch(seed=0, size=40, generating_cost=3000.0, spread=1.5):
    rng = np.random.default_rng(seed)
    advantages = np.where(rng.random(size) < 0.7, rng.normal(size=size), 0.0)
    return Candidates(
        scores=np.abs(advantages) * rng.lognormal(0, spread, size),
        costs=rng.uniform(50, 500, size),
        advantages=advantages,
        rewards=np.ones(size),
        usable=np.ones(size, dtype=bool),
        groups=np.arange(size) // 4,
        generating_cost=generating_cost,
    )


def settled(rule, candidates, num_batches=200):
    """The state when every batch is the same."""
    state, rng = SpentState(), np.random.default_rng(0)
    for _ in range(num_batches):
        state = rule.entered(state)
        state = rule.thinned(state, candidates, rule.thin(candidates, rng, state))
    return rule.entered(state)


def product_of(rule, candidates, q):
    cost, variance = rule.spent(candidates, q)
    return cost * variance


@pytest.mark.parametrize("sampling", [1.0, 3.0, 0.5])
@pytest.mark.parametrize(
    ("generating_cost", "floor"), [(300.0, 1e-6), (3000.0, 0.02), (3000.0, 0.3)]
)
def test_it_finds_the_least_cost_times_variance(generating_cost, floor, sampling):
    """Against a numeric optimiser of all keep probabilities at once."""
    rule = Priced(floor=floor, sampling=sampling)
    candidates = batch(size=12, generating_cost=generating_cost)
    q = rule.probabilities(candidates, settled(rule, candidates).scale)
    can = q > 0
    assert (can == (candidates.advantages != 0)).all() and (q[can] < 1).any()

    def logarithm(inner):
        trial = np.zeros(len(q))
        trial[can] = inner
        return math.log(product_of(rule, candidates, trial))

    found = minimize(
        logarithm, np.full(can.sum(), 0.7), bounds=[(floor, 1.0)] * int(can.sum()),
        options={"ftol": 1e-15, "maxiter": 2000, "maxfun": 100_000},
    )  # fmt: skip
    assert logarithm(q[can]) <= found.fun + 1e-7
    assert q[can] == pytest.approx(found.x, abs=0.01)


@pytest.mark.parametrize("generating_cost", [300.0, 3000.0])
def test_a_prompt_that_a_group_shares_is_paid_for_once(generating_cost):
    """The least of the product, with the true chance that a group's prompt is computed."""
    rule = Priced(floor=0.02)
    candidates = batch(size=12, generating_cost=generating_cost)
    # Groups of four, whose prompts cost as much as their longest responses do without them.
    prompts = np.repeat([500.0, 100.0, 900.0], 4)
    candidates = replace(candidates, costs=candidates.costs + prompts, prompt_costs=prompts)
    q = rule.probabilities(candidates, settled(rule, candidates).scale)
    can = q > 0
    assert (q[can] < 1).any() and (q > rule.floor).any()

    cost, _ = rule.spent(candidates, q)
    kept_any = 1 - np.prod(1 - q.reshape(3, 4), axis=1)
    own = (candidates.costs - prompts) @ q
    assert cost == pytest.approx(generating_cost + own + kept_any @ [500.0, 100.0, 900.0])

    def logarithm(inner):
        trial = np.zeros(len(q))
        trial[can] = inner
        return math.log(product_of(rule, candidates, trial))

    found = minimize(
        logarithm, q[can], bounds=[(rule.floor, 1.0)] * int(can.sum()),
        options={"ftol": 1e-15, "maxiter": 2000, "maxfun": 100_000},
    )  # fmt: skip
    assert logarithm(q[can]) <= found.fun + 1e-7
    copies = replace(candidates, prompt_costs=None)
    apart = rule.probabilities(copies, settled(rule, copies).scale)
    assert product_of(rule, candidates, q) < product_of(rule, candidates, apart)


def test_a_lone_candidate_pays_its_prompt_and_one_beside_certain_ones_nothing():
    rule = Priced(floor=1e-6)
    candidates = Candidates(
        scores=np.array([1.0, 1e6, 1.0]), costs=np.array([9.0, 9.0, 9.0]), advantages=np.ones(3),
        rewards=np.ones(3), usable=np.ones(3, dtype=bool), groups=np.array([0, 2, 2]),
        prompt_costs=np.array([5.0, 5.0, 5.0]),
    )  # fmt: skip
    q = rule.probabilities(candidates, scale=0.5)
    assert q.tolist() == pytest.approx([0.5 / 3, 1.0, 0.5 / 2])
    cost, _ = rule.spent(candidates, q)
    assert cost == pytest.approx(9 * 0.5 / 3 + 9 + 4 * 0.5 / 2)


def test_its_scale_solves_the_equation_of_the_least():
    """s^2 = C / V, and the closed form for one large response beside equal small ones."""
    rule = Priced(floor=1e-9)
    large, small = 10.0, 1.0
    scores = np.array([large, *[small] * 5])
    candidates = Candidates(
        scores=scores, costs=np.ones(6), advantages=np.ones(6), rewards=np.ones(6),
        usable=np.ones(6, dtype=bool), groups=np.zeros(6, dtype=int), generating_cost=8.0,
    )  # fmt: skip
    state = settled(rule, candidates)
    # The large one is certain: s^2 = (generating + its cost) / its square.
    assert state.scale == pytest.approx(math.sqrt((8.0 + 1.0) / large**2))
    q = rule.probabilities(candidates, state.scale)
    assert q.tolist() == pytest.approx([1.0, *[0.3] * 5])
    cost, variance = rule.spent(candidates, q)
    assert cost == pytest.approx(8 + 1 + 5 * 0.3) and variance == pytest.approx(100 + 5 / 0.3)
    assert state.scale**2 == pytest.approx(cost / variance)


def test_responses_that_are_alike_are_all_kept():
    alike = replace(batch(), scores=np.where(batch().advantages != 0, 2.0, 0.0))
    alike = replace(alike, costs=np.full(40, 100.0))
    rule = Priced()
    q = rule.probabilities(alike, settled(rule, alike).scale)
    assert (q == (alike.advantages != 0)).all()


def test_dearer_generation_keeps_more_and_units_do_not_matter():
    rule = Priced()
    kept = []
    for generating_cost in (0.0, 1e3, 1e4, 1e6):
        candidates = batch(generating_cost=generating_cost)
        kept.append(rule.probabilities(candidates, settled(rule, candidates).scale))
    assert all((a <= b + 1e-9).all() for a, b in pairwise(kept))
    assert kept[0].sum() < kept[-1].sum()
    other = batch(generating_cost=1e3 * 7.0)
    other = replace(other, costs=other.costs * 7.0, scores=other.scores * 1e-3)
    same = rule.probabilities(other, settled(rule, other).scale)
    assert same == pytest.approx(kept[1], rel=1e-9)


def test_the_scale_is_never_of_the_batch_itself():
    rule, rng = Priced(), np.random.default_rng(0)
    first, second = batch(1), batch(2, spread=3.0)
    state = SpentState()
    assert (rule.thin(first, rng, state).probabilities == (first.advantages != 0)).all()
    state = rule.thinned(rule.entered(state), first, rule.thin(first, rng, state))
    # The passes over one batch go by the same; only a new batch makes it count.
    assert math.isinf(state.scale)
    state = rule.entered(state)
    q = rule.probabilities(second, state.scale)
    after = rule.thinned(state, second, rule.thin(second, rng, state))
    assert after.scale == state.scale and math.isfinite(state.scale)
    assert (rule.thin(second, rng, after).probabilities == q).all()


def test_earlier_batches_count_less_and_less():
    rule = Priced(decay=0.5)
    state = SpentState(cost=8.0, variance=2.0, last_cost=3.0, last_variance=5.0)
    assert rule.entered(state) == SpentState(cost=7.0, variance=6.0)


def test_floors_bound_weights_and_their_part_of_the_variance_is_told():
    rule = Priced(floor=0.25)
    candidates = batch()
    state = settled(rule, candidates)
    thinning = rule.thin(candidates, np.random.default_rng(0), state)
    q, metrics = thinning.probabilities, thinning.metrics
    assert q[q > 0].min() == 0.25 and set(metrics) <= set(METRICS)
    floored = q == 0.25
    _, variance = rule.spent(candidates, q)
    expected = (candidates.scores[floored] ** 2 / 0.25).sum() / variance
    assert metrics["cost/thinning_floored_variance_share"] == pytest.approx(expected)
    costs = candidates.costs[candidates.advantages != 0]
    assert metrics["cost/thinning_chosen_share"] == pytest.approx(
        candidates.costs @ q / costs.sum()
    )
    all_kept = product_of(rule, candidates, (candidates.advantages != 0).astype(float))
    saving = metrics["cost/thinning_priced_saving_estimated"]
    assert saving == pytest.approx(1 - product_of(rule, candidates, q) / all_kept) and saving > 0


def test_of_a_batch_without_candidates_all_are_kept_as_the_metric_has_it():
    nothing = replace(batch(), advantages=np.zeros(40), scores=np.zeros(40))
    thinning = Priced().thin(nothing, np.random.default_rng(0), SpentState())
    assert not thinning.keep.any()
    assert thinning.metrics["cost/thinning_chosen_share"] == 1.0


def test_responses_without_an_advantage_can_be_kept():
    rule = Priced(keep_zero_advantage=True)
    candidates = batch()
    q = rule.probabilities(candidates, settled(rule, candidates).scale)
    assert (q[candidates.advantages == 0] == rule.floor).all() and rule.keeps_zero_advantage


@pytest.mark.parametrize(
    "changes", [{"floor": 0.0}, {"decay": 1.5}, {"sampling": 0.0}, {"sampling": math.nan}]
)
def test_refuses(changes):
    with pytest.raises(ValueError, match=rf"^thinning\.{next(iter(changes))} must .* got"):
        Priced(**changes)


def test_a_scheduler_learns_it_batch_by_batch_and_saves_it(make_scheduler, make_report):
    def new():
        return make_scheduler(thinning=Priced(), price=FlopsPrice(**SHAPE))

    def learn(scheduler, batch):
        reports = [make_report(ticket) for ticket in scheduler.draw(batch, batch).tickets]
        return reports, select(scheduler, batch, reports)

    def state_of(scheduler):
        return scheduler.state_dict()["statistics"]["plugs"]["thinning"]

    first = new()
    learn(first, 0)
    assert state_of(first)["cost"] == 0 and state_of(first)["last_cost"] > 0
    learn(first, 1)
    assert state_of(first)["cost"] > 0 and state_of(first)["variance"] > 0
    again = new()
    again.load_state_dict(first.state_dict())
    reports, selections = learn(first, 2)
    for one, other in zip(selections, learn(again, 2)[1], strict=True):
        assert (one.weight == other.weight).all()
    before = state_of(first)
    assert before == state_of(again)
    first.select(2, [report.attempt for report in reports], epoch=1)
    assert state_of(first) == before


def test_a_price_that_does_not_say_what_generating_costs_is_refused(make_config):
    class Price:
        def of_drawing(self, prompt_tokens, lengths, group_size):
            return lengths

        def of_training(self, prompt_tokens, lengths):
            return lengths

    with pytest.raises(ValueError, match=r"^scheduler\.price must .* of_generating"):
        make_config(thinning=Priced(), price=Price())
