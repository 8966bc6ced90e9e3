"""No-positive-resampling: solved prompts leave, the others go on in passes."""

import numpy as np
import pytest

from cost.draws.allocators.retirement import Retirement
from cost.prompts import prompt_pool

SOLVED = {1, 4, 5}


@pytest.fixture
def solved_report(make_report):
    def report(ticket, solved=SOLVED):
        rate = 1.0 if ticket.prompt_index in solved else 0.5
        return make_report(ticket, rewards=np.array([1.0, 1.0, rate, rate]))

    return report


def drawn(batches):
    return [ticket.prompt_index for batch in batches for ticket in batch.tickets]


def test_solved_prompts_are_not_drawn_again(make_scheduler, run_batches, solved_report):
    settings = {"num_prompts": 8, "allocator": Retirement(), "tickets_per_step": 4}
    scheduler = make_scheduler(**settings)
    first = run_batches(scheduler, solved_report, 2)
    assert sorted(drawn(first)) == list(range(8))
    state = scheduler.state_dict()
    later = run_batches(scheduler, solved_report, 5, first_batch=2)
    assert sorted(drawn(later)) == sorted([0, 2, 3, 6, 7] * 4)
    p = scheduler.distribution().probabilities
    assert p[list(SOLVED)].tolist() == [0, 0, 0] and p.sum() == pytest.approx(1)
    resumed = make_scheduler(**settings)
    resumed.load_state_dict(state)
    again = run_batches(resumed, solved_report, 5, first_batch=2)
    assert drawn(again) == drawn(later)


def test_when_all_are_retired_all_return(make_scheduler, run_batches, solved_report):
    scheduler = make_scheduler(num_prompts=3, allocator=Retirement(), tickets_per_step=3)
    batches = run_batches(scheduler, lambda t: solved_report(t, {0, 1, 2}), 4)
    assert sorted(drawn(batches)) == sorted([0, 1, 2] * 4)


@pytest.mark.parametrize(
    ("rewards", "usable", "retires"),
    [
        ([1.0] * 9 + [0.0], [True] * 10, True),
        ([1.0] * 8 + [0.0] * 2, [True] * 10, False),
        ([1.0, 1.0, np.nan], [True, True, False], True),
        ([np.nan, np.nan], [False, False], False),
    ],
)
def test_one_group_decides(make_visit, rewards, usable, retires):
    visit = make_visit(1, [5] * len(rewards), rewards=rewards)
    visit = type(visit)(visit.report, 1.0, np.array(usable), visit.advantages, -1.0)
    pool = prompt_pool(np.full(3, 9), ["a"] * 3, max_tokens=9)
    before = Retirement().initial_state(pool)
    state = Retirement().update(before, pool, [visit])
    assert state.retired.tolist() == [False, retires, False]
    assert not before.retired.any()


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"allocator\.pass_rate must be positive, got 0"):
        Retirement(pass_rate=0)
