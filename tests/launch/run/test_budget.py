"""What was spent, and when it is enough."""

import json
import math

import numpy as np
import pytest

from cost.prices.compute import METRICS
from cost.types import LengthReport
from launch.run.budget import Budget, Spent
from launch.run.compute import Flops
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


def spend(spent, batch, tokens=100, trained=10, seconds=1.0, pilots=frozenset(), **flops):
    took = Spent.on(
        [report(batch, tokens)], pilots, trained_tokens=trained, flops=Flops(**flops),
        seconds=seconds,
    )  # fmt: skip
    return spent.spend(batch, took)


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


def test_flops_bound_a_run_as_tokens_do():
    spent = budget(1, max_compute_flops=350.0)
    spend(spent, 0, generate=100.0, learn=200.0, score=40.0, probe=5.0, pilot=100.0)
    assert spent.progress(1) == 345 / 350
    # The next is expected to take 245: pilots do not come again.
    assert spent.used_up(2)
    other = budget(1, max_compute_flops=650.0)
    spend(other, 0, generate=100.0, learn=200.0, score=40.0, probe=5.0, pilot=100.0)
    assert not other.used_up(2)


def test_flops_so_far_are_metrics_and_go_into_a_checkpoint():
    spent = budget(compute=object())
    spend(spent, 0, generate=1.0, learn=2.0)
    found = spend(spent, 1, generate=3.0, probe=0.5, score=0.25)
    assert found == {
        "cost/compute_flops": 6.75, "cost/generate_flops": 4.0, "cost/learn_flops": 2.0,
        "cost/score_flops": 0.25, "cost/probe_flops": 0.5,
    }  # fmt: skip
    assert found.keys() == METRICS.keys()
    again = budget(compute=object())
    again.load_state_dict(json.loads(json.dumps(spent.state_dict())))
    assert again._spent == spent._spent
    assert spend(budget(), 0, learn=2.0) == {}


def test_the_first_evaluation_that_reaches_the_target_ends_it():
    spent = budget(target=0.5)
    for pass_rate in (-math.inf, 0.1, math.nan, 0.4):
        spent.evaluated({"evaluation/pass_rate": pass_rate})
        assert not spent.used_up(0)
    spent.evaluated({"evaluation/pass_rate": 0.6})
    spent.evaluated({"evaluation/pass_rate": 0.2})
    assert spent.used_up(0)
    other = budget()
    other.evaluated({"evaluation/pass_rate": 1.0})
    assert not other.used_up(0) and other.reached == -math.inf
