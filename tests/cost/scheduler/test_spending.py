import json

import numpy as np
import pytest

from cost.scheduler.spending import Spendings
from cost.types import BatchSpending, Selection, Ticket


def selection(keep):
    keep = np.array(keep, dtype=bool)
    return Selection(0, keep, keep * 1.0, np.zeros(len(keep)), np.ones(len(keep)))


@pytest.fixture
def reports(make_report, empty_report):
    """Two members, and a group that was drawn and not learned; an empty one beside them."""
    tickets = [Ticket(key, key, 3, 0.5, 1.0, 128) for key in range(4)]
    numbers = [(10, 10, [5, 6, 7]), (20, 4, [1, 2, 3]), (30, 30, [9, 9, 9])]
    return [
        make_report(ticket, prompt_tokens=prompt, prefill_tokens=prefill, lengths=np.array(lengths))
        for ticket, (prompt, prefill, lengths) in zip(tickets, numbers, strict=False)
    ] + [empty_report(tickets[3])]


def test_counts_what_was_generated_and_every_pass_over_what_was_kept(reports):
    spendings = Spendings()
    members = reports[:2]
    spendings.trained(4, members, [selection([1, 0, 1]), selection([0, 0, 0])])
    spendings.trained(4, members, [selection([0, 1, 0]), selection([1, 1, 0])])
    spending = spendings.enter(4, reports, engine_seconds=2.5, learner_seconds=1.5)
    assert spending == BatchSpending(
        responses=9, prefill_tokens=44, response_tokens=18 + 6 + 27, engine_seconds=2.5,
        trained_responses=5, trained_prompt_tokens=3 * 10 + 2 * 20,
        trained_response_tokens=5 + 7 + 6 + 1 + 2, learner_seconds=1.5,
    )  # fmt: skip
    assert spendings.take(4) == spending
    assert spendings.take(4) is None


def test_a_batch_nothing_was_trained_on(reports):
    spendings = Spendings()
    assert spendings.enter(0, [], 0.0, 0.0) == BatchSpending(0, 0, 0, 0.0, 0, 0, 0, 0.0)
    assert spendings.enter(1, reports, 1.0, 0.0).trained_responses == 0


def test_batches_are_kept_apart(reports):
    spendings = Spendings()
    for batch in (0, 1):
        spendings.trained(batch, reports[:1], [selection([1] * (batch + 1) + [0] * (2 - batch))])
    assert spendings.enter(1, reports[:1], 1.0, 1.0).trained_responses == 2
    assert spendings.enter(0, reports[:1], 1.0, 1.0).trained_responses == 1


def test_a_batch_whose_seconds_were_never_told_is_forgotten(reports):
    spendings = Spendings()
    spendings.trained(0, reports[:1], [selection([1, 1, 1])])
    assert spendings.take(0) is None
    assert spendings.state_dict() == {"trained": {}, "entered": {}}


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["engine_seconds", "learner_seconds", "score_seconds"])
def test_refuses_seconds_that_cannot_be_true(name, value):
    seconds = {"engine_seconds": 1.0, "learner_seconds": 1.0} | {name: value}
    spendings = Spendings()
    with pytest.raises(ValueError, match=rf"^{name} must be finite and not negative, got {value}"):
        spendings.enter(0, [], **seconds)
    assert spendings.take(0) is None


def test_round_trip(reports):
    spendings, other = Spendings(), Spendings()
    spendings.trained(2, reports[:1], [selection([1, 1, 0])])
    entered = spendings.enter(1, reports, 2.0, 3.0, 0.5)
    assert entered.score_seconds == 0.5
    other.load_state_dict(json.loads(json.dumps(spendings.state_dict())))
    assert other.take(1) == entered
    assert other.enter(2, reports, 1.0, 1.0) == spendings.enter(2, reports, 1.0, 1.0)
