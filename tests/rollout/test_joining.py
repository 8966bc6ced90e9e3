"""What becomes of a place without room: decisions alone."""

import pytest

from rollout.joining import Room, waits_on


@pytest.mark.parametrize(
    ("most", "num_places", "added"), [(0, 1, 0), (4, 1, 3), (4, 4, 0), (2, 3, 0)]
)
def test_as_many_places_are_added_as_may_be(most, num_places, added):
    assert Room(most=most).num_to_add(num_places) == added


def test_a_place_waits_on_where_actors_may_join_and_others_work():
    assert waits_on(joins=True, num_others=1)


@pytest.mark.parametrize(("joins", "num_others"), [(False, 1), (False, 0), (True, 0)])
def test_else_it_is_given_up(joins, num_others):
    assert not waits_on(joins=joins, num_others=num_others)
