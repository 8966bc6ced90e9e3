"""Sizes of batches: the variance that they go by, the fit, and how they move."""

import math
from functools import cache
from itertools import pairwise, product

import numpy as np
import pytest

from cost.advantages.types import group_batch
from cost.advantages.within_group import LeaveOneOut
from cost.draws.sizing import Priced, Sizes
from cost.types import LengthReport
from cost.worth.posterior import expected_variance, mixed_chance

FIRST = Sizes(tickets=16, group_size=8)


def report_of(rewards):
    size = len(rewards)
    return LengthReport(
        ticket_id=0, prompt_index=0, prompt_tokens=1, prefill_tokens=1,
        lengths=np.ones(size, dtype=int), truncated=np.zeros(size, dtype=bool),
        rewards=np.array(rewards, dtype=float), status=np.zeros(size, dtype=int),
        surprise=np.zeros(size), answer_codes=np.zeros(size, dtype=int), engine_seconds=0.0,
        version=0,
    )  # fmt: skip


def loo(rewards):
    return LeaveOneOut().advantages(group_batch([report_of(rewards)], 1))


PASS_RATE, SQUARE = 0.3, 4.0


def outcomes():
    """(chance, reward, psi) of one response: psi has mean 0 and the same square everywhere."""
    for reward, chance, pull in ((1, PASS_RATE, 0.9), (0, 1 - PASS_RATE, -0.9 * 3 / 7)):
        for axis, sign in product((1, 2), (1, -1)):
            psi = np.zeros(3)
            psi[0], psi[axis] = pull, sign * math.sqrt(SQUARE - pull**2)
            yield chance / 4, reward, psi


@cache
def group_moments(size):
    """Mean and mean square of a group's gradient, by enumeration."""
    mean, square = np.zeros(3), 0.0
    for group in product(list(outcomes()), repeat=size):
        chance = math.prod(response[0] for response in group)
        advantages = loo([response[1] for response in group])
        gradient = sum(a * r[2] for a, r in zip(advantages, group, strict=True)) / size
        mean += chance * gradient
        square += chance * float(gradient @ gradient)
    return mean, square


@pytest.mark.parametrize("size", [2, 3, 4])
def test_the_variance_of_a_group_is_the_closed_form_and_its_mean_is_the_same_for_every_size(size):
    h = np.array([PASS_RATE * 0.9, 0, 0])
    mean, square = group_moments(size)
    np.testing.assert_allclose(mean, h, atol=1e-12)
    v, n = PASS_RATE * (1 - PASS_RATE), size
    expected = v * SQUARE / (n - 1) - (n - 2) / (n * (n - 1)) * float(h @ h)
    assert square - float(h @ h) == pytest.approx(expected)


def test_sizes_that_follow_from_earlier_batches_leave_the_expected_update_as_it_is():
    """Two batches of one group: what the first costs decides the size of the second."""
    h, plug = np.array([PASS_RATE * 0.9, 0, 0]), Priced(alignment=0.3, most_change=2.0)
    state, total, sizes = plug.initial_state(Sizes(tickets=16, group_size=2)), np.zeros(3), set()
    for first in product(list(outcomes()), repeat=2):
        chance = math.prod(response[0] for response in first)
        rewards = [response[1] for response in first]
        # Beside short responses, which are right, a prompt costs more.
        size = plug.sizes(plug.updated(state, 0.3 + 0.7 * sum(rewards))).group_size
        gradient = sum(a * r[2] for a, r in zip(loo(rewards), first, strict=True)) / 2
        total += chance * (gradient + group_moments(size)[0])
        sizes.add(size)
    assert sizes == {3, 4}
    np.testing.assert_allclose(total, 2 * h, atol=1e-12)


def test_sizes_that_follow_from_the_batch_itself_would_not():
    h, total = np.array([PASS_RATE * 0.9, 0, 0]), np.zeros(3)
    for group in product(list(outcomes()), repeat=3):
        rewards = [response[1] for response in group]
        size = 2 if rewards[0] != rewards[1] else 3
        own = zip(loo(rewards[:size]), group[:size], strict=True)
        total += math.prod(r[0] for r in group) * sum(a * r[2] for a, r in own) / size
    assert total[0] == pytest.approx(h[0] * 4 / 3)


@pytest.mark.parametrize(("a", "b", "size"), [(0.5, 0.5, 2), (2.0, 1.0, 5), (0.2, 3.0, 8)])
def test_squared_advantages_count_groups_that_are_not_mixed(a, b, size):
    """Mean squared advantage = n / (n - 1) E p (1 - p), all of it from mixed groups."""

    def log_beta(x, y):
        return math.lgamma(x) + math.lgamma(y) - math.lgamma(x + y)

    mean = mixed = 0.0
    for passed in range(size + 1):
        chance = math.comb(size, passed) * math.exp(
            log_beta(a + passed, b + size - passed) - log_beta(a, b)
        )
        square = float(np.mean(loo([1] * passed + [0] * (size - passed)) ** 2))
        mean += chance * square
        mixed += chance * (square > 0)
    alone = np.array([a]), np.array([b])
    assert mean == pytest.approx(size / (size - 1) * expected_variance(*alone)[0])
    assert mixed == pytest.approx(mixed_chance(*alone, size)[0])


def cost_times_variance(plug, overhead, size):
    return (overhead + size) * plug.variance(size)


@pytest.mark.parametrize(("overhead", "alignment"), [(0.0, 0.016), (2.0, 0.05), (30.0, 0.127)])
def test_the_best_group_size_has_the_least_cost_times_variance(overhead, alignment):
    plug = Priced(alignment=alignment)
    grid = np.linspace(1.5, 60, 6000)
    products = [cost_times_variance(plug, overhead, size) for size in grid]
    best = plug.best_group_size(overhead)
    assert grid[int(np.argmin(products))] == pytest.approx(best, abs=0.02)


def test_responses_that_pull_alike_ask_for_small_groups():
    assert round(Priced(alignment=0.016).best_group_size(0.0)) == 9
    assert round(Priced(alignment=0.127).best_group_size(0.0)) == 4


@pytest.mark.parametrize(("overhead", "alignment"), [(1e5, 0.01), (0.0, 1.0), (0.3, 0.02)])
def test_sizes_change_slowly_and_stay_within_their_bounds(overhead, alignment):
    plug = Priced(alignment=alignment, least_group_size=3, most_group_size=12)
    least, most = plug.bounds(FIRST)
    states = [plug.initial_state(FIRST)]
    assert plug.sizes(states[0]) == FIRST
    for _ in range(60):
        states.append(plug.updated(states[-1], overhead))
        sizes = plug.sizes(states[-1])
        assert 3 == least.group_size <= sizes.group_size <= most.group_size == 12
        assert least.tickets <= sizes.tickets <= most.tickets
    for before, after in pairwise(states):
        assert 1 / 1.05 - 1e-9 <= after.group_size / before.group_size <= 1.05 + 1e-9
    wanted = min(max(plug.best_group_size(overhead), 3), 12)
    assert states[-1].group_size == pytest.approx(wanted)
    saving = plug.metrics(states[-1])["cost/sizing_saving_estimated"]
    first = cost_times_variance(plug, overhead, 8)
    assert saving == pytest.approx(
        1 - cost_times_variance(plug, overhead, sizes.group_size) / first
    )
    assert saving > 0


@pytest.mark.parametrize("size", [2, 4, 8, 16])
@pytest.mark.parametrize("overhead", [0.0, 3.0])
def test_tickets_are_those_of_least_cost_to_an_end_if_the_configured_ones_were(size, overhead):
    """By the noise scale and what a step costs, whatever the two are that make P of 16 best."""
    plug = Priced(alignment=0.05, most_change=2.0)
    state = plug.updated(plug.initial_state(FIRST), overhead)
    state = type(state)(state.first, float(size), state.batches, state.overhead)
    cost_first, grid = overhead + 8, np.geomspace(2, 100, 4000)
    step_cost = 7.0 * cost_first
    scale_first = 16**2 * cost_first / step_cost
    scale = scale_first * plug.variance(size) / plug.variance(8)
    costs = (1 + scale / grid) * (step_cost + grid * (overhead + size))
    assert plug.sizes(state).tickets == pytest.approx(grid[int(np.argmin(costs))], abs=0.51)


def test_overheads_count_by_the_age_of_their_batches():
    plug, seen = Priced(decay=0.5), [8.0, 0.0, 2.0, 4.0]
    state = plug.initial_state(FIRST)
    for overhead in seen:
        state = plug.updated(state, overhead)
    assert state.overhead == pytest.approx(np.average(seen, weights=[1, 2, 4, 8]))
    assert state.batches == pytest.approx(15 / 8)


def test_bounds_that_meet_leave_the_group_size_no_choice():
    plug = Priced(least_group_size=4, most_group_size=4)
    least, most = plug.bounds(FIRST)
    state = plug.updated(plug.initial_state(FIRST), 1e6)
    assert least.group_size == most.group_size == plug.sizes(state).group_size == 4


def test_a_batch_has_a_ticket_however_large_its_groups_became():
    plug = Priced(most_change=2.0)
    state = plug.initial_state(Sizes(tickets=1, group_size=2))
    for _ in range(9):
        state = plug.updated(state, 1e6)
    assert plug.sizes(state) == Sizes(tickets=1, group_size=16)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"least_group_size": 9, "most_group_size": 8}, "sizing.least_group_size must be at most"),
        ({"most_change": 1.0}, r"sizing.most_change must lie in \(1, 2\]"),
        ({"most_change": 2.5}, r"sizing.most_change must lie in \(1, 2\]"),
        ({"alignment": 0.0}, r"sizing.alignment must lie in \(0, 1\]"),
        ({"least_group_size": 1}, "sizing.least_group_size must be at least 2"),
        ({"decay": 1.0}, r"sizing.decay must lie in \(0, 1\)"),
    ],
)
def test_settings_out_of_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Priced(**changes)
