from itertools import permutations

import pytest

from cost.scheduler.ticket_book import Recorded, TicketBook
from cost.types import Ticket


@pytest.fixture
def book():
    book = TicketBook()
    book.issue(Ticket(k, k % 3, 4, 0.25, 1.0, 128, trainable=k != 5) for k in range(6))
    return book


def test_reports_are_taken_in_ticket_order_once(book, make_report):
    for key in (2, 0, 1, 4):
        assert book.record(make_report(book.ticket(key))).counts is not None
    assert [report.ticket_id for _, report in book.take(3)] == [0, 1, 2]
    assert book.take(3) == []
    assert book.missing(6) == [3, 5]
    with pytest.raises(ValueError, match=r"folded_until .* got 6 while 2 are missing: \[3, 5\]"):
        book.take(6)
    assert book.taken_until == 3


def test_reports_are_read_until_their_tickets_are_released(book, make_report):
    for key in (3, 2, 4, 0, 1):
        book.record(make_report(book.ticket(key)))
    assert [report.ticket_id for report in book.reports([4, 2])] == [4, 2]
    book.take(3)
    assert [report.ticket_id for report in book.reports(range(3))] == [0, 1, 2]
    assert book.reports([]) == []
    assert book.missing(6, 2) == [5] == book.missing(6)
    assert book.missing(2, 3) == []
    book.release(2)
    with pytest.raises(ValueError, match=r"must all have been reported, 2 are missing: \[1, 5\]"):
        book.reports([1, 2, 5])


def test_the_same_attempt_counts_once(book, make_report):
    """Whatever a resent report says: the responses that it is of are the same."""
    report = make_report(book.ticket(0))
    assert book.record(report).counts.lengths.tolist() == report.lengths.tolist()
    for again in (report, make_report(book.ticket(0), engine_seconds=1.5)):
        assert book.record(again) == Recorded()
    assert book.reports([0])[0].engine_seconds == 1.0


@pytest.mark.parametrize("order", list(permutations(range(3))), ids=str)
def test_the_newest_attempt_counts_in_whatever_order_they_report(book, make_report, order):
    reports = [make_report(book.ticket(0), seed=k, attempt=k) for k in range(3)]
    newest = -1
    for attempt in order:
        found = book.record(reports[attempt])
        if attempt > newest:
            assert found.counts.attempt == attempt and found.lost is None
            assert (found.replaced is None) == (newest == -1)
            assert found.replaced is None or found.replaced.attempt == newest
            newest = attempt
        else:
            assert found.lost.attempt == attempt
            assert found.counts is found.replaced is None
        assert book.reports([0])[0].attempt == newest
        assert book.awaited([0], [newest]) == [] and book.awaited([0], [newest + 1]) == [0]


def test_what_was_learned_from_stays(book, make_report):
    for key in range(2):
        book.record(make_report(book.ticket(key)))
    book.take(1)
    late = make_report(book.ticket(0), attempt=1)
    assert book.record(late).lost.attempt == 1
    assert book.reports([0])[0].attempt == 0
    book.release(1)
    assert book.record(late) == Recorded(lost=late)
    with pytest.raises(ValueError, match=r"ticket_id must name a ticket in \[1, 6\), got 0"):
        book.ticket(0)


def test_unknown_tickets(book, make_report):
    with pytest.raises(ValueError, match=r"ticket_id must name a ticket in \[0, 6\), got 6"):
        book.record(make_report(Ticket(6, 0, 4, 0.25, 1.0, 128)))
    with pytest.raises(
        ValueError, match="folded_until must be at most 6, the tickets drawn, got 7"
    ):
        book.take(7)


def test_tickets_not_taken_are_not_released(book, make_report):
    book.record(make_report(book.ticket(0)))
    book.take(1)
    book.release(6)
    assert book.released_until == 1
    assert book.ticket(1).ticket_id == 1


def test_reopened_tickets_take_new_attempts_alone(book, make_report):
    for key in range(5):
        book.record(make_report(book.ticket(key), attempt=2 if key == 4 else 0))
    book.take(2)
    lost = book.reopen([3, 4, 5])
    assert [book.ticket(key).attempt for key in (3, 4, 5)] == [1, 3, 1]
    assert [(ticket.ticket_id, report.attempt) for ticket, report in lost] == [(3, 0), (4, 2)]
    assert book.missing(6) == [3, 4, 5]
    assert book.record(make_report(book.ticket(4), attempt=3)).counts is not None
    with pytest.raises(ValueError, match=r"ticket_ids must be at least 2, .* got 1"):
        book.reopen([1])


def test_round_trip(book, make_report):
    for key in (0, 1, 3):
        book.record(make_report(book.ticket(key)))
    book.take(1)
    book.release(1)
    other = TicketBook()
    other.load_state_dict(book.state_dict())
    assert [other.ticket(key) for key in range(1, 6)] == [book.ticket(key) for key in range(1, 6)]
    assert not other.ticket(5).trainable and other.ticket(4).trainable is True
    assert other.record(make_report(book.ticket(3))) == Recorded()
    assert other.missing(6) == [2, 4, 5]
    assert (other.next_ticket_id, other.taken_until, other.released_until) == (6, 1, 1)
    empty = TicketBook()
    empty.load_state_dict(TicketBook().state_dict())
    assert empty.next_ticket_id == 0


def test_plain_tickets_are_counted_as_if_there_were_no_others(make_report):
    book = TicketBook()
    exploring = [False, False, True, False, False, True, True, False]
    book.issue(
        Ticket(k, 0, 4, 0.25, 1.0, 128, temperature_factor=1.2 if explores else 1.0)
        for k, explores in enumerate(exploring)
    )

    def counted():
        return [book.plain_before(k) for k in range(book.released_until, 9)]

    expected = [0, 1, 2, 2, 3, 4, 4, 4, 5]
    assert counted() == expected
    for key in range(6):
        book.record(make_report(book.ticket(key)))
    book.take(6)
    book.release(4)
    assert counted() == expected[4:]
    other = TicketBook()
    other.load_state_dict(book.state_dict())
    assert [other.plain_before(k) for k in range(4, 9)] == expected[4:]
    assert [other.ticket(k).exploring for k in range(4, 8)] == exploring[4:]
