import numpy as np
import pytest

from cost.advantages.smooth_cumulative import SmoothCumulative
from cost.advantages.within_group import GroupStandardised
from cost.state import from_plain, to_plain
from cost.types import Feedback
from tests.cost.play import select

PLUG = SmoothCumulative(epsilon=0.0)


@pytest.fixture
def after(pool, make_visit):
    """State after visits of (prompt, rewards), in one fold or one each."""

    def build(*visits, folds=1):
        made = [make_visit(prompt, [9] * len(rewards), rewards) for prompt, rewards in visits]
        state = PLUG.initial_state(pool)
        for part in [made] if folds == 1 else [[visit] for visit in made]:
            state = PLUG.update(state, pool, part)
        return state

    return build


def standardised(rewards, history=()):
    together = np.array([*history, *rewards])
    spread = np.nanstd(together)
    centred = np.nan_to_num(np.array(rewards) - np.nanmean(together))
    return centred / spread if spread else centred


def test_the_first_visit_is_plain_standardisation(pool, make_groups):
    groups = make_groups([1.0, 0.0, 0.0, np.nan], [1.0, 1.0], [0.5], [])
    found = PLUG.advantages(groups, PLUG.initial_state(pool))
    assert found.tolist() == GroupStandardised(epsilon=0.0).advantages(groups).tolist()


@pytest.mark.parametrize("folds", [1, 2])
def test_the_state_is_that_of_all_rewards_of_a_prompt(after, folds):
    visits = [(0, [1.0, 0.0, 0.0]), (2, [1.0, np.nan]), (0, [1.0, 1.0]), (0, [np.nan]), (0, [0.5])]
    state = after(*visits, folds=folds)
    assert state.num_visits.tolist() == [3, 0, 1, 0]
    assert state.rewards.counts.tolist() == [6, 0, 1, 0]
    together = [1.0, 0.0, 0.0, 1.0, 1.0, 0.5]
    assert state.rewards.means[0] == pytest.approx(np.mean(together), rel=1e-14)
    assert state.rewards.squares[0] / 6 == pytest.approx(np.var(together), rel=1e-14)


@pytest.mark.parametrize("rewards", [[1.0, 0.0, 1.0, np.nan], [1.0, 1.0], [0.0], [1.0, 0.0]])
@pytest.mark.parametrize("earlier", [1, 4])
def test_later_visits_take_the_smaller_mixture(after, make_groups, rewards, earlier):
    history = [1.0, 0.0, 0.0, 0.0]
    state = after(*[(1, history)] * earlier)
    found = PLUG.advantages(make_groups(rewards, prompts=[1]), state)
    visit = earlier + 1
    new, total = standardised(rewards), standardised(rewards, history * earlier)
    mixtures = [((visit - 1) * a + b) / visit for a, b in ((new, total), (total, new))]
    smaller = np.where(np.abs(mixtures[0]) <= np.abs(mixtures[1]), *mixtures)
    np.testing.assert_allclose(found, smaller, rtol=1e-12, atol=1e-14)


def test_all_right_now_and_mixed_before_has_a_gradient(after, make_groups):
    found = PLUG.advantages(make_groups([1.0] * 4, prompts=[0]), after((0, [1.0, 0.0, 0.0, 1.0])))
    assert (found > 0).all()
    same = after((0, [0.1] * 7), (0, [0.1] * 3))
    assert PLUG.advantages(make_groups([0.1] * 6, prompts=[0]), same).tolist() == [0.0] * 6


def test_a_group_in_the_state_does_not_count_twice(after, make_groups):
    first, second = [1.0, 0.0, 0.0], [1.0, 1.0, 0.0, np.nan]
    expected = PLUG.advantages(make_groups(second, prompts=[3]), after((3, first)))
    state = after((3, first), (3, second))
    found = PLUG.advantages(make_groups(second, prompts=[3], folded=[True]), state)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_folded_group_without_rewards_is_no_visit_and_has_no_advantage(after, make_groups):
    state = after((3, [np.nan, np.nan]))
    groups = make_groups([np.nan, np.nan], prompts=[3], folded=[True])
    assert state.num_visits[3] == 0 and PLUG.advantages(groups, state).tolist() == [0.0, 0.0]


def test_state_round_trip_and_update_leaves_the_old(after, pool, make_visit):
    state = after((0, [1.0, 0.0]))
    plain = to_plain(state)
    again = from_plain(PLUG.initial_state(pool), plain)
    PLUG.update(again, pool, [make_visit(0, [1], [1.0])])
    assert again.num_visits.tolist() == [1, 0, 0, 0] and again.rewards.counts[0] == 2
    assert PLUG.update(again, pool, []) is again


def test_refuses():
    with pytest.raises(ValueError, match=r"^advantage\.epsilon must not be negative, got -1"):
        SmoothCumulative(epsilon=-1)


def test_the_scheduler_uses_visits_that_were_folded(make_scheduler, make_report):
    """Every prompt once a batch: all right in the second, mixed in the first, in a new process."""
    changes = {"num_prompts": 4, "tickets_per_step": 16, "advantage": PLUG}
    scheduler = make_scheduler(**changes)
    for batch in range(2):
        tickets = scheduler.draw(batch, batch).tickets
        if batch == 1:
            restored = make_scheduler(**changes)
            restored.load_state_dict(scheduler.state_dict())
            scheduler = restored
        rewards = [np.array([1.0, 0.0, 0.0, 1.0]), np.ones(4)][batch]
        selections = select(scheduler, batch, [make_report(t, rewards=rewards) for t in tickets])
        scheduler.learned(batch, Feedback(1.0, 1.0))
    seen = scheduler.state_dict()["statistics"]["plugs"]["advantage"]["num_visits"]
    for ticket, selection in zip(tickets, selections, strict=True):
        assert (selection.advantages > 0).all() == (seen[ticket.prompt_index] > 0)
