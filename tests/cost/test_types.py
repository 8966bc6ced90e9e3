import numpy as np
import pytest

from cost.advantages.types import group_batch
from cost.advantages.within_group import GroupStandardised
from cost.aggregations import SequenceMean
from cost.scheduler.reports import checked
from cost.types import BatchSpending, Draw, LengthReport, Selection, Ticket
from tests.examples import example

NUM_PROMPTS, KEEP_PROBABILITY = 128, 0.8


def test_examples_of_tickets_and_draw_agree():
    ticket, draw = example(Ticket), example(Draw)
    assert draw.tickets[1] == ticket
    assert draw.members == tuple(ticket.ticket_id for ticket in draw.tickets)
    for ticket in draw.tickets:
        assert ticket.weight == pytest.approx(1 / (NUM_PROMPTS * ticket.probability))


def test_example_of_a_report_is_one_that_the_scheduler_believes():
    report = example(LengthReport)
    believed = checked(report, example(Ticket))
    # Parts of rewards are for people.
    for name in {*LengthReport.__dataclass_fields__} - {"reward_components"}:
        np.testing.assert_array_equal(getattr(believed, name), getattr(report, name))


def test_example_of_a_selection_follows_from_the_report():
    ticket, report, selection = example(Ticket), example(LengthReport), example(Selection)
    groups = group_batch([report], ticket.max_tokens)
    (factors,) = SequenceMean().factors([report.lengths], [groups.usable], 1.0)
    assert selection.ticket_id == report.ticket_id
    assert selection.advantages == pytest.approx(GroupStandardised().advantages(groups), abs=1e-9)
    assert selection.factors == pytest.approx(factors)
    assert selection.weight == pytest.approx(selection.keep * ticket.weight / KEEP_PROBABILITY)


def test_example_of_a_spending_counts_at_least_the_report():
    spending, report, selection = example(BatchSpending), example(LengthReport), example(Selection)
    assert spending.response_tokens >= report.lengths.sum()
    assert spending.prefill_tokens >= report.prefill_tokens
    kept = selection.keep
    assert spending.trained_responses == kept.sum()
    assert spending.trained_prompt_tokens == report.prompt_tokens * kept.sum()
    assert spending.trained_response_tokens == report.lengths[kept].sum()
