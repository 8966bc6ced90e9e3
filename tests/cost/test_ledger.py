import numpy as np
import pytest

from cost.ledger import METRICS, Ledger, weight_metrics
from cost.types import Selection, Ticket

TICKET = Ticket(
    ticket_id=0, prompt_index=0, num_samples=4, probability=0.5, weight=1.0, max_tokens=128
)


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
    ledger = Ledger().with_report(report).with_report(empty_report(TICKET))
    chosen = selection([False, False, False, True], [0, 0, 0, 2.0])
    nothing = selection(np.zeros(0, bool), [])
    ledger = ledger.with_selection([report, empty_report(TICKET)], [chosen, nothing])
    assert ledger == Ledger(
        tickets=2, failed_tickets=1, responses=4, truncated_responses=1, timed_out_rewards=1,
        crashed_rewards=1, generated_tokens=156, generated_response_tokens=146,
        selectable_responses=2, selectable_tokens=153, selectable_response_tokens=133,
        trained_responses=1, trained_tokens=138, trained_response_tokens=128,
    )  # fmt: skip
    assert ledger.metrics()["cost/trained_share"] == pytest.approx(138 / 153)


def test_weight_metrics():
    chosen = selection([True, True, False, True], [1.0, 1.0, 0.0, 4.0])
    metrics = weight_metrics([chosen, selection(np.zeros(0, bool), [])])
    assert metrics == {"cost/weight_ess_share": pytest.approx(36 / 18 / 3), "cost/weight_max": 4.0}
    assert weight_metrics([])["cost/weight_max"] == 0.0


def test_every_counter_is_described():
    assert set(Ledger().metrics()) <= set(METRICS)
