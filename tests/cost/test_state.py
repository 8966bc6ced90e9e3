from dataclasses import dataclass

import numpy as np
import pytest

from cost.prices.tokens import TokenPrice
from cost.state import NoState, from_plain, initial_state, keywords, to_plain, updated
from cost.worth.lengths import PoolShrunkLength


def test_round_trip_of_nested_states(pool, make_visit):
    plug = PoolShrunkLength()
    state = updated(plug, initial_state(plug, pool), pool, [make_visit(0, [10, 20])])
    plain = to_plain(state)
    assert isinstance(plain["prior"]["gram"], np.ndarray)
    restored = from_plain(initial_state(plug, pool), plain)
    np.testing.assert_array_equal(
        plug.estimate(pool, state=restored), plug.estimate(pool, state=state)
    )


def test_plugs_that_do_not_learn_have_no_state(pool):
    assert initial_state(TokenPrice(), pool) is None
    assert updated(TokenPrice(), None, pool, []) is None
    assert to_plain(None) is None and from_plain(None, None) is None
    assert from_plain(NoState(), to_plain(NoState())) == NoState()


def test_a_state_is_a_keyword_only_where_there_is_one():
    assert keywords(None) == {} and keywords(NoState()) == {"state": NoState()}


def test_refuses_the_state_of_another_plug(pool):
    with pytest.raises(ValueError, match=r"state must have the fields .* got"):
        from_plain(initial_state(PoolShrunkLength(), pool), {"masses": np.zeros(4)})
    with pytest.raises(ValueError, match="state must have the fields"):
        from_plain(None, {"masses": np.zeros(4)})


@dataclass(frozen=True)
class Counting:
    """A plug of a user that learns, and what it returns."""

    first: object
    following: object = None

    def initial_state(self, prompts):
        return self.first

    def update(self, state, prompts, visits):
        return self.following


@pytest.mark.parametrize("state", [[], (NoState(), []), {"seen": 1}, np.zeros(3), 0, NoState])
def test_a_state_that_no_checkpoint_holds_is_refused_before_it_is_learned(pool, state):
    with pytest.raises(
        ValueError, match=r"^Counting\.initial_state must return a frozen dataclass"
    ):
        initial_state(Counting(state), pool)


def test_an_update_that_forgets_to_return_the_state_is_told(pool):
    plug = Counting(NoState())
    with pytest.raises(ValueError, match=r"^Counting\.update must return .* NoState .* got None"):
        updated(plug, initial_state(plug, pool), pool, [])
    assert updated(Counting(None), None, pool, []) is None
