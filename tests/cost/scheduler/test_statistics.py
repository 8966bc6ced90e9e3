"""What is learned from batches: plugs, prices of seconds, the exponents of the proxy."""

import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from cost.draws.allocators.uniform import Uniform
from cost.prices.seconds import SecondsPrice
from cost.thinning.thinning import CostAware
from cost.types import BatchSpending, Feedback
from tests.cost.play import select
from tests.cost.scheduler.playing import Pilots, Player, play


@dataclass(frozen=True, slots=True)
class Updates:
    """State of a plug that remembers the tickets of every update, and every spending."""

    tickets: tuple[tuple[int, ...], ...] = ()
    spendings: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class RememberingPrice:
    """Costs nothing special; remembers what it was told."""

    def initial_state(self, prompts):
        return Updates()

    def update(self, state, prompts, visits):
        seen = tuple(visit.report.ticket_id for visit in visits)
        return replace(state, tickets=(*state.tickets, seen))

    def update_spending(self, state, spending):
        assert isinstance(spending, BatchSpending)
        # Spending comes after the update of the same batch.
        assert len(state.tickets) == len(state.spendings) + 1
        return replace(state, spendings=(*state.spendings, spending.engine_seconds))

    def metrics(self, state):
        return {}

    def of_drawing(self, prompt_tokens, lengths, group_size, *, state):
        return np.ones(len(lengths))

    def of_training(self, prompt_tokens, lengths, *, state):
        return np.ones(len(lengths))


def price_state(scheduler) -> dict[str, Any]:
    return scheduler.state_dict()["statistics"]["plugs"]["price"]


@pytest.mark.parametrize("lag", [0, 1, 3])
@pytest.mark.parametrize("allocator", [Uniform(), Pilots()], ids=repr)
def test_plugs_learn_one_batch_at_a_time(make_scheduler, make_report, lag, allocator):
    """Pilots included, in ticket order, and with what the batch took of the machines."""
    scheduler = make_scheduler(price=RememberingPrice(), allocator=allocator, max_staleness=3)
    player = Player(scheduler, make_report, lag=lag).play(5)
    size = len(player.tickets) // 5
    scheduler.draw(5, 5)
    state = price_state(scheduler)
    assert state["tickets"] == tuple(tuple(range(b * size, (b + 1) * size)) for b in range(5))
    assert state["spendings"] == (2.0, 3.0, 4.0, 5.0, 6.0)


def test_a_fold_of_many_batches_is_that_of_one_after_the_other(make_scheduler, make_report):
    one, many = (make_scheduler(price=RememberingPrice()) for _ in range(2))
    for batch in range(4):
        for scheduler in (one, many):
            for ticket in scheduler.draw(batch, 0).tickets:
                scheduler.observe(make_report(ticket))
    for scheduler in (one, many):
        for batch in (2, 0, 1):  # told in any order
            scheduler.learned(batch, Feedback(float(batch), 1.0))
    with pytest.raises(ValueError, match="batch must be complete and not folded yet, got 4"):
        one.learned(4, Feedback(1.0, 1.0))
    one.draw(4, 1)
    with pytest.raises(ValueError, match="batch must be complete and not folded yet, got 0"):
        one.learned(0, Feedback(1.0, 1.0))
    for scheduler, folds in ((one, (2, 3)), (many, (3, 3))):
        for folded_batches in folds:
            batch = scheduler.state_dict()["drawing"]["batches"]["batch"] + 1
            scheduler.draw(batch, folded_batches)
    for scheduler in (one, many):
        state = price_state(scheduler)
        assert [len(seen) for seen in state["tickets"]] == [8, 8, 8]
        assert state["spendings"] == (0.0, 1.0, 2.0)
    np.testing.assert_array_equal(one.distribution().lengths, many.distribution().lengths)


def test_a_batch_whose_seconds_were_never_told_teaches_no_price(make_scheduler, make_report):
    scheduler = make_scheduler(price=RememberingPrice())
    reports = [make_report(ticket) for ticket in scheduler.draw(0, 0).tickets]
    select(scheduler, 0, reports)
    for seconds in ((-1.0, 0.0), (0.0, float("nan"))):
        with pytest.raises(ValueError, match=r"seconds must be finite and not negative, got"):
            scheduler.learned(0, Feedback(*seconds))
    scheduler.draw(1, 1)
    assert price_state(scheduler)["spendings"] == ()
    metrics = scheduler.metrics()
    assert metrics["cost/engine_seconds"] == metrics["cost/learner_seconds"] == 0


def test_spent_seconds_reach_the_ledger(make_scheduler, make_report):
    scheduler = make_scheduler()
    play(scheduler, make_report, 3)
    metrics = scheduler.metrics()
    assert metrics["cost/engine_seconds"] == 2 + 3 + 4 and metrics["cost/learner_seconds"] == 3


def test_what_scoring_takes_is_paid_for_and_teaches_no_price(make_scheduler, make_report):
    one, other = (make_scheduler(price=SecondsPrice(skip_batches=0)) for _ in range(2))
    for scheduler, scored in ((one, 0.0), (other, 100.0)):
        for batch in range(2):
            reports = [make_report(ticket) for ticket in scheduler.draw(batch, batch).tickets]
            select(scheduler, batch, reports)
            scheduler.learned(batch, Feedback(3.0, 2.0, score_seconds=scored))
        scheduler.draw(2, 2)
    paid = [scheduler.metrics() for scheduler in (one, other)]
    assert [found["cost/learner_seconds"] for found in paid] == [4.0, 204.0]
    assert [found["cost/score_seconds"] for found in paid] == [0.0, 200.0]
    fitted = [{k: v for k, v in found.items() if "cost/price_" in k} for found in paid]
    assert fitted[0] == fitted[1] and "cost/price_update_seconds_per_token" in fitted[0]


def kept_after_calibration(scheduler, make_report, num_batches, batch=0):
    """Play batches whose gradient norms follow the length and not the surprise."""
    kept = []
    for number in range(batch, batch + num_batches):
        reports = [make_report(ticket) for ticket in scheduler.draw(number, 0).tickets]
        selections = select(scheduler, number, reports)
        kept.append(np.concatenate([selection.keep for selection in selections]).tolist())
        norms = [1.0 * report.lengths for report in reports]
        scheduler.learned(number, Feedback(1.0, 1.0, gradient_norms=norms))
    return kept


def test_calibration_moves_the_scores_of_later_batches_if_so_configured(
    make_scheduler, make_report
):
    changes = {"thinning": CostAware(budget=0.5), "calibrate_every": 1, "allocator": Uniform()}
    plain, moved = make_scheduler(**changes), make_scheduler(**changes, calibrated_proxy=True)
    before, after = (kept_after_calibration(one, make_report, 3) for one in (plain, moved))
    assert before[0] == after[0] and before[1] != after[1] and before[2] != after[2]
    resumed = make_scheduler(**changes, calibrated_proxy=True)
    resumed.load_state_dict(copy.deepcopy(moved.state_dict()))
    expected = kept_after_calibration(moved, make_report, 2, batch=3)
    assert kept_after_calibration(resumed, make_report, 2, batch=3) == expected


def test_a_run_that_goes_on_knows_what_was_selected_last(make_scheduler, make_report):
    """Gradient norms come after the selection that they are of."""
    changes = {"calibrate_every": 1, "calibrated_proxy": True, "allocator": Uniform()}
    scheduler, resumed = make_scheduler(**changes), make_scheduler(**changes)
    reports = [make_report(ticket) for ticket in scheduler.draw(0, 0).tickets]
    select(scheduler, 0, reports)
    resumed.load_state_dict(copy.deepcopy(scheduler.state_dict()))
    found = []
    for one in (scheduler, resumed):
        before = copy.deepcopy(one.state_dict()["statistics"]["plugs"])
        norms = [1.0 * report.lengths for report in reports]
        one.learned(0, Feedback(1.0, 1.0, gradient_norms=norms))
        found.append(one.state_dict()["statistics"]["plugs"])
    np.testing.assert_equal(found[0], found[1])
    assert str(found[1]) != str(before)
