"""GRESO: streaks, the walk that skips by them, the controller, honest counts."""

import json
from dataclasses import replace

import numpy as np
import pytest

from cost.draws.allocators.greso import Greso, GresoState
from cost.draws.allocators.types import BatchSoFar, Estimates, Snapshot
from cost.draws.draws import EpochDraws, IndependentDraws
from cost.prompts import prompt_pool
from cost.state import from_plain, to_plain
from cost.types import Ticket

EASY, HARD, MIXED = [1.0] * 8, [0.0] * 8, [1.0, 0.0] * 4


def pool_of(size):
    return prompt_pool(np.full(size, 10), ["a"] * size, max_tokens=100)


def state_of(streaks, allocator=None, **changes) -> GresoState:
    state = (allocator or Greso()).initial_state(pool_of(len(streaks)))
    return replace(state, streaks=np.array(streaks, dtype=np.int16), **changes)


def snapshot_of(allocator, state, size):
    nothing = np.ones(size)
    allocation = allocator.allocate(Estimates(nothing, nothing, nothing, nothing), state)
    prepared = allocator.prepare(allocation, np.random.default_rng(0))
    return Snapshot(None, allocation, prepared)


@pytest.fixture
def visits_of(make_visit):
    """Visits of (prompt, rewards) pairs."""
    return lambda *pairs: [make_visit(index, [9] * len(r), rewards=r) for index, r in pairs]


@pytest.mark.parametrize(
    ("streak", "p", "skip"),
    [(0, 0.5, 0.0), (1, 0.5, 0.5), (2, 0.5, 0.75), (7, 0.5, 0.99), (300, 0.95, 0.99),
     (1, 0.3, 0.7), (3, 0.05, 0.99)],
)  # fmt: skip
def test_skip_probability(streak, p, skip):
    for sign, changes in ((1, {"p_easy": p, "p_hard": 0.77}), (-1, {"p_hard": p, "p_easy": 0.77})):
        keep = Greso().keep_probabilities(state_of([sign * streak, 0], **changes))
        assert keep == pytest.approx([1 - skip, 1.0])


def test_streaks_count_visits_of_one_kind(visits_of):
    allocator, pool = Greso(), pool_of(5)
    state = allocator.initial_state(pool)

    def streaks_after(*pairs):
        nonlocal state
        state = allocator.update(state, pool, visits_of(*pairs))
        return state.streaks.tolist()

    assert streaks_after((0, EASY), (1, HARD), (2, MIXED)) == [1, -1, 0, 0, 0]
    assert streaks_after((0, EASY), (1, HARD), (1, HARD)) == [2, -3, 0, 0, 0]
    # A change of kind starts anew, one mixed visit resets, and so do equal rewards in between.
    assert streaks_after((0, HARD), (1, MIXED), (3, [0.5] * 8)) == [-1, 0, 0, 0, 0]
    assert streaks_after((0, [0.1] * 8), (4, [0.99] * 8)) == [-2, 0, 0, 0, 1]
    assert streaks_after((4, [0.5] * 8)) == [-2, 0, 0, 0, 0]
    # One success of 16 has a low mean, but is mixed.
    assert streaks_after((0, [1.0] + [0.0] * 15)) == [0, 0, 0, 0, 0]


def test_update_leaves_the_given_state_alone(visits_of):
    allocator, pool = Greso(), pool_of(2)
    state = allocator.initial_state(pool)
    allocator.update(state, pool, visits_of((0, EASY)))
    assert state.streaks.tolist() == [0, 0]


def test_a_group_with_one_usable_reward_tells_nothing_and_one_with_two_does(visits_of):
    allocator, pool = Greso(), pool_of(2)
    state = state_of([3, -2], num_walked=99)
    (visit,) = visits_of((0, EASY))
    single = replace(visit, usable=np.arange(8) == 2)
    assert allocator.update(state, pool, [single]) is state
    pair = replace(visit, usable=np.arange(8) >= 6)
    assert allocator.update(state, pool, [pair]).streaks.tolist() == [4, -2]


def test_streaks_do_not_overflow(visits_of):
    state = state_of([32767, -32767])
    state = Greso().update(state, pool_of(2), visits_of((0, EASY), (1, HARD)))
    assert state.streaks.tolist() == [32767, -32767]


@pytest.mark.parametrize(
    ("num_easy", "num_hard", "easy_moves", "hard_moves"),
    [(0, 0, 1, 1), (1, 0, -1, 1), (0, 2, 1, -1), (2, 1, -1, 1), (6, 6, -1, -1), (0, 1, 1, 1)],
)
def test_controller_moves_toward_its_targets(visits_of, num_easy, num_hard, easy_moves, hard_moves):
    """Of 12 groups: easy target .25 / 3 = 1 of 12, hard target 2 of 12; at the target it falls."""
    kinds = [EASY] * num_easy + [HARD] * num_hard + [MIXED] * (12 - num_easy - num_hard)
    visits = visits_of(*enumerate(kinds))
    state = Greso().update(state_of([0] * 12, num_walked=12), pool_of(12), visits)
    assert state.p_easy == pytest.approx(0.5 + 0.01 * easy_moves)
    assert state.p_hard == pytest.approx(0.5 + 0.01 * hard_moves)
    assert state.zero_variance_share == pytest.approx((num_easy + num_hard) / 12)
    waiting = Greso().update(state_of([0] * 12, num_walked=11), pool_of(12), visits)
    assert waiting.p_easy == waiting.p_hard == 0.5, "it starts after the first epoch"


@pytest.mark.parametrize(("num_easy", "num_hard", "moves"), [(8, 16, 1), (9, 17, -1)])
def test_targets_are_a_third_and_two_thirds(visits_of, num_easy, num_hard, moves):
    """Of 100 groups: 8.3 easy and 16.7 hard ones."""
    kinds = [EASY] * num_easy + [HARD] * num_hard + [MIXED] * (100 - num_easy - num_hard)
    state = state_of([0] * 100, num_walked=100)
    state = Greso().update(state, pool_of(100), visits_of(*enumerate(kinds)))
    assert (state.p_easy, state.p_hard) == pytest.approx((0.5 + 0.01 * moves,) * 2)


def test_controller_is_clamped(visits_of):
    # It may begin at either end.
    for end in (0.05, 0.95):
        assert Greso(p_start=end).initial_state(pool_of(2)).p_hard == end
    state = state_of([0, 0], num_walked=2)
    for _ in range(60):
        state = Greso().update(state, pool_of(2), visits_of((0, EASY)))
    assert (state.p_easy, state.p_hard) == (0.05, 0.95)
    for _ in range(120):
        state = Greso().update(state, pool_of(2), visits_of((0, HARD)))
    assert (state.p_easy, state.p_hard) == (0.95, 0.05)


@pytest.mark.parametrize(
    ("share", "missing", "count"),
    [(0.0, 256, 320), (0.5, 100, 250), (0.5, 256, 384), (1.0, 5, 384), (0.0, 10, 64),
     (0.2, 64, 100), (0.999, 1, 384)],
)  # fmt: skip
def test_round_sizes_at_the_published_batch(share, missing, count):
    so_far = BatchSoFar(256, 8, [], [], {}, [])
    state = state_of([0], zero_variance_share=share)
    assert Greso().num_tickets(missing, so_far, state) == count
    assert Greso(min_tickets=1, max_tickets=10**6).num_tickets(10, so_far, state_of([0])) == 13
    assert Greso(min_tickets=1).num_tickets(8, so_far, state_of([0])) == 10
    # In floating point 1.1 * 50 is a little more than 55.
    assert Greso(oversample=1.1, min_tickets=1).num_tickets(50, so_far, state_of([0])) == 55


def test_round_size_follows_the_open_batch_once_it_has_reports(make_report):
    """A quarter of its 8 groups is mixed: 1.25 * 64 / .25."""
    rewards = [np.array([float(k % 4 == 0), 0, 0, 0]) for k in range(8)]
    reports = [make_report(Ticket(k, 0, 4, 1.0, 1.0, 9), rewards=rewards[k]) for k in range(8)]
    so_far = BatchSoFar(256, 8, [], reports, {}, [])
    assert Greso().num_tickets(64, so_far, state_of([0])) == 320


def test_walk_meets_each_prompt_once_a_pass():
    """With keep chances of 1 or the floor: all of the ones in a pass, then the next pass."""
    allocator = Greso()
    state = state_of([0, 40] * 50)
    snapshot = snapshot_of(allocator, state, 100)
    rng = np.random.default_rng(1)
    seen = []
    for count in (1, 7, 13, 5):
        indices, state = allocator.pick(count, snapshot, rng, state)
        assert len(indices) == count
        seen += indices.tolist()
    assert len(set(seen)) == len(seen) == 26 and state.draws.cursor == state.num_walked < 100
    assert sum(index % 2 for index in seen) <= 3
    # The walk stops at the last prompt taken.
    assert state.draws.permutation[state.draws.cursor - 1] == seen[-1]


def test_prompts_are_drawn_as_often_as_allocate_says():
    allocator = Greso(correct=True, floor=0.05)
    state = state_of([0, 1, 2, 3, 9, -1, -2, -9], p_easy=0.7, p_hard=0.4)
    snapshot = snapshot_of(allocator, state, 8)
    rng = np.random.default_rng(0)
    indices, state = allocator.pick(30000, snapshot, rng, state)
    shares = np.bincount(indices, minlength=8) / len(indices)
    p = snapshot.allocation.probabilities
    assert p.sum() == pytest.approx(1)
    assert (np.abs(shares - p) < 5 * np.sqrt(p / len(indices))).all()
    keep = allocator.keep_probabilities(state)
    assert state.num_walked == pytest.approx(len(indices) / keep.mean(), rel=0.02)
    # Corrected: the weighted mean of what is drawn is the uniform mean.
    weights = snapshot.allocation.weights
    np.testing.assert_allclose(weights * p, 1 / 8)
    values = np.arange(8.0) ** 2
    assert (weights * values)[indices].mean() == pytest.approx(values.mean(), rel=0.03)
    assert weights.max() <= 1 / allocator.floor
    published = snapshot_of(Greso(), state, 8).allocation
    assert published.weights.tolist() == [1.0] * 8


def test_uncorrected_draws_are_biased():
    """The negative of the above: weight 1 does not give the uniform mean."""
    state = state_of([0, 0, 0, 0, 9, 9, 9, 9])
    snapshot = snapshot_of(Greso(), state, 8)
    indices, _ = Greso().pick(3000, snapshot, np.random.default_rng(0), state)
    assert (indices >= 4).mean() < 0.1


def test_state_round_trip_continues_the_same_walk():
    for allocator in (Greso(), Greso(draws=IndependentDraws())):
        state = state_of([0, 3, -2] * 10, allocator)
        snapshot = snapshot_of(allocator, state, 30)
        _, state = allocator.pick(11, snapshot, np.random.default_rng(0), state)
        plain = json.loads(json.dumps(to_plain(state), default=lambda array: array.tolist()))
        assert set(plain) == set(GresoState.__slots__)
        again = from_plain(allocator.initial_state(pool_of(30)), to_plain(state))
        one, _ = allocator.pick(11, snapshot, np.random.default_rng(1), state)
        other, _ = allocator.pick(11, snapshot, np.random.default_rng(1), again)
        assert one.tolist() == other.tolist()


def difficulty_report(make_report):
    """Prompts 0 to 9 always pass, 10 to 19 never, the others half of the time."""

    def report(ticket):
        tens = ticket.prompt_index // 10
        rewards = np.array([0.0, 1.0, 0.0, 1.0]) if tens > 1 else np.full(4, 1.0 - tens)
        return make_report(ticket, rewards=rewards)

    return report


def test_learns_to_skip_what_has_no_variance(make_scheduler, run_batches, make_report):
    settings = {"num_prompts": 40, "allocator": Greso(), "tickets_per_step": 8}
    scheduler = make_scheduler(**settings)
    report = difficulty_report(make_report)
    played = run_batches(scheduler, report, 60)
    for batch in played:
        assert [t.prompt_index >= 20 for t in batch.members] == [True] * 8
        accepted = [t for t in batch.tickets if t.prompt_index >= 20]
        assert batch.members == accepted[:8]

    def wasted(batches):
        tickets = [ticket for batch in batches for ticket in batch.tickets]
        return np.mean([ticket.prompt_index < 20 for ticket in tickets])

    assert wasted(played[:3]) > 0.3
    assert wasted(played[-20:]) < 0.25
    late = {t.prompt_index for batch in played[10:] for t in batch.tickets}
    assert late & set(range(20)), "every prompt returns"
    p = scheduler.distribution().probabilities
    assert p[:20].max() < p[20:].min() and p.min() > 0
    metrics = scheduler.metrics()
    assert metrics["cost/tickets"] - metrics["cost/filtered_tickets"] == 8 * 60
    # A resumed run goes on as the first would have.
    resumed = make_scheduler(**settings)
    resumed.load_state_dict(scheduler.state_dict())
    expected = run_batches(scheduler, report, 3, first_batch=60)
    again = run_batches(resumed, report, 3, first_batch=60)
    assert [batch.tickets for batch in expected] == [batch.tickets for batch in again]


@pytest.mark.parametrize("num_prompts", [1, 12])
def test_equal_rewards_forever_end_in_empty_batches(
    make_scheduler, run_batches, make_report, num_prompts
):
    allocator = Greso(max_rounds=4, max_tickets=6)
    scheduler = make_scheduler(num_prompts, allocator=allocator, tickets_per_step=4)
    played = run_batches(scheduler, lambda t: make_report(t, rewards=np.zeros(4)), 8)
    for batch in played:
        assert len(batch.rounds) == 5 and batch.members == []
    assert scheduler.metrics()["cost/filtered_tickets"] == scheduler.metrics()["cost/tickets"]


def test_draws_that_need_probabilities_get_uniform_ones():
    allocator = Greso(draws=EpochDraws())
    assert snapshot_of(allocator, state_of([0, 9, -9]), 3).prepared == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"p_min": 0.0}, r"allocator\.p_min must lie in \(0, p_max\]"),
        ({"p_max": 1.5}, r"allocator\.p_min must lie .* got 0\.05 and 1\.5"),
        ({"p_start": 0.96}, r"allocator\.p_start must lie in \[0\.05, 0\.95\], got 0\.96"),
        ({"p_step": -0.1}, r"allocator\.p_step must not be negative, got -0\.1"),
        ({"floor": 0.0}, r"allocator\.floor must lie in \(0, 1\], got 0\.0"),
        ({"zero_variance_target": 2.0}, r"allocator\.zero_variance_target .* got 2\.0"),
        ({"hard_mean": 1.0}, r"allocator\.hard_mean must be below easy_mean = 0\.98, got 1\.0"),
        ({"oversample": np.inf}, r"allocator\.oversample must be finite"),
        ({"min_tickets": 0}, r"allocator\.min_tickets must be at least 1, got 0"),
        ({"max_tickets": 0}, r"allocator\.max_tickets must be at least 1, got 0"),
        ({"max_rounds": 0}, r"allocator\.max_rounds must be at least 1, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Greso(**changes)
