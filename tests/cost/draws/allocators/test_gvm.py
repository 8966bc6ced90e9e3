from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cost.draws.allocators.gvm import (
    Gvm,
    SurpriseGvm,
    allotted,
    correctness,
    norms_to_shares,
    pilot_statistics,
)
from cost.draws.allocators.integers import proportional
from cost.draws.allocators.types import BatchSoFar, Estimates, Snapshot
from cost.prompts import prompt_pool
from cost.state import from_plain, to_plain
from cost.types import Ticket

P, GROUP_SIZE = 6, 4


@pytest.fixture
def ranked_report(make_report):
    """Play a ticket of a prompt that is solved more often the higher its index."""

    def build(ticket):
        chances = np.random.default_rng([7, ticket.ticket_id]).random(ticket.num_samples)
        return make_report(ticket, rewards=(chances < ticket.prompt_index / 20 - 0.2).astype(float))

    return build


def shared(rates, norms, total, alpha, costs=None):
    rates, norms = np.array(rates, dtype=float), np.array(norms, dtype=float)
    costs = np.ones(len(rates)) if costs is None else np.array(costs, dtype=float)
    shares = norms_to_shares(rates, norms, alpha, 2.0)
    return allotted(rates, shares, costs, total / len(rates), 0)


def test_published_shares():
    shares = norms_to_shares(np.array([0.125, 0.5, 1.0]), np.ones(3), 1e-3, 2.0)
    amounts = proportional(shares, np.ones(3), 24.0)
    np.testing.assert_allclose(amounts, [12.771, 6.574, 4.655], atol=5e-4)
    assert shared([0.25, 1], [1, 1], 6, alpha=0.0).tolist() == [4, 2]
    assert shared([0.25, 1], [1, 1], 6, alpha=1e-12).tolist() == [4, 2]


def test_remainder_goes_to_low_pass_rates_first():
    """12.771, 6.574 and 4.655 leave 2 of 24 after rounding down."""
    assert shared([0.5, 0.125, 1], [1, 1, 1], 24, alpha=1e-3).tolist() == [7, 13, 4]


def test_shares_peak_at_the_root_of_alpha():
    rates = np.linspace(1e-3, 1, 10**5)
    best = rates[np.argmax(norms_to_shares(rates, np.ones(len(rates)), 1e-3, 2.0))]
    assert best == pytest.approx(0.0316, abs=5e-5)


def test_unsolved_prompts_and_zero_norms_get_nothing():
    assert shared([0, 0.5, 1], [9, 1, 0], 24, alpha=1e-3).tolist() == [0, 24, 0]
    assert shared([1e-320, 0.5], [1, 1], 9, alpha=1e-3).tolist() == [0, 9]
    assert shared([1e-320, 0.5], [1, 1], 9, alpha=0.0).tolist() == [9, 0]
    assert shared([0, 0], [9, 9], 9, alpha=1e-3).tolist() == [5, 4]


@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(2, 20), st.integers(0, 2))
@settings(max_examples=80)
def test_sum_and_bounds(seed, size, mean, least):
    rng = np.random.default_rng(seed)
    rates = rng.integers(0, 9, size) / 8
    shares = norms_to_shares(rates, rng.lognormal(0, 2, size))
    counts = allotted(rates, shares, np.ones(size), mean, least)
    assert counts.sum() == mean * size and counts.min() >= least
    assert not shares.any() or (counts[rates == 0] == least).all()
    costs = rng.uniform(1, 9, size)
    spent = allotted(rates, shares, costs, mean, least) @ costs
    assert mean * costs.sum() - costs.max() < spent <= mean * costs.sum() * (1 + 1e-6)


@given(st.integers(0, 10**6), st.integers(1, 20))
@settings(max_examples=60)
def test_variance_is_at_most_that_of_equal_groups(seed, size):
    """sum G^2 / (p n) at the same cost, alpha = 0, before rounding."""
    rng = np.random.default_rng(seed)
    rates, norms = rng.uniform(0.05, 1, size), rng.lognormal(0, 1, size)
    costs = rng.uniform(1, 9, size)
    shares = norms_to_shares(rates, norms, 0.0, 2.0)
    for c in (np.ones(size), costs):
        amounts = proportional(shares / np.sqrt(c), c, 8 * c.sum())
        found = (norms**2 / (rates * amounts)).sum()
        assert found <= (norms**2 / (rates * 8)).sum() * (1 + 1e-9)


def test_accepted_only_weights_are_unbiased():
    """Lemma 1 by enumeration: three answers, two right, two prompts of unequal n.

    E sum_i 1 / (n_i p_i) sum_accepted grad log pi(y) = sum_i grad log p_i.
    """
    right = np.array([True, False, True])
    for logits, n in ((np.array([0.3, 1.0, -0.5]), 2), (np.array([-1.0, 0.7, 0.2]), 4)):
        policy = np.exp(logits) / np.exp(logits).sum()
        scores = np.eye(3) - policy
        p = policy[right].sum()
        mean = np.zeros(3)
        for answers in product(range(3), repeat=n):
            drawn = list(answers)
            accepted = [y for y in drawn if right[y]]
            mean += policy[drawn].prod() * scores[accepted].sum(axis=0) / (n * p)
        gradient = policy * right / p - policy
        np.testing.assert_allclose(mean, gradient, atol=1e-12)


def pilots_of(make_report, rewards, norms):
    tickets = [Ticket(k, k, len(r), 0.1, 1.0, 128, False) for k, r in enumerate(rewards)]
    reports = [
        make_report(ticket, rewards=np.array(values, dtype=float))
        for ticket, values in zip(tickets, rewards, strict=True)
    ]
    given_norms = {k: np.array(values, dtype=float) for k, values in enumerate(norms)}
    return BatchSoFar(len(tickets), 4, tickets, reports, given_norms, ())


def test_pilot_statistics_use_correct_responses(make_report):
    so_far = pilots_of(
        make_report,
        rewards=[[1, 0, 1, 0], [0, 0, 0, 0], [0.5, 1.5, -3, 0]],
        norms=[[2, 99, 4, 99], [9, 9, 9, 9], [3, 6, 99, 99]],
    )
    rates, norms = pilot_statistics(so_far)
    np.testing.assert_allclose(rates, [0.5, 0.0, 0.375])
    np.testing.assert_allclose(norms, [3.0, 0.0, 5.0])


def test_unusable_rewards_are_left_out(make_report):
    ticket = Ticket(0, 0, 3, 0.1, 1.0, 128)
    report = make_report(ticket, rewards=np.array([1.0, np.nan, 0.0]), status=np.array([0, 1, 0]))
    assert correctness(report).tolist() == [1.0, 0.0, 0.0]
    so_far = BatchSoFar(1, 4, [ticket], [report], {0: np.array([2.0, 7.0, 7.0])}, ())
    assert [values.tolist() for values in pilot_statistics(so_far)] == [[0.5], [2.0]]


def test_norms_of_another_number_of_responses_are_refused(make_report):
    so_far = pilots_of(make_report, rewards=[[1, 0]], norms=[[1.0]])
    with pytest.raises(ValueError, match=r"ticket 0 must be those of its 2 responses, got 1"):
        pilot_statistics(so_far)


def test_pilots_then_the_batch(make_scheduler, ranked_report, run_batches):
    scheduler = make_scheduler(allocator=Gvm(pilots=5), tickets_per_step=P, group_size=GROUP_SIZE)
    batches = run_batches(scheduler, ranked_report, 6)
    pilot_tokens = 0
    left_out = 0
    for batch in batches:
        first, second = batch.rounds
        assert first.gradient_norms and first.members is None
        assert [t.trainable for t in first.tickets] == [False] * P
        assert [t.num_samples for t in first.tickets] == [5] * P
        assert second.members == tuple(t.ticket_id for t in second.tickets)
        assert all(ticket.trainable for ticket in batch.members)
        assert sum(ticket.num_samples for ticket in batch.members) == P * GROUP_SIZE
        solved = [
            ticket.prompt_index
            for ticket in first.tickets
            if (batch.reports[ticket.ticket_id].rewards == 1).any()
        ]
        assert [ticket.prompt_index for ticket in batch.members] == solved
        # The learner divides by the m members; with these weights the divisor is P.
        assert {t.weight for t in batch.members} == {len(solved) / P}
        pilot_tokens += sum(batch.reports[t.ticket_id].generated_tokens for t in batch.pilots)
        left_out += P - len(solved)
    metrics = scheduler.metrics()
    assert left_out > 0
    assert metrics["cost/pilot_tickets"] == 6 * P
    assert metrics["cost/pilot_tokens"] == pilot_tokens
    assert metrics["cost/trained_responses"] <= 6 * P * GROUP_SIZE
    seen = [ticket.prompt_index for batch in batches[:3] for ticket in batch.pilots]
    assert len(set(seen)) == 18, "pilots of an epoch are different prompts"


def test_unsolved_batch_has_equal_groups(make_scheduler, make_report, run_batches):
    scheduler = make_scheduler(allocator=Gvm(), tickets_per_step=P, group_size=GROUP_SIZE)

    def report(ticket):
        return make_report(ticket, rewards=np.zeros(ticket.num_samples))

    (batch,) = run_batches(scheduler, report, 1)
    assert [ticket.num_samples for ticket in batch.members] == [GROUP_SIZE] * P


def next_batch(allocator, so_far):
    """The batch after these pilots."""
    estimates = Estimates(*[np.ones(len(so_far.tickets))] * 4)
    rng = np.random.default_rng(0)
    allocation = allocator.allocate(estimates, None)
    drawn, _ = allocator.next_round(so_far, Snapshot(estimates, allocation, None), rng, None)
    return drawn


def test_a_prompt_that_is_allotted_one_response_is_a_member(make_report):
    """Norms of 7 and 1 share out 2 * 4 responses."""
    drawn = next_batch(Gvm(), pilots_of(make_report, [[1.0], [1.0]], [[7.0], [1.0]]))
    assert drawn.indices.tolist() == [0, 1] and drawn.group_sizes.tolist() == [7, 1]
    assert drawn.weights.tolist() == [1.0, 1.0]


def test_copies_share_out_responses_and_the_least_of_them(make_report):
    """4 groups of 2: a prompt without any norm has its least, which is one."""
    pilots = pilots_of(make_report, [[1.0], [1.0]], [[7.0], [0.0]])
    drawn = next_batch(Gvm(split=2, min_samples=2), pilots)
    assert drawn.indices.tolist() == [0, 0, 0, 1] and drawn.group_sizes.tolist() == [2] * 4


def test_failed_pilots_are_unsolved(make_scheduler, make_report, empty_report, run_batches):
    scheduler = make_scheduler(allocator=Gvm(), tickets_per_step=P, group_size=GROUP_SIZE)

    def report(ticket):
        if ticket.ticket_id < 2:
            return empty_report(ticket)
        return make_report(ticket, rewards=np.ones(ticket.num_samples))

    (batch,) = run_batches(scheduler, report, 1)
    expected = [ticket.prompt_index for ticket in batch.pilots[2:]]
    assert [ticket.prompt_index for ticket in batch.members] == expected


def test_min_samples_brings_every_prompt_back(make_scheduler, ranked_report, run_batches):
    allocator = Gvm(min_samples=2)
    assert allocator.objective_preserving and not Gvm().objective_preserving
    assert not Gvm(min_samples=4, split=2).objective_preserving
    scheduler = make_scheduler(allocator=allocator, tickets_per_step=P, group_size=GROUP_SIZE)
    for batch in run_batches(scheduler, ranked_report, 5):
        sizes = [ticket.num_samples for ticket in batch.members]
        assert len(sizes) == P and min(sizes) >= 2 and sum(sizes) == P * GROUP_SIZE
        assert all(ticket.weight == 1.0 for ticket in batch.members)


def test_split_copies_prompts(make_scheduler, ranked_report, run_batches):
    scheduler = make_scheduler(allocator=Gvm(split=3), tickets_per_step=P, group_size=GROUP_SIZE)
    most = 0
    for batch in run_batches(scheduler, ranked_report, 5):
        assert [t.num_samples for t in batch.members] == [3] * (P * GROUP_SIZE // 3)
        assert all(ticket.weight == 1.0 for ticket in batch.members)
        _, copies = np.unique([t.prompt_index for t in batch.members], return_counts=True)
        most = max(most, copies.max())
    assert most > 1


def test_cost_aware_batches(make_scheduler, ranked_report, run_batches):
    scheduler = make_scheduler(
        allocator=Gvm(cost_aware=True, min_samples=2), tickets_per_step=P, group_size=GROUP_SIZE
    )
    run_batches(scheduler, ranked_report, 5)
    (batch,) = run_batches(scheduler, ranked_report, 1, first_batch=5)
    # Nothing was folded since the batch was drawn: these are the costs of its snapshot.
    costs = scheduler.distribution().costs
    drawn = np.array([ticket.prompt_index for ticket in batch.pilots])
    sizes = np.array([ticket.num_samples for ticket in batch.members])
    budget = GROUP_SIZE * costs[drawn].sum()
    assert budget - costs[drawn].max() < sizes @ costs[drawn] <= budget * (1 + 1e-6)


def test_interrupted_after_its_pilots(make_scheduler, ranked_report):
    """A scheduler restored between the two rounds draws the same batch."""

    def fresh():
        return make_scheduler(allocator=Gvm(), tickets_per_step=P, group_size=GROUP_SIZE)

    scheduler, other = fresh(), fresh()
    pilots = scheduler.draw(0, 0).tickets
    for ticket in pilots:
        scheduler.observe(ranked_report(ticket))
    norms = {t.ticket_id: np.ones(t.num_samples) for t in pilots}
    other.load_state_dict(scheduler.state_dict())
    assert other.draw(0, 0, norms) == scheduler.draw(0, 0, norms)


def test_surprise_of_correct_responses_is_learned(pool, make_visit):
    allocator = SurpriseGvm(prior_visits=1e-6)
    state = allocator.initial_state(pool)
    visits = [
        make_visit(0, [5, 5, 5], [1.0, 0.0, 1.0], surprise=[2.0, 99.0, 4.0]),
        make_visit(1, [5, 5], [0.0, 0.0], surprise=[50.0, 50.0]),
        make_visit(2, [5, 5], [0.5, 1.0], surprise=[3.0, 6.0]),
    ]
    learned = allocator.update(state, pool, visits)
    np.testing.assert_allclose(learned.squared_norms[[0, 2]], [3.0, 5.0], rtol=1e-4)
    sure = allocator.update(state, pool, [make_visit(0, [5, 5], [1.0, 1.0], surprise=[0.2, 0.4])])
    assert sure.squared_norms[0] == pytest.approx(0.3, rel=1e-4)
    assert learned.squared_norms[1] < 10
    assert state.squared_norms.tolist() == [1.0] * 4
    restored = from_plain(state, to_plain(learned))
    again = [make_visit(3, [5, 5], [1.0, 0.0], surprise=[7.0, 1.0])]
    np.testing.assert_array_equal(
        allocator.update(restored, pool, again).squared_norms,
        allocator.update(learned, pool, again).squared_norms,
    )
    without = allocator.update(learned, pool, visits[1:2])
    np.testing.assert_array_equal(without.squared_norms, learned.squared_norms)


@pytest.mark.parametrize("cost_aware", [False, True])
def test_surprise_batches(make_scheduler, ranked_report, run_batches, cost_aware):
    scheduler = make_scheduler(
        allocator=SurpriseGvm(cost_aware=cost_aware), tickets_per_step=P, group_size=GROUP_SIZE
    )
    batches = run_batches(scheduler, ranked_report, 8)
    for batch in batches:
        sizes = [ticket.num_samples for ticket in batch.members]
        assert len(batch.rounds) == 1 and len(sizes) == P and min(sizes) >= 2
        assert cost_aware or sum(sizes) == P * GROUP_SIZE
        assert all(ticket.weight == 1.0 for ticket in batch.members)
    assert cost_aware or [t.num_samples for t in batches[0].members] == [GROUP_SIZE] * P
    assert len({ticket.num_samples for ticket in batches[-1].members}) > 1


def test_surprise_state_is_restored(make_scheduler, ranked_report, run_batches):
    def fresh():
        return make_scheduler(allocator=SurpriseGvm(), tickets_per_step=P, group_size=GROUP_SIZE)

    scheduler, other = fresh(), fresh()
    run_batches(scheduler, ranked_report, 4)
    other.load_state_dict(scheduler.state_dict())
    assert other.draw(4, 4) == scheduler.draw(4, 4)


def surprise_sizes(squared_norms, costs, rates, **fields):
    """Group sizes by prompt of one batch of all prompts, 80 responses each on average."""
    size = len(rates)
    allocator = SurpriseGvm(alpha=0.0, **fields)
    pool = prompt_pool(np.ones(size, dtype=int), ["a"] * size, max_tokens=100)
    state = replace(allocator.initial_state(pool), squared_norms=np.array(squared_norms))
    estimates = Estimates(np.ones(size), np.array(costs), np.array(rates), np.ones(size))
    allocation = allocator.allocate(estimates, state)
    rng = np.random.default_rng(0)
    snapshot = Snapshot(estimates, allocation, allocator.prepare(allocation, rng))
    drawn, _ = allocator.next_round(BatchSoFar(size, 80, [], [], {}, ()), snapshot, rng, state)
    return drawn.group_sizes[np.argsort(drawn.indices)]


def test_surprise_is_a_squared_norm():
    """u = G / sqrt(p): G = 1 and 3, p = 1/4 and 1, are 2 : 3."""
    assert surprise_sizes([1.0, 9.0], [1.0, 1.0], [0.25, 1.0]).tolist() == [64, 96]


def test_costs_enter_by_their_root():
    """n ~ u / sqrt(c): 2 : 3 over 1 : 2 is 4 : 3, which spends 4 + 3 * 4 of 80 * 5."""
    sizes = surprise_sizes([1.0, 9.0], [1.0, 4.0], [0.25, 1.0], cost_aware=True)
    assert sizes.tolist() == [100, 75]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"alpha": -1.0}, r"^allocator\.alpha must not be negative, got -1\.0"),
        ({"alpha": np.inf}, r"^allocator\.alpha must be finite, got inf"),
        ({"beta": 1.0}, r"^allocator\.beta must be at least 2, got 1\.0"),
        ({"pilots": 0}, r"^allocator\.pilots must be at least 1, got 0"),
        ({"min_samples": -1}, r"^allocator\.min_samples must not be negative, got -1"),
        ({"split": 1}, r"^allocator\.split must be at least 2 or null, got 1"),
        ({"split": 4, "min_samples": 2}, r"^allocator\.min_samples must be a multiple .* got 2"),
    ],
)
def test_refuses(fields, message):
    with pytest.raises(ValueError, match=message):
        Gvm(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"alpha": -1.0}, r"^allocator\.alpha must not be negative, got -1\.0"),
        ({"min_samples": 1}, r"^allocator\.min_samples must be at least 2, .* got 1"),
        ({"prior_visits": 0.0}, r"^allocator\.prior_visits must be positive, got 0\.0"),
        ({"decay": 2.0}, r"^allocator\.decay must lie in \[0, 1\], got 2\.0"),
    ],
)
def test_surprise_refuses(fields, message):
    with pytest.raises(ValueError, match=message):
        SurpriseGvm(**fields)


@pytest.mark.parametrize("plug", [Gvm, SurpriseGvm])
def test_no_prompt_can_have_more_than_the_mean_at_least(make_scheduler, plug):
    scheduler = make_scheduler(allocator=plug(min_samples=5), group_size=4)
    with pytest.raises(ValueError, match=r"^allocator\.min_samples must be at most .* got 5"):
        scheduler.draw(0, 0)


def test_split_must_divide_the_batch(make_scheduler):
    scheduler = make_scheduler(allocator=Gvm(split=5), tickets_per_step=P, group_size=GROUP_SIZE)
    with pytest.raises(ValueError, match=r"^allocator\.split must divide .* \(24\), got 5"):
        scheduler.draw(0, 0)
