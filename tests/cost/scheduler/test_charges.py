"""What draws are charged for turns."""

import numpy as np

from cost.prices.flops import FlopsPrice
from cost.prices.tokens import TokenPrice
from cost.prompts import TurnsTaken
from cost.scheduler.charges import drawing_turns
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
