from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cost.draws.allocators.drawn import uniform_allocation
from cost.draws.allocators.types import Estimates, Snapshot
from cost.draws.allocators.vip import VarianceInformed, least_variance, variance


def spend(rates, total, *, leave_one_out=False, low=3, high=128):
    rates = np.array(rates, dtype=float)
    return least_variance(
        rates * (1 - rates), total, leave_one_out=leave_one_out, min_samples=low, max_samples=high
    )


def total_variance(rates, counts, leave_one_out):
    return sum(
        p * (1 - p) * variance(int(n), leave_one_out=leave_one_out)
        for p, n in zip(rates, counts, strict=True)
    )


def test_variance_of_both_estimators_by_simulation():
    """Rewards +-1, scores of unit variance independent of them: 4 s^2 p (1 - p) f(n)."""
    rng = np.random.default_rng(0)
    p, n, runs = 0.3, 4, 400_000
    rewards = 2.0 * (rng.random((runs, n)) < p) - 1
    scores = rng.normal(size=(runs, n))
    centred = rewards - rewards.mean(axis=1, keepdims=True)
    group_mean = (centred * scores).mean(axis=1).var()
    leave_one_out = (centred * n / (n - 1) * scores).mean(axis=1).var()
    scale = 4 * p * (1 - p)
    assert group_mean == pytest.approx(scale * variance(n, leave_one_out=False), rel=0.02)
    # The group-mean form times (n / (n - 1))^2 is 1 / (n - 1).
    assert leave_one_out == pytest.approx(scale * variance(n, leave_one_out=True), rel=0.02)


@given(
    st.lists(st.sampled_from([0.0, 0.01, 0.1, 0.3, 0.5, 0.8, 1.0]), min_size=1, max_size=4),
    st.integers(0, 14),
    st.booleans(),
)
@settings(max_examples=80)
def test_no_other_choice_has_less_variance(rates, more, leave_one_out):
    low, high = 3, 8
    total = min(low * len(rates) + more, high * len(rates))
    counts = spend(rates, total, leave_one_out=leave_one_out, low=low, high=high)
    assert counts.sum() == total and counts.min() >= low and counts.max() <= high
    best = min(
        total_variance(rates, choice, leave_one_out)
        for choice in product(range(low, high + 1), repeat=len(rates))
        if sum(choice) == total
    )
    assert total_variance(rates, counts, leave_one_out) == pytest.approx(best, abs=1e-12)


def test_many_small_groups_are_worth_more_than_the_ends_of_a_large_one():
    """All choices of sizes of the small groups; real solutions have 3.5 and 100, and 3 of them."""
    spreads, total = np.array([1.0] * 4 + [9801 / 6.25]), 114
    small = np.array(list(product(range(2, 9), repeat=4)))
    sizes = np.column_stack([small, total - small.sum(axis=1)])
    best = (spreads / (sizes - 1)).sum(axis=1).min()
    counts = least_variance(spreads, total, leave_one_out=True, min_samples=2, max_samples=128)
    assert (spreads / (counts - 1)).sum() == pytest.approx(best, rel=1e-12)


@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(3, 40), st.booleans(), st.booleans())
@settings(max_examples=80)
def test_sum_and_bounds(seed, size, mean, leave_one_out, extreme):
    rng = np.random.default_rng(seed)
    rates = rng.random(size) ** (50 if extreme else 1)
    counts = spend(rates, mean * size, leave_one_out=leave_one_out, high=40)
    assert counts.sum() == mean * size and counts.min() >= 3 and counts.max() <= 40


@pytest.mark.parametrize(
    ("spreads", "total", "expected"),
    [([0.05, 0.2], 17, [6, 11]), ([0.0025] * 4 + [0.25], 33, [3, 3, 3, 3, 21])],
)
def test_leave_one_out_closed_form(spreads, total, expected):
    """n - 1 ~ sqrt(p (1 - p)): 15 = 5 + 10 for 1 : 4, and 28 = 4 * 2 + 20 for 1 : 100."""
    counts = least_variance(
        np.array(spreads), total, leave_one_out=True, min_samples=2, max_samples=99
    )
    assert counts.tolist() == expected


def test_settled_prompts_get_the_least_and_then_equal_parts():
    assert spend([0.0, 0.5, 1.0], 24).tolist() == [3, 18, 3]
    assert spend([0.0, 0.5, 1.0], 24, high=10).tolist() == [7, 10, 7]
    assert spend([0.0, 1.0], 10).tolist() == [5, 5]


@pytest.mark.parametrize("leave_one_out", [False, True])
def test_groups_are_larger_the_less_is_sure_of_their_prompts(leave_one_out):
    """Right and wrong play the same part, and of the drawn prompts only their own rates count."""
    rates = np.array([0.5, 0.02, 0.98, 0.2, 0.8, 0.0])
    estimates = Estimates(np.ones(6), np.ones(6), rates, np.ones(6))
    snapshot = Snapshot(estimates, uniform_allocation(6), None)
    allocator = VarianceInformed(leave_one_out=leave_one_out)
    half, rare, sure, seldom, often = allocator.group_sizes(np.arange(5), snapshot, 8).tolist()
    assert half > seldom > rare and abs(often - seldom) <= 1 and abs(sure - rare) <= 1
    assert half + seldom + rare + often + sure == 5 * 8
    known, doubted = allocator.group_sizes(np.array([5, 0]), snapshot, 8).tolist()
    assert (known, doubted) == (allocator.min_samples, 16 - allocator.min_samples)


def test_tiny_spreads_stay_finite():
    counts = spend([5e-324, 1e-300, 1e-17, 0.5], 40, high=12)
    assert counts.sum() == 40 and counts.max() <= 12


@pytest.mark.parametrize("leave_one_out", [False, True])
def test_batches(make_scheduler, make_report, run_batches, leave_one_out):
    allocator = VarianceInformed(leave_one_out=leave_one_out, max_samples=9)
    scheduler = make_scheduler(allocator=allocator, tickets_per_step=6)
    batches = run_batches(scheduler, make_report, 8)
    for batch in batches:
        sizes = [ticket.num_samples for ticket in batch.members]
        assert len(sizes) == 6 and sum(sizes) == 24 and min(sizes) >= 3 and max(sizes) <= 9
        assert all(ticket.weight == 1.0 for ticket in batch.members)
    assert [ticket.num_samples for ticket in batches[0].members] == [4] * 6


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"min_samples": 2}, r"^allocator\.min_samples must be at least 3 .*=false, got 2"),
        (
            {"min_samples": 1, "leave_one_out": True},
            r"^allocator\.min_samples must be at least 2 .*=true, got 1",
        ),
        ({"max_samples": 2}, r"^allocator\.max_samples must be at least min_samples"),
    ],
)
def test_refuses(fields, message):
    with pytest.raises(ValueError, match=message):
        VarianceInformed(**fields)
