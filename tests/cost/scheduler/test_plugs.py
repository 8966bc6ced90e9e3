"""Plugs with their states: what is asked of which, and that nothing changes behind a back."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest

from cost.advantages.types import group_batch
from cost.draws.allocators.square_root import SquareRoot
from cost.prices.compute import generating, scoring
from cost.prices.flops import FlopsPrice
from cost.scheduler.plugs import Plugs
from cost.worth.turns import turns_taken
from tests.cost.prices.test_prices import SHAPE
from tests.cost.worth.test_turns import report_of


@dataclass(frozen=True, slots=True)
class GroupPrice:
    """Cost of a response that shares its prompt with the others of its group."""

    def of_drawing(self, prompt_tokens, lengths, group_size):
        return prompt_tokens / group_size + lengths

    def of_training(self, prompt_tokens, lengths):
        return np.full(len(lengths), np.nan)


@dataclass(frozen=True, slots=True)
class Seen(SquareRoot):
    """Notes what it is asked to allocate by."""

    seen: ClassVar[list[object]] = []

    def allocate(self, estimates, state):
        self.seen[:] = [estimates, state]
        return SquareRoot.allocate(self, estimates, state)


def test_the_snapshot_joins_the_plugs(make_config, pool):
    """Draws are priced by `of_drawing` at the configured group size, never by `of_training`."""
    config = make_config(price=GroupPrice(), allocator=Seen())
    plugs = Plugs.of(config, pool)
    snapshot = plugs.snapshot(pool, config.group_size, np.random.default_rng(0))
    estimates, state = Seen.seen
    assert snapshot.estimates is estimates and state == plugs.states["allocator"]
    assert snapshot.num_prompts == 4
    expected = np.array([10, 20, 30, 40]) / 4 + estimates.lengths
    np.testing.assert_array_equal(estimates.costs, expected)
    assert np.sort(snapshot.prepared.order).tolist() == [0, 1, 2, 3]
    edges = np.cumsum(snapshot.allocation.probabilities[snapshot.prepared.order])
    np.testing.assert_array_equal(snapshot.prepared.edges, edges)
    again = plugs.snapshot(pool, config.group_size, np.random.default_rng(0))
    np.testing.assert_array_equal(again.prepared.order, snapshot.prepared.order)


def test_learning_leaves_the_plugs_before_as_they_were(make_config, pool, make_visit):
    before = Plugs.of(make_config(), pool)
    lengths = before.lengths(pool)
    after = before.folded(pool, [make_visit(1, [10, 11, 12])])
    np.testing.assert_array_equal(before.lengths(pool), lengths)
    assert after.lengths(pool)[1] < lengths[1]


def test_state_round_trip(make_config, pool, make_visit):
    plugs = Plugs.of(make_config(), pool).folded(pool, [make_visit(2, [5, 6, 7])])
    other = Plugs.of(make_config(), pool).loaded(plugs.state_dict())
    np.testing.assert_array_equal(other.lengths(pool), plugs.lengths(pool))


def test_learning_from_several_turns_costs_what_is_counted_of_it(make_config, pool):
    price = FlopsPrice(**SHAPE)
    plugs = Plugs.of(make_config(price=price), pool)
    found = plugs.training_costs(np.array([50]), np.array([72]), np.array([12]))
    passes = scoring(price, 50, np.array([72]), np.array([60]))
    assert found == pytest.approx(3 * passes)
    # A price of tokens knows nothing of logits.
    plain = Plugs.of(make_config(), pool)
    assert plain.training_costs(np.array([50]), np.array([72]), np.array([12])).tolist() == [122]


def test_generating_several_turns_costs_what_is_counted_of_them(make_config, pool):
    """But for tokens never fed in: the price charges each turn's last one, the count does not."""
    price = FlopsPrice(**SHAPE)
    plugs = Plugs.of(make_config(price=price), pool)
    # Two turns of 30, 12 tokens between them, before which what was sampled last is computed, too.
    report = report_of(
        prompt_tokens=50, prefill_tokens=50 + 13, lengths=[72], num_turns=[2],
        environment_tokens=[12], turn_prefill_tokens=[13],
    )  # fmt: skip
    groups, prompts = group_batch([report], 100), np.array([50])
    found = plugs.generating_cost(groups, prompts, turns_taken([report]))
    # Tokens 80, of the first turn, and 122 of the last; prefilled in the middle is as if at 86.
    extra = 2 * price.token + price.pair * (80 + 122) + price.pair * (86 - 80)
    assert found == pytest.approx(generating(price, [report])[0] + extra, rel=1e-12)
    as_one = plugs.generating_cost(groups, prompts)
    assert as_one - found == pytest.approx(12 * price.head - price.token - 86 * price.pair)
    # Of a branch, whose first turn another response sampled, nothing is sampled but the last one.
    branch = replace(report, inherited_tokens=np.array([30]))
    less = found - plugs.generating_cost(groups, prompts, turns_taken([branch]))
    assert less == pytest.approx(30 * (price.token + price.head + price.pair * (50 + 36)))
    assert plugs.prompt_costs(prompts) == pytest.approx(price.of_prompt(prompts))
    assert Plugs.of(make_config(), pool).prompt_costs(prompts) is None
