import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cost.advantages.within_group import GroupStandardised, LeaveOneOut
from cost.draws.allocators.knapsack import Knapsack, gain, need, packed, value
from cost.draws.allocators.types import Allocation, Estimates, Snapshot
from cost.draws.draws import EpochDraws, IndependentDraws, SystematicDraws
from cost.state import from_plain, to_plain

rates_strategy = st.floats(0.01, 0.99)


def best_value(rates, total, low, high):
    """Dynamic programming over prompts: the most value of any n with sum `total`."""
    best = {0: 0.0}
    for rate in rates:
        step: dict[int, float] = {}
        for spent, worth in best.items():
            for n in range(low, min(high, total - spent) + 1):
                candidate = worth + value(n, rate)
                if candidate > step.get(spent + n, -math.inf):
                    step[spent + n] = candidate
        best = step
    return best[total]


def snapshot_of(rates, costs):
    size = len(rates)
    estimates = Estimates(np.full(size, 9.0), costs, rates, np.ones(size))
    return Snapshot(estimates, Allocation(np.full(size, 1 / size), np.ones(size)), None)


def pack(rates, total, low=2, high=128, costs=None):
    rates = np.array(rates, dtype=float)
    costs = np.ones(len(rates)) if costs is None else np.array(costs, dtype=float)
    return packed(rates, costs, float(total), min_samples=low, max_samples=high)


def test_value_and_need():
    assert value(2, 0.5) == pytest.approx(0.0625)
    assert [value(n, p) for n in (1, 2, 50) for p in (0.0, 1.0)] == [0.0] * 6
    mixed = [1 - 0.9**n - 0.1**n for n in (21, 22)]
    assert mixed[0] < 0.9
    assert mixed[1] == pytest.approx(0.9015, abs=5e-5)
    assert math.ceil(need(0.1)) == math.ceil(need(0.9)) == 22
    grid = np.linspace(0, 1, 3001)
    assert grid[np.argmax([value(10**6, p) for p in grid])] == pytest.approx(1 / 3, abs=1e-3)


@given(st.floats(0, 1), st.integers(1, 200))
def test_value_is_concave_and_gain_is_its_difference(rate, num_samples):
    assert gain(num_samples, rate) == pytest.approx(
        value(num_samples + 1, rate) - value(num_samples, rate), abs=1e-12
    )
    assert gain(num_samples + 1, rate) <= gain(num_samples, rate) * (1 + 1e-12)


@given(
    st.lists(rates_strategy, min_size=1, max_size=5),
    st.integers(0, 16),
    st.integers(2, 3),
    st.integers(4, 9),
)
@settings(max_examples=80)
def test_greedy_has_the_value_of_the_dynamic_programme(rates, more, low, high):
    total = min(low * len(rates) + more, high * len(rates))
    counts = pack(rates, total, low, high)
    assert counts.sum() == total and counts.min() >= low and counts.max() <= high
    found = sum(value(n, p) for n, p in zip(counts.tolist(), rates, strict=True))
    assert found == pytest.approx(best_value(rates, total, low, high), rel=1e-9)


@given(
    st.lists(st.one_of(st.sampled_from([0.0, 1.0]), rates_strategy), min_size=1, max_size=20),
    st.integers(2, 40),
)
@settings(max_examples=80)
def test_sum_and_bounds_with_settled_prompts(rates, mean):
    counts = pack(rates, mean * len(rates), high=40)
    assert counts.sum() == mean * len(rates)
    assert counts.min() >= 2 and counts.max() <= 40


def test_scarce_budget_leaves_settled_prompts_the_least():
    """The needs of .2 and .1 are 10.3 and 21.9."""
    assert pack([0.2, 0.0, 0.1, 1.0], 32).tolist()[1::2] == [2, 2]


def test_excess_explores_unsolved_prompts_then_solved_ones_then_all():
    """The need of .5 is 3.3, so of 32 the two prompts of .5 take 6 and leave the rest."""
    assert pack([0.5, 0.0, 1.0, 0.5], 32).tolist() == [3, 24, 2, 3]
    assert pack([0.5, 1.0, 1.0, 0.5], 32).tolist() == [3, 13, 13, 3]
    assert pack([0.5, 0.0, 1.0, 0.5], 32, high=10).tolist() == [8, 10, 7, 7]
    assert pack([0.0, 0.0], 9).tolist() == [5, 4]


def test_a_prompt_needs_no_less_than_the_least():
    """The needs of .5 and .1 are 3.3, which 5 is above, and 21.9: 26 responses, and 9 are left."""
    counts = pack([0.5, 0.1, 0.0], 40, low=5)
    assert counts[:2].sum() == 26 and counts[2] == 5 + 9


def test_beyond_what_prompts_need_value_decides_where_none_is_settled():
    rates, total = [0.5, 0.2], 40
    assert total > sum(need(rate) for rate in rates)
    counts = pack(rates, total)
    found = sum(value(n, p) for n, p in zip(counts.tolist(), rates, strict=True))
    assert found == pytest.approx(best_value(rates, total, 2, 128), rel=1e-9)
    assert counts[1] > counts[0] + 1


def test_bounds_that_meet_leave_no_choice():
    sizes = Knapsack(min_samples=4, max_samples=4).group_sizes(
        np.arange(3), snapshot_of(np.array([0.1, 0.5, 1.0]), np.ones(3)), 4
    )
    assert sizes.tolist() == [4, 4, 4]


def test_equal_prompts_get_equal_groups():
    assert pack([0.5] * 6, 48).tolist() == [8] * 6


@given(st.integers(0, 10**6), st.integers(1, 30))
@settings(max_examples=80)
def test_costs_bound_the_sum_and_equal_costs_change_nothing(seed, size):
    rng = np.random.default_rng(seed)
    rates, costs = rng.uniform(0.05, 0.95, size), rng.uniform(10, 900, size)
    budget = 8 * costs.sum()
    counts = pack(rates, budget, costs=costs)
    assert counts.min() >= 2
    left = budget - counts @ costs
    assert -1e-6 * budget <= left < costs.max()
    same = pack(rates, 8 * 7.0 * size, costs=np.full(size, 7.0))
    assert same.tolist() == pack(rates, 8 * size).tolist()


def test_costs_favour_cheap_prompts():
    counts = pack([0.3, 0.3], 8 * 500.0, costs=[100, 400])
    assert counts[0] > 8 > counts[1] >= 2


def test_cost_rule_is_nearly_the_best():
    """No two-prompt choice within the budget has more value than one response can add."""
    rates, costs, budget = [0.2, 0.4], [3.0, 5.0], 8 * 8.0
    counts = pack(rates, budget, costs=costs)
    found = sum(value(n, p) for n, p in zip(counts.tolist(), rates, strict=True))
    best = max(
        value(a, rates[0]) + value(b, rates[1])
        for a in range(2, 22)
        for b in range(2, 13)
        if 3 * a + 5 * b <= budget
    )
    assert best - found <= max(gain(n, p) for n, p in zip(counts.tolist(), rates, strict=True))


def test_a_large_batch_is_quick():
    rates = np.random.default_rng(0).random(256)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        counts = pack(rates, 2048)
        seconds.append(time.perf_counter() - start)
    assert counts.sum() == 2048
    assert min(seconds) < 0.1


@pytest.mark.parametrize("draws", [EpochDraws(), SystematicDraws(), IndependentDraws()])
@pytest.mark.parametrize("cost_aware", [False, True])
def test_batches(make_scheduler, make_report, run_batches, draws, cost_aware):
    allocator = Knapsack(draws=draws, cost_aware=cost_aware, max_samples=12)
    scheduler = make_scheduler(allocator=allocator, tickets_per_step=6)

    def report(ticket):
        solved = np.random.default_rng(ticket.ticket_id).random(ticket.num_samples)
        return make_report(ticket, rewards=(solved < ticket.prompt_index / 20).astype(float))

    batches = run_batches(scheduler, report, 8)
    for batch in batches:
        assert len(batch.rounds) == 1 and len(batch.members) == 6 and not batch.pilots
        sizes = [ticket.num_samples for ticket in batch.members]
        assert all(ticket.weight == 1.0 for ticket in batch.members)
        assert cost_aware or sum(sizes) == 24
        assert all(2 <= size <= 12 for size in sizes)
    assert cost_aware or [t.num_samples for t in batches[0].members] == [4] * 6
    assert len({ticket.num_samples for ticket in batches[-1].members}) > 1
    assert all(np.isfinite(number) for number in scheduler.metrics().values())


def test_group_sizes_depend_on_drawn_prompts_and_snapshot_alone():
    rates, costs = np.array([0.1, 0.5, 0.9, 0.3]), np.array([1.0, 2.0, 3.0, 4.0])
    snapshot = snapshot_of(rates, costs)
    indices = np.array([3, 1, 3])
    sizes = Knapsack().group_sizes(indices, snapshot, 8)
    assert sizes.tolist() == pack(rates[indices], 24).tolist()
    cheap = Knapsack(cost_aware=True).group_sizes(indices, snapshot, 8)
    assert 80 - 4 < cheap @ costs[indices] <= 80


def test_uneven_groups_keep_the_objective_with_leave_one_out_advantages(make_groups):
    """Two prompts of one Bernoulli reward each: E of the batch is the uniform gradient for any n.

    The score of reward r is r - p, so a prompt's gradient is p (1 - p). All outcomes enumerated.
    """
    rates, sizes = [0.3, 0.6], [2, 5]

    def expected(advantage):
        total = 0.0
        for p, n in zip(rates, sizes, strict=True):
            for bits in range(2**n):
                rewards = np.array([bits >> k & 1 for k in range(n)], dtype=float)
                chance = p ** rewards.sum() * (1 - p) ** (n - rewards.sum())
                advantages = advantage.advantages(make_groups(rewards))
                total += chance * float(advantages @ (rewards - p)) / n / len(rates)
        return total

    gradient = np.mean([p * (1 - p) for p in rates])
    assert expected(LeaveOneOut()) == pytest.approx(gradient)
    assert expected(GroupStandardised()) != pytest.approx(gradient, rel=0.05)


def test_state_round_trip(pool):
    allocator = Knapsack()
    state = allocator.initial_state(pool)
    _, moved = allocator.draws.draw(state, 4, 3, np.random.default_rng(0))
    restored = from_plain(state, to_plain(moved))
    assert restored.cursor == 3 and restored.permutation.tolist() == moved.permutation.tolist()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"min_samples": 1}, r"^allocator\.min_samples must be at least 2, .* got 1"),
        ({"max_samples": 1}, r"^allocator\.max_samples must be at least min_samples \(2\), got 1"),
    ],
)
def test_refuses(fields, message):
    with pytest.raises(ValueError, match=message):
        Knapsack(**fields)


def test_refuses_bounds_that_exclude_the_group_size(make_scheduler):
    scheduler = make_scheduler(allocator=Knapsack(min_samples=5))
    with pytest.raises(ValueError, match=r"^allocator\.min_samples must be at most"):
        scheduler.draw(0, 0)
