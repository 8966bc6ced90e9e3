"""What was spent, and when it is enough."""

import numpy as np
import pytest

from cost.types import LengthReport
from launch.run.budget import Budget
from launch.run.parts import Plan


def report(ticket_id, tokens):
    """One response behind a prompt of 1 token that was prefilled."""
    one = np.array([tokens - 1])
    return LengthReport(
        ticket_id, 0, 1, 1, one, one < 0, np.ones(1), np.zeros(1, np.int64), np.ones(1),
        np.zeros(1, np.int64), 0.1, 0,
    )  # fmt: skip


def budget(max_staleness=0, **bounds):
    return Budget(Plan(10, 1, max_staleness, 5.0, **bounds))


def spend(spent, batch, tokens=100, trained=10, seconds=1.0, pilots=frozenset()):
    spent.spend(batch, [report(batch, tokens)], pilots, trained, seconds)


@pytest.mark.parametrize("max_staleness", [0, 1, 3])
def test_batches_in_flight_are_expected_to_cost_what_the_others_did(max_staleness):
    spent = budget(max_staleness, max_generated_tokens=600)
    ended = []
    for batch in range(9):
        ended.append(spent.used_up(batch))
        spend(spent, batch)
    # The batch that is drawn when six others took or are expected to take 600 tokens is too many.
    assert ended == [False] * 6 + [True] * 3


def test_pilots_are_not_expected_again():
    spent = budget(1, max_generated_tokens=350)
    spend(spent, 0, tokens=300, pilots=frozenset({0}))
    assert not spent.used_up(2)
    other = budget(1, max_generated_tokens=350)
    spend(other, 0, tokens=300)
    assert other.used_up(2)


def test_progress_is_that_of_the_bound_that_ends_first():
    spent = budget(max_trained_tokens=20, max_seconds=100.0)
    assert spent.progress(0) == 0.0
    spend(spent, 0)
    assert spent.progress(1) == 0.5
    spend(spent, 1, trained=30)
    assert spent.progress(2) == 1.0
    assert budget().progress(0) == 0.0


def test_memory_does_not_grow_with_the_run():
    spent = budget(2, max_seconds=1e9)
    sizes = []
    for batch in range(50):
        spent.used_up(batch)
        spend(spent, batch)
        sizes.append(len(spent._spent))
    assert max(sizes) == sizes[-1] <= 4
