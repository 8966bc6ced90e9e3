import json

import numpy as np
import pytest

from cost.scheduler.batches import Batches
from cost.types import Ticket


@pytest.fixture
def pair(make_report):
    """A ticket and its report at a version."""

    def build(ticket_id, version=0):
        ticket = Ticket(ticket_id, ticket_id % 3, 2, 0.5, 1.0, 128)
        return ticket, make_report(ticket, version=version)

    return build


@pytest.fixture
def batches(pair):
    """Batch 0 of tickets 0 to 4, two a batch; all was accepted but ticket 1."""
    batches = Batches()
    batches.open(0, 0)
    batches.complete([pair(key) for key in (0, 2, 3, 4)], 5, 2, max_staleness=1, draw_saving=0.2)
    return batches


def carried(batches):
    return [ticket.ticket_id for ticket, _ in batches.carried]


def test_the_first_accepted_make_the_batch_and_the_others_are_carried(batches):
    assert batches.members == {0: (0, 2)} and batches.ranges == {0: (0, 5)}
    assert carried(batches) == [3, 4] and batches.drawn


@pytest.mark.parametrize(
    ("max_staleness", "kept"), [(0, []), (1, [6]), (2, [5, 6]), (5, [4, 5, 6])]
)
def test_only_what_the_next_batch_may_still_learn_is_carried(pair, max_staleness, kept):
    """Batch 3 learns from ticket 3; 4, 5 and 6 would be 4, 2 and 1 versions old in batch 4."""
    batches = Batches(batch=2)
    batches.open(3, 3)
    accepted = [pair(3, 3), pair(4, 0), pair(5, 2), pair(6, 3)]
    batches.complete(accepted, 7, 1, max_staleness, 0.0)
    assert batches.members[3] == (3,) and carried(batches) == kept


def test_fewer_than_wanted_are_a_batch_too(batches, pair):
    batches.open(1, 5)
    batches.complete([], 7, 2, 1, 0.0)
    assert batches.members[1] == () and carried(batches) == []
    assert batches.end_of(2) == 7


def test_batches_are_opened_one_after_the_other(batches):
    for wrong in (0, 2, -1):
        with pytest.raises(ValueError, match=rf"batch must be 1, .* got {wrong}"):
            batches.open(wrong, 5)
    batches.open(1, 5)
    for wrong in (1, 2):
        with pytest.raises(ValueError, match=rf"batch must be 1, .* got {wrong}"):
            batches.open(wrong, 5)


def test_the_end_of_batches_that_are_complete(batches):
    batches.open(1, 5)
    assert (batches.end_of(0), batches.end_of(1)) == (0, 5)
    for wrong in (2, -1):
        with pytest.raises(
            ValueError, match=rf"folded_batches must lie in \[0, 1\], .* got {wrong}"
        ):
            batches.end_of(wrong)


def test_a_batch_is_forgotten_when_folded_and_no_longer_selected(batches, pair):
    for batch, end in ((1, 8), (2, 9)):
        batches.open(batch, batches.ranges[batch - 1][1])
        batches.complete([pair(end - 1, batch)], end, 2, 1, 0.0)
    batches.release(2, selected_batch=0)
    assert set(batches.members) == {0, 1, 2}
    batches.release(1, selected_batch=2)
    assert set(batches.members) == set(batches.ranges) == {1, 2}
    batches.release(3, selected_batch=2)
    assert set(batches.members) == {2}
    # Folding what was folded is nothing new.
    assert batches.end_of(1) == 0 and batches.end_of(3) == 9


def test_where_a_batch_begins_and_which_tickets_before_it_are_used_from_it_on(batches, pair):
    batches.open(1, 5)
    accepted = [*batches.carried, pair(7, 1)]
    batches.complete(accepted, 8, 2, 1, 0.0)
    assert [batches.first_of(batch, 8) for batch in (0, 1, 2)] == [0, 5, 8]
    assert batches.members[1] == (3, 4) and batches.carried_ids == (7,)
    assert batches.earlier(0, 5) == {0, 2, 3, 4}
    assert batches.earlier(1, 5) == {3, 4}
    assert batches.earlier(1, 8) == {3, 4, 7} and batches.earlier(1, 7) == {3, 4}
    assert batches.earlier(2, 8) == {7}
    batches.open(2, 8)
    assert [batches.first_of(batch, 9) for batch in (1, 2, 3)] == [5, 8, 9]


@pytest.mark.parametrize("opened", [False, True])
def test_round_trip(batches, opened):
    if opened:
        batches.open(1, 5)
        batches.norms_of, batches.gradient_norms = (5, 6), {5: np.array([0.5, 2.0])}
    state = batches.state_dict()
    json.dumps(state, default=lambda array: array.tolist())
    other = Batches()
    other.load_state_dict(state)
    names = ("batch", "first_ticket", "drawn", "norms_of", "ranges", "members", "draw_savings")
    for name in names:
        assert getattr(other, name) == getattr(batches, name), name
    assert [ticket for ticket, _ in other.carried] == [ticket for ticket, _ in batches.carried]
    for (_, one), (_, same) in zip(batches.carried, other.carried, strict=True):
        for name in one.__slots__:
            np.testing.assert_array_equal(getattr(one, name), getattr(same, name))
    assert set(other.gradient_norms) == set(batches.gradient_norms)
    for key, norms in other.gradient_norms.items():
        np.testing.assert_array_equal(norms, batches.gradient_norms[key])


def test_norms_belong_to_the_open_batch_alone(batches):
    batches.open(1, 5)
    batches.norms_of, batches.gradient_norms = (5,), {5: np.ones(2)}
    batches.complete([], 6, 2, 1, 0.0)
    assert batches.norms_of == ()
    batches.open(2, 6)
    assert batches.gradient_norms == {} and batches.norms_of == ()


def test_exploring_tickets_end_their_batch_and_are_not_carried(batches, pair):
    batches.explore([5, 6])
    assert batches.members[0] == (0, 2, 5, 6) and batches.end_of(1) == 7
    assert carried(batches) == [3, 4]
    batches.open(1, 7)
    batches.complete([pair(3), pair(4), pair(7)], 8, 2, 1, 0.0)
    assert batches.members[1] == (3, 4) and batches.ranges[1] == (7, 8)
