"""One door for state: saved at any round it continues the same run, and no ticket is used twice."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest

from cost.aggregations import ConstantLength
from tests.cost.scheduler.playing import ALLOCATORS, Filter, Player, assert_same, play


@pytest.mark.parametrize("lag", [0, 1])
@pytest.mark.parametrize("num_rounds", [0, 1, 5, 6, 8, 9])
@pytest.mark.parametrize("allocator", ALLOCATORS, ids=repr)
def test_state_taken_at_any_round_continues_the_same_run(
    make_scheduler, make_report, allocator, num_rounds, lag
):
    changes = {"allocator": allocator, "aggregation": ConstantLength(), "max_staleness": 3}
    player = Player(make_scheduler(**changes), make_report, lag=lag)
    for _ in range(num_rounds):
        while player.num_drawn > player.num_learned + lag:
            player.learn()
        player.round()
    state = copy.deepcopy(player.scheduler.state_dict())
    resumed = make_scheduler(**changes)
    resumed.load_state_dict(state)
    assert resumed.metrics() == player.scheduler.metrics()
    original, resumed = player.continued_by(player.scheduler), player.continued_by(resumed)
    assert_same(original.play(3), resumed.play(3))
    assert resumed.scheduler.metrics() == original.scheduler.metrics()


def test_batches_end_within_a_round_in_some_of_these_states(make_scheduler, make_report):
    """So that the test above takes states between the rounds of a batch."""
    player = Player(make_scheduler(allocator=Filter()), make_report)
    found = [player.round().members is None for _ in range(9)]
    assert found[0] and len(set(found)) == 2


@pytest.mark.parametrize("allocator", ALLOCATORS, ids=repr)
def test_state_is_plain_data(make_scheduler, make_report, allocator):
    player = Player(make_scheduler(allocator=allocator, max_staleness=3), make_report, lag=1)
    player.play(2)
    player.round()
    json.dumps(player.scheduler.state_dict(), default=lambda array: array.tolist())


def test_state_of_another_run_is_refused(make_scheduler):
    state = make_scheduler(seed=1).state_dict()
    with pytest.raises(ValueError, match=r"state\.seed must be 0 as configured, got 1"):
        make_scheduler(seed=0).load_state_dict(state)
    with pytest.raises(ValueError, match=r"state\.num_prompts must be 21 as configured, got 20"):
        make_scheduler(num_prompts=21, seed=1).load_state_dict(state)


@pytest.mark.parametrize("num_rounds", [2, 5])
@pytest.mark.parametrize("lag", [0, 2])
@pytest.mark.parametrize("allocator", ALLOCATORS, ids=repr)
def test_a_stopped_run_uses_every_ticket_once(
    make_scheduler, make_report, allocator, lag, num_rounds
):
    changes = {"allocator": allocator, "max_staleness": 3}
    player = Player(make_scheduler(**changes), make_report, lag=lag)
    for _ in range(num_rounds):
        while player.num_drawn > player.num_learned + lag:
            player.learn()
        player.round()
    state = copy.deepcopy(player.scheduler.state_dict())
    rng = np.random.default_rng(num_rounds)
    carried = {key for draw in player.draws for key in draw.carried}
    held = [r for key, r in player.reports.items() if key in carried or rng.random() < 0.5]
    scheduler = make_scheduler(**changes)
    scheduler.load_state_dict(state)
    undone = scheduler.resume(player.num_learned, held)
    resumed = player.continued_by(scheduler)
    again = [t for one in undone for t in one.draw.tickets if t.ticket_id in one.again]
    assert all(ticket.attempt == 1 for ticket in again)
    before = {key: replace(ticket, attempt=1) for key, ticket in player.tickets.items()}
    assert again == [before[ticket.ticket_id] for ticket in again]
    for ticket in again:
        report = make_report(ticket, version=player.reports[ticket.ticket_id].version)
        # What the lost attempt reports late counts for nothing.
        scheduler.observe(replace(report, attempt=0, lengths=report.lengths + 1))
        scheduler.observe(report)
        resumed.reports[ticket.ticket_id] = report
    original = player.continued_by(player.scheduler)
    assert_same(original.play(3), resumed.play(3))
    found, expected = resumed.scheduler.metrics(), original.scheduler.metrics()
    assert found["cost/lost_attempts"] == 2 * len(again)
    assert found["cost/generated_tokens"] - found["cost/wasted_tokens"] == pytest.approx(
        expected["cost/generated_tokens"]
    )
    changed = {name for name, value in found.items() if not same(value, expected[name])}
    assert changed <= {
        "cost/lost_attempts", "cost/wasted_tokens", "cost/generated_tokens",
        "cost/generated_response_tokens",
    }  # fmt: skip


def same(one, other):
    return one == pytest.approx(other, nan_ok=True)


def test_groups_of_reports_that_were_on_their_way_are_held(make_scheduler, make_report):
    scheduler = make_scheduler()
    play(scheduler, make_report, 2)
    state = scheduler.state_dict()
    before = make_scheduler()
    before.load_state_dict(state)
    drawn = scheduler.draw(2, 2).tickets
    after = make_scheduler()
    after.load_state_dict(scheduler.state_dict())
    held = [make_report(drawn[0])]
    # The state knows the ticket and not the report.
    (undone,) = after.resume(2, held)
    assert undone.again == tuple(ticket.ticket_id for ticket in drawn[1:])
    assert after.metrics()["cost/lost_attempts"] == 0
    # The state does not know the ticket: the batch is drawn once more, alike.
    assert before.resume(2, held) == []
    assert before.draw(2, 2).tickets == drawn


def test_carried_groups_must_be_held(make_scheduler, make_report):
    player = Player(make_scheduler(allocator=Filter(), max_staleness=3), make_report, lag=1)
    while not player.draws or not player.draws[-1].carried:
        player.round()
        while player.num_drawn > player.num_learned + 1:
            player.learn()
    scheduler = make_scheduler(allocator=Filter(), max_staleness=3)
    scheduler.load_state_dict(player.scheduler.state_dict())
    with pytest.raises(ValueError, match=r"held must have the groups that are carried, lacks \["):
        scheduler.resume(player.num_drawn, [])
