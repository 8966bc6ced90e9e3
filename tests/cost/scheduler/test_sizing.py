"""Batches whose sizes follow from learned ones: what draws, statistics and state make of them."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest

from cost.advantages.within_group import GroupStandardised, LeaveOneOut
from cost.draws.allocators.uniform import Uniform
from cost.draws.entropy_control import EntropyControl
from cost.draws.sizing import Priced as Sized
from cost.draws.sizing import Sizes
from cost.ledger import METRICS
from cost.prices.tokens import TokenPrice
from cost.scheduler.overhead import group_overhead
from cost.thinning.thinning import KeepAll
from cost.types import Selection
from tests.cost.scheduler.playing import ALLOCATORS, Player, assert_same


@dataclass(frozen=True, slots=True)
class OnePrompt:
    """A token costs 1 to generate and 3 to learn from, a group's prompt once."""

    def of_drawing(self, prompt_tokens, lengths, group_size):
        return self.of_generating(prompt_tokens, lengths, np.asarray(group_size))

    def of_generating(self, prompt_tokens, lengths, group_sizes):
        return prompt_tokens / group_sizes + lengths

    def of_training(self, prompt_tokens, lengths):
        return 3.0 * (prompt_tokens + lengths)

    def of_prompt(self, prompt_tokens):
        return 3.0 * prompt_tokens


@dataclass(frozen=True, slots=True)
class OwnSizes(Uniform):
    """Says that it chooses group sizes."""

    varies_group_sizes: ClassVar[bool] = True


QUICK = Sized(most_change=1.5, alignment=0.01, decay=0.9, most_group_size=12)


@pytest.fixture
def make_sized(make_scheduler):
    def build(sizing=QUICK, **changes):
        return make_scheduler(advantage=LeaveOneOut(), sizing=sizing, **changes)

    return build


def sizes_of(player):
    """(tickets, group size) of every batch of one round."""
    return [(len(draw.tickets), draw.tickets[0].num_samples) for draw in player.draws]


def test_batches_have_the_sizes_that_metrics_say_and_metrics_are_described(make_sized, make_report):
    player = Player(make_sized(allocator=Uniform()), make_report)
    for batch in range(30):
        said = player.scheduler.metrics()
        player.play(1)
        if batch == 0:
            assert sizes_of(player) == [(8, 4)]
        # Metrics before a draw are of what is folded; the batch learned last is folded by it.
        assert set(said) <= set(METRICS)
        now = player.scheduler.metrics()
        drawn = Sizes(*sizes_of(player)[-1])
        assert now["cost/sizing_tickets"] == drawn.tickets
        assert now["cost/sizing_group_size"] == drawn.group_size
        for selection in player.selections[-drawn.tickets :]:
            assert len(selection.keep) == drawn.group_size
    assert sizes_of(player)[-1][1] == 11  # 1 + sqrt(1 / 0.01), prompts being repeated.


@pytest.mark.parametrize("allocator", ALLOCATORS, ids=repr)
def test_a_scheduler_continues_exactly(make_sized, make_report, allocator):
    player = Player(make_sized(allocator=allocator), make_report, lag=1).play(9)
    state = player.scheduler.state_dict()
    other = make_sized(allocator=allocator)
    other.load_state_dict(state)
    twin = player.continued_by(other)
    player.draws, player.selections = [], []
    assert_same(player.play(6), twin.play(6))
    assert player.scheduler.metrics() == other.metrics()


@dataclass(frozen=True, slots=True)
class Echo:
    """Sizes by the batch folded last alone, and at once."""

    def bounds(self, configured):
        return Sizes(4, 2), Sizes(30, 12)

    def initial_state(self, configured):
        return configured

    def updated(self, state, overhead):
        return Sizes(4 + int(1e4 * overhead) % 10, 2 + int(1e3 * overhead) % 9)

    def sizes(self, state):
        return state

    def metrics(self, state):
        return {}


@pytest.mark.parametrize("lag", [0, 1, 2])
def test_sizes_depend_on_folded_batches_alone(make_sized, make_report, lag):
    """Of two runs that differ in one batch, sizes are the same until that batch is folded."""
    odd = 5
    sized = {"allocator": Uniform(), "price": OnePrompt(), "sizing": Echo()}

    def play(changed):
        seen = math.inf

        def report(ticket, **changes):
            own = seen if changed else -1
            tokens = 503 if ticket.ticket_id == own else 30
            return replace(make_report(ticket, **changes), prompt_tokens=tokens)

        player = Player(make_sized(**sized), report, lag=lag).play(odd)
        seen = sum(len(draw.tickets) for draw in player.draws)
        return sizes_of(player.play(6))

    one, two = play(changed=False), play(changed=True)
    assert len(set(one)) > 1
    assert one[: odd + 1 + lag] == two[: odd + 1 + lag]
    assert one[odd + 1 + lag] != two[odd + 1 + lag]


@pytest.fixture
def plugs(make_sized):
    return make_sized(price=OnePrompt(), thinning=KeepAll())._statistics.plugs


def selection(ticket, keep, weight, advantages):
    return Selection(
        ticket.ticket_id, np.array(keep), np.array(weight), np.array(advantages),
        np.full(len(keep), 0.1),
    )  # fmt: skip


def test_what_a_batch_teaches_is_the_sum_over_its_groups(plugs, make_scheduler, make_report):
    ticket, *_ = make_scheduler().draw(0, 0).tickets
    ticket = replace(ticket, num_samples=2, weight=2.0)
    report = replace(
        make_report(ticket), prompt_tokens=30, lengths=np.array([10, 20]),
        surprise=np.array([4.0, 9.0]),
    )  # fmt: skip
    empty = replace(
        make_report(replace(ticket, num_samples=0)), ticket_id=5, prompt_index=ticket.prompt_index
    )
    chosen = selection(ticket, [True, False], [4.0, 0.0], [1.0, -1.0])
    nothing = selection(ticket, [], [], [])
    found = group_overhead(plugs, [report, empty], [chosen, nothing])
    # The prompt is computed once for generating, and thrice for learning since one is kept.
    fixed, response = 30 + 3 * 30, (10 + 20 + 3 * 10) / 2
    assert found == pytest.approx(fixed / response)
    assert group_overhead(plugs, [empty], [nothing]) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"advantage": GroupStandardised()}, "scheduler.sizing: set advantage@scheduler.advantage"),
        ({"allocator": OwnSizes()}, "allocator must ask for groups of one size"),
        ({"group_size": 13}, r"group_size must lie in the range of scheduler.sizing, 2 to 12"),
        ({"entropy_control": EntropyControl()}, "entropy_control must be null with"),
        ({"sizing": TokenPrice()}, "scheduler.sizing must be a plug with the method updated"),
    ],
)
def test_what_does_not_go_with_sizes_that_move_is_refused(make_config, changes, message):
    plain = {"advantage": LeaveOneOut(), "sizing": QUICK}
    with pytest.raises(ValueError, match=message):
        make_config(**(plain | changes))


def test_objective_and_limits_are_said(make_config):
    config = make_config(advantage=LeaveOneOut(), sizing=QUICK)
    assert config.objective_preserving
    least, most = config.bounds
    assert (least.group_size, most.group_size) == (2, 12)
    assert least.tickets < 8 < most.tickets
    fixed = make_config()
    assert fixed.bounds == (Sizes(8, 4), Sizes(8, 4))
