"""What draws are charged for turns."""

import numpy as np
import pytest

from cost.prices.flops import FlopsPrice
from cost.prices.tokens import TokenPrice
from cost.prompts import TurnsTaken, prompt_pool
from cost.scheduler.charges import drawing_turns, generating_cost
from tests.cost.prices.test_prices import SHAPE
from tests.cost.scheduler.test_plugs import GroupPrice


def test_draws_expect_no_logits_of_what_environments_write(pool):
    price = FlopsPrice(**SHAPE, trained_share=0.5)
    # All that is given is computed once, as if it was sampled, but for its logits.
    taken = TurnsTaken(*(np.full(pool.num_prompts, each) for each in (5.0, 4.0, 1.0, 0.0)))
    lengths = np.full(pool.num_prompts, 20.0)
    found = drawing_turns(price, {}, pool, lengths, taken)
    np.testing.assert_allclose(found, -price.head * (5 + 0.5 * 3 * 4))
    # A token is the policy's own, whatever is expected of environments.
    short = drawing_turns(price, {}, pool, np.full(pool.num_prompts, 3.0), taken)
    assert (price.of_drawing(pool.prompt_tokens, np.full(4, 3.0), 1) + short > 0).all()


def test_what_a_price_does_not_know_adds_nothing(pool):
    lengths, taken = np.full(pool.num_prompts, 20.0), TurnsTaken(*np.ones((4, pool.num_prompts)))
    assert drawing_turns(TokenPrice(), {}, pool, lengths, None) == 0
    assert drawing_turns(GroupPrice(), {}, pool, lengths, taken) == 0


def test_what_is_given_leaves_the_policy_a_token():
    """Environments first, then what is inherited of other responses; by hand."""
    lengths = np.array([1.0, 3.0, 6.0, 20.0, 0.5])
    prompts = prompt_pool(np.full(5, 10), ["a"] * 5, 100)
    taken = TurnsTaken(*(np.full(5, each) for each in (0.0, 4.0, 3.0, 0.0)))
    # A third of a token is what prefilling one costs, and none of these was prefilled.
    found = drawing_turns(TokenPrice(), {}, prompts, lengths, taken)
    np.testing.assert_allclose(found, -np.array([0, 2, 4 + 1, 4 + 3, 0]) / 3)


def test_generating_a_batch_costs_what_its_responses_and_their_turns_do(make_groups):
    groups = make_groups([1.0, 0.0], [1.0], lengths=[20, 30, 7])
    prompts = np.array([10, 10, 5])
    assert generating_cost(TokenPrice(), {}, groups, prompts, None) == pytest.approx(82 / 3)
    turns = TurnsTaken(np.array([6.0, 0, 0]), *np.zeros((2, 3)), np.array([0.0, 2, 0]))
    price = TokenPrice(tool_second_tokens=10)
    assert generating_cost(price, {}, groups, prompts, turns) == pytest.approx(82 / 3 + 2 + 20)
    assert generating_cost(GroupPrice(), {}, groups, prompts, turns) == 0
