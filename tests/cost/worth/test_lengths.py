from dataclasses import replace

import numpy as np
import pytest

from cost.prompts import prompt_pool
from cost.worth.lengths import PoolMeanLength, PoolShrunkLength
from cost.worth.predictors import PoolMeanPredictor


def test_visited_prompts_are_shrunk_to_the_pool(pool, make_visit):
    plug = PoolShrunkLength(prior_visits=2.0, prior=PoolMeanPredictor(decay=1.0))
    visits = [make_visit(0, [10, 30]), make_visit(1, [60, 60])]
    state = plug.update(plug.initial_state(pool), pool, visits)
    expected = [(20 + 2 * 40) / 3, (60 + 2 * 40) / 3, 40, 40]
    np.testing.assert_allclose(plug.estimate(pool, state=state), expected)


def test_unvisited_prompts_get_what_their_features_say(make_visit):
    prompts = prompt_pool(np.full(60, 20), ["short", "long"] * 30, max_tokens=500)
    plug = PoolShrunkLength()
    visits = [make_visit(i, [400 if i % 2 else 50]) for i in range(30)]
    estimate = plug.estimate(
        prompts, state=plug.update(plug.initial_state(prompts), prompts, visits)
    )
    assert estimate[31::2].min() > 2 * estimate[30::2].max()


@pytest.mark.parametrize("plug", [PoolShrunkLength(), PoolMeanLength()])
def test_before_any_visit_the_limit_is_assumed(plug, pool):
    assert set(plug.estimate(pool, state=plug.initial_state(pool))) == {100.0}
    given = replace(plug, initial_tokens=30.0)
    assert set(given.estimate(pool, state=given.initial_state(pool))) == {30.0}


def test_pool_mean_is_the_same_for_all(pool, make_visit):
    plug = PoolMeanLength(decay=1.0)
    visits = [make_visit(0, [10]), make_visit(1, [30])]
    state = plug.update(plug.initial_state(pool), pool, visits)
    assert plug.estimate(pool, state=state).tolist() == [20.0] * 4


def test_old_lengths_follow_what_became_of_the_others(pool, make_visit):
    """All responses grow; a prompt that was not visited meanwhile is no exception."""
    plug = PoolShrunkLength(prior_visits=0.0)
    before = [make_visit(1, [20])] * 110 + [make_visit(0, [50], weight=1e-9)]
    state = plug.update(plug.initial_state(pool), pool, before)
    state = plug.update(state, pool, [make_visit(1, [40])] * 600)
    np.testing.assert_allclose(plug.estimate(pool, state=state)[:2], [100, 40], rtol=0.01)


@pytest.mark.parametrize("plug", [PoolShrunkLength(prior_visits=0.0), PoolMeanLength()])
def test_estimates_are_at_least_one_token(pool, make_visit, plug):
    state = plug.update(plug.initial_state(pool), pool, [make_visit(0, [0, 0])])
    assert plug.estimate(pool, state=state)[0] == 1.0


@pytest.mark.parametrize(
    "changes",
    [{"prior_visits": -1.0}, {"decay": 1.5}, {"initial_tokens": 0.0}, {"initial_tokens": np.inf}],
)
def test_refuses(changes):
    with pytest.raises(ValueError, match=rf"length\.{next(iter(changes))} must .* got"):
        PoolShrunkLength(**changes)


@pytest.mark.parametrize("changes", [{"decay": 0.0}, {"initial_tokens": -1.0}])
def test_the_mean_of_all_refuses(changes):
    with pytest.raises(ValueError, match=rf"length\.{next(iter(changes))} must .* got"):
        PoolMeanLength(**changes)
