from dataclasses import replace

import numpy as np
import pytest

from cost.ledger import METRICS, Ledger, weight_metrics
from cost.types import BatchSpending, Selection, Ticket

TICKET = Ticket(
    ticket_id=0, prompt_index=0, num_samples=4, probability=0.5, weight=1.0, max_tokens=128
)

PILOT = replace(TICKET, trainable=False)


def selection(keep, weight):
    keep = np.array(keep)
    return Selection(0, keep, np.array(weight, float), np.zeros(len(keep)), np.ones(len(keep)))


@pytest.fixture
def report(make_report):
    return make_report(
        TICKET, prompt_tokens=10, prefill_tokens=10, lengths=np.array([5, 6, 7, 128]),
        truncated=np.array([False, False, False, True]), status=np.array([0, 2, 1, 0]),
        rewards=np.array([1.0, np.nan, np.nan, 0.0]),
    )  # fmt: skip


def test_counts_with_and_without_the_prompt(report, empty_report):
    ledger = Ledger().with_report(report, TICKET).with_report(empty_report(TICKET), TICKET)
    chosen = selection([False, False, False, True], [0, 0, 0, 2.0])
    nothing = selection(np.zeros(0, bool), [])
    ledger = ledger.with_selection([report, empty_report(TICKET)], [chosen, nothing])
    assert ledger == Ledger(
        tickets=2, failed_tickets=1, responses=4, truncated_responses=1, timed_out_rewards=1,
        crashed_rewards=1, generated_tokens=156, generated_response_tokens=146,
        selectable_responses=2, selectable_tokens=153, selectable_response_tokens=133,
        trained_responses=1, trained_tokens=138, trained_response_tokens=128,
        uniform_generated_tokens_estimated=156.0, uniform_trained_tokens_estimated=138.0, turns=4,
    )  # fmt: skip
    assert ledger.metrics()["cost/trained_share"] == pytest.approx(138 / 153)


def test_rewards_left_out_are_counted_by_reason(make_report):
    report = make_report(TICKET, status=np.array([3, 4, 1, 2]), rewards=np.full(4, np.nan))
    ledger = Ledger().with_report(report, TICKET)
    counts = (ledger.truncated_rewards, ledger.timed_out_rewards, ledger.crashed_rewards)
    assert counts == (2, 1, 1)


def test_pilots_are_counted_beside_the_rest(report):
    ledger = Ledger().with_report(report, TICKET).with_report(report, PILOT)
    assert (ledger.tickets, ledger.responses, ledger.generated_tokens) == (2, 8, 312)
    assert (ledger.pilot_tickets, ledger.pilot_tokens) == (1, 156)
    assert ledger.filtered_tickets == ledger.filtered_tokens == 0


def test_filtered_tickets_were_reported_before(report, empty_report):
    ledger = Ledger().with_report(report, TICKET).with_filtered([report, empty_report(TICKET)])
    assert (ledger.filtered_tickets, ledger.filtered_tokens) == (2, 156)
    assert (ledger.tickets, ledger.generated_tokens, ledger.pilot_tickets) == (1, 156, 0)
    assert ledger.with_filtered([]) == ledger


@pytest.mark.parametrize("ticket", [TICKET, PILOT, replace(TICKET, temperature_factor=1.2)])
def test_a_lost_attempt_keeps_nothing_but_its_tokens(report, make_report, ticket):
    """The engines did compute them; of all else the newer attempt's alone counts."""
    newer = make_report(ticket, attempt=1, seed=4)
    ledger = Ledger().with_report(report, ticket).without_reports([(ticket, report)])
    assert ledger == Ledger(
        lost_attempts=1, wasted_tokens=156, generated_tokens=156, generated_response_tokens=146
    )
    assert ledger == Ledger().with_lost(report)
    both, alone = ledger.with_report(newer, ticket), Ledger().with_report(newer, ticket)
    assert both == replace(
        alone,
        lost_attempts=1,
        wasted_tokens=156,
        generated_tokens=alone.generated_tokens + 156,
        generated_response_tokens=alone.generated_response_tokens + 146,
    )


def test_seconds_add_up():
    spending = BatchSpending(1, 2, 3, 4.5, 5, 6, 7, 8.5)
    ledger = Ledger().with_spending(spending).with_spending(spending)
    assert ledger == Ledger(engine_seconds=9.0, learner_seconds=17.0)
    scored = Ledger().with_spending(replace(spending, score_seconds=2.5))
    assert scored == Ledger(engine_seconds=4.5, learner_seconds=11.0, score_seconds=2.5)
    assert scored.metrics()["cost/score_seconds"] == 2.5
    assert scored.metrics(3600.0)["cost/spent_currency"] == pytest.approx(4.5 + 8.5 + 2.5)


def test_round_trip(report):
    ledger = Ledger().with_report(report, PILOT).with_filtered([report])
    assert Ledger(**ledger.state_dict()) == ledger


def test_weight_metrics():
    chosen = selection([True, True, False, True], [1.0, 1.0, 0.0, 4.0])
    metrics = weight_metrics([chosen, selection(np.zeros(0, bool), [])])
    assert metrics == {"cost/weight_ess_share": pytest.approx(36 / 18 / 3), "cost/weight_max": 4.0}
    assert weight_metrics([]) == {"cost/weight_ess_share": 1.0, "cost/weight_max": 0.0}


def test_the_same_again_doubles_every_counter(report):
    chosen = [selection([False, False, False, True], [0, 0, 0, 2.0])]
    once = Ledger().with_report(report, TICKET).with_selection([report], chosen)
    twice = once.with_report(report, TICKET).with_selection([report], chosen)
    assert twice.state_dict() == {name: 2 * count for name, count in once.state_dict().items()}


def test_what_uniform_sampling_would_have_cost(report):
    """Generation counts once a batch, training once a pass; each by its own saving."""
    chosen = [selection([False, False, False, True], [0, 0, 0, 2.0])]
    ledger = Ledger().with_selection([report], chosen, draw_saving=0.25, thinning_saving=0.5)
    assert ledger.uniform_generated_tokens_estimated == pytest.approx(156 / 0.75)
    assert ledger.uniform_trained_tokens_estimated == pytest.approx(138 / 0.5)
    ledger = ledger.with_selection(
        [report], chosen, first_pass=False, draw_saving=0.9, thinning_saving=-1.0
    )
    assert ledger.uniform_generated_tokens_estimated == pytest.approx(156 / 0.75)
    assert ledger.uniform_trained_tokens_estimated == pytest.approx(138 / 0.5 + 138 / 2)


def test_seconds_become_money_if_an_hour_has_a_price():
    spending = BatchSpending(
        responses=1, prefill_tokens=1, response_tokens=1, engine_seconds=1800.0,
        trained_responses=1, trained_prompt_tokens=1, trained_response_tokens=1,
        learner_seconds=5400.0,
    )  # fmt: skip
    ledger = Ledger().with_spending(spending).with_spending(spending)
    assert ledger.metrics(2.5)["cost/spent_currency"] == pytest.approx(10.0)
    assert ledger.metrics()["cost/engine_seconds"] == 3600.0
    assert "cost/spent_currency" not in ledger.metrics()


def test_every_counter_is_described():
    assert set(Ledger().metrics(1.0)) <= set(METRICS)
