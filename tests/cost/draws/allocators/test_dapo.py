"""Dynamic sampling: P mixed groups in draw order, an end in any case, honest counts."""

from dataclasses import replace

import numpy as np
import pytest

from cost.draws.allocators.dapo import DynamicSampling
from cost.draws.allocators.filtering import mixed
from cost.draws.allocators.types import BatchSoFar, Complete, Estimates, Snapshot
from cost.draws.draws import IndependentDraws
from cost.types import LengthReport, Ticket
from tests.cost.play import select

MIXED, EQUAL = [1.0, 0.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0]


@pytest.fixture
def report_when(make_report):
    """Build reports that are mixed where the condition on the ticket holds, else equal."""

    def build(condition, version=lambda ticket: 0):
        def report(ticket):
            rewards = MIXED if condition(ticket) else EQUAL
            return make_report(ticket, rewards=np.array(rewards), version=version(ticket))

        return report

    return build


@pytest.fixture
def play_stale():
    """Play batches drawn `lag` versions before they are learned; return members of each."""

    def play(scheduler, make_report, num_batches, lag):
        reports, members, rounds = {}, [], []
        for batch in range(num_batches):
            drawn = None
            while drawn is None or drawn.members is None:
                drawn = scheduler.draw(batch, max(0, batch - lag))
                rounds.append((batch, len(drawn.tickets)))
                for ticket in drawn.tickets:
                    reports[ticket.ticket_id] = make_report(ticket)
                    scheduler.observe(reports[ticket.ticket_id])
            members.append(drawn.members)
            select(scheduler, batch, [reports[key] for key in drawn.members])
        return reports, members, rounds

    return play


@pytest.mark.parametrize(
    ("rewards", "status", "expected"),
    [
        (MIXED, [0, 0, 0, 0], True),
        (EQUAL, [0, 0, 0, 0], False),
        ([0.5, 0.5, 0.5, 0.5], [0, 0, 0, 0], False),
        ([1, 1, np.nan, 1], [0, 0, 2, 0], False),
        ([1, 0, np.nan, 1], [0, 0, 1, 0], True),
        ([1, np.nan, np.nan, np.nan], [0, 1, 1, 2], False),
        ([np.nan] * 4, [2, 2, 2, 2], False),
    ],
)
def test_mixed_looks_at_usable_rewards_only(make_report, rewards, status, expected):
    report = make_report(Ticket(0, 0, 4, 1.0, 1.0, 9))
    changed = replace(report, rewards=np.array(rewards, float), status=np.array(status))
    assert mixed(changed) is expected


def test_a_failed_group_is_not_mixed(empty_report):
    assert mixed(empty_report(Ticket(0, 0, 4, 1.0, 1.0, 9))) is False


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("max_rounds", 0, r"allocator\.max_rounds must be at least 1, got 0"),
        ("oversample", 0.9, r"allocator\.oversample must be at least 1, got 0\.9"),
        ("oversample", np.inf, r"allocator\.oversample must be finite"),
        ("oversample", np.nan, r"allocator\.oversample must be finite"),
    ],
)
def test_settings_out_of_range_are_refused(setting, value, message):
    with pytest.raises(ValueError, match=message):
        DynamicSampling(**{setting: value})


def test_batches_are_the_first_mixed_groups_in_draw_order(make_scheduler, run_batches, report_when):
    """A third of the prompts is undecided; each refill asks for what is missing, times 1.5."""
    allocator = DynamicSampling(oversample=1.5, max_rounds=40)
    scheduler = make_scheduler(allocator=allocator, tickets_per_step=6)
    undecided = lambda ticket: ticket.prompt_index % 3 == 0  # noqa: E731
    played = run_batches(scheduler, report_when(undecided), 5)
    for batch in played:
        passed = [ticket for ticket in batch.tickets if undecided(ticket)]
        assert batch.members == passed[:6]
        accepted = 0
        for drawn in batch.rounds[:-1]:
            assert drawn.members is None
            assert len(drawn.tickets) == int(np.ceil(1.5 * (6 - accepted)))
            accepted += sum(map(undecided, drawn.tickets))
        assert accepted >= 6 and batch.rounds[-1].tickets == []
        assert all(ticket.weight == 1 and ticket.trainable for ticket in batch.tickets)
    ids = [ticket.ticket_id for batch in played for ticket in batch.tickets]
    assert ids == list(range(len(ids)))
    # Each pass over the 20 prompts meets each once.
    order = [ticket.prompt_index for batch in played for ticket in batch.tickets]
    assert sorted(order[:20]) == list(range(20))


def test_order_of_reports_does_not_matter(make_scheduler, report_when):
    runs = []
    for order in (list, reversed):
        scheduler = make_scheduler(allocator=DynamicSampling(), tickets_per_step=4)
        members = []
        for batch in range(4):
            reports, drawn = {}, None
            while drawn is None or drawn.members is None:
                drawn = scheduler.draw(batch, batch)
                for ticket in order(drawn.tickets):
                    reports[ticket.ticket_id] = report_when(lambda t: t.prompt_index % 2)(ticket)
                    scheduler.observe(reports[ticket.ticket_id])
            select(scheduler, batch, [reports[key] for key in drawn.members])
            members.append(drawn.members)
        runs.append(members)
    assert runs[0] == runs[1]


@pytest.mark.parametrize("num_prompts", [1, 20])
def test_equal_rewards_forever_end_in_empty_batches(
    make_scheduler, run_batches, report_when, num_prompts
):
    allocator = DynamicSampling(oversample=1.0, max_rounds=3)
    scheduler = make_scheduler(num_prompts, allocator=allocator, tickets_per_step=4)
    played = run_batches(scheduler, report_when(lambda ticket: False), 2)
    for batch in played:
        assert [len(drawn.tickets) for drawn in batch.rounds] == [4, 4, 4, 0]
        assert batch.members == [] and batch.selections == []
    metrics = scheduler.metrics()
    tokens = sum(r.generated_tokens for batch in played for r in batch.reports.values())
    assert metrics["cost/filtered_tickets"] == metrics["cost/tickets"] == 24
    assert metrics["cost/filtered_tokens"] == metrics["cost/generated_tokens"] == tokens
    assert metrics["cost/trained_responses"] == metrics["cost/pilot_tickets"] == 0


def test_too_few_groups_are_learned_after_the_last_round(make_scheduler, run_batches, report_when):
    allocator = DynamicSampling(oversample=1.0, max_rounds=2)
    scheduler = make_scheduler(allocator=allocator, tickets_per_step=10)
    (batch,) = run_batches(scheduler, report_when(lambda t: t.ticket_id in (3, 7, 13)), 1)
    assert [ticket.ticket_id for ticket in batch.members] == [3, 7, 13]
    assert [len(drawn.tickets) for drawn in batch.rounds] == [10, 8, 0]


def test_failed_groups_are_replaced_and_counted(
    make_scheduler, run_batches, make_report, empty_report
):
    scheduler = make_scheduler(allocator=DynamicSampling(), tickets_per_step=4)

    def report(ticket: Ticket) -> LengthReport:
        if ticket.ticket_id % 2:
            return empty_report(ticket)
        return make_report(ticket, rewards=np.array(MIXED))

    played = run_batches(scheduler, report, 3)
    assert all(len(batch.members) == 4 for batch in played)
    assert all(t.ticket_id % 2 == 0 for batch in played for t in batch.members)
    metrics = scheduler.metrics()
    assert metrics["cost/tickets"] == metrics["cost/filtered_tickets"] + 12


def test_carried_groups_are_used_first(make_scheduler, play_stale, report_when):
    """All groups pass: 12 tickets make two batches of 4 and 4 of the third."""
    scheduler = make_scheduler(
        allocator=DynamicSampling(oversample=3.0), tickets_per_step=4, max_staleness=2
    )
    report = report_when(lambda t: True, version=lambda t: 3 * (t.ticket_id // 12))
    _, members, rounds = play_stale(scheduler, report, 4, lag=2)
    assert members == [tuple(range(start, start + 4)) for start in (0, 4, 8, 12)]
    assert rounds == [(0, 12), (0, 0), (1, 0), (2, 0), (3, 12), (3, 0)]
    assert scheduler.metrics()["cost/filtered_tickets"] == 0


def test_carried_groups_that_grow_too_stale_are_filtered(make_scheduler, play_stale, report_when):
    """Of the 12 groups of version 0, batches 0 and 1 learn 8; batch 2 would be 2 versions on."""
    scheduler = make_scheduler(
        allocator=DynamicSampling(oversample=3.0), tickets_per_step=4, max_staleness=1
    )
    report = report_when(lambda t: True, version=lambda t: 2 * (t.ticket_id // 12))
    reports, members, rounds = play_stale(scheduler, report, 3, lag=1)
    assert members == [tuple(range(start, start + 4)) for start in (0, 4, 12)]
    assert rounds == [(0, 12), (0, 0), (1, 0), (2, 12), (2, 0)]
    metrics = scheduler.metrics()
    assert metrics["cost/filtered_tickets"] == 4
    stale = sum(reports[key].generated_tokens for key in range(8, 12))
    assert metrics["cost/filtered_tokens"] == stale


def test_nothing_is_carried_without_staleness(make_scheduler, run_batches, report_when):
    scheduler = make_scheduler(allocator=DynamicSampling(oversample=2.0), tickets_per_step=4)
    played = run_batches(scheduler, report_when(lambda ticket: True), 3)
    assert [len(batch.tickets) for batch in played] == [8, 8, 8]
    assert scheduler.metrics()["cost/filtered_tickets"] == 12


def test_state_round_trip_between_rounds(make_scheduler, run_batches, report_when):
    settings = {"allocator": DynamicSampling(oversample=1.0), "tickets_per_step": 5}
    report = report_when(lambda ticket: ticket.prompt_index % 2)
    whole = make_scheduler(**settings)
    run_batches(whole, report, 2)
    for ticket in whole.draw(2, 2).tickets:
        whole.observe(report(ticket))
    resumed = make_scheduler(**settings)
    resumed.load_state_dict(whole.state_dict())
    one, other = whole.draw(2, 2), resumed.draw(2, 2)
    assert one == other and one.members is None and 0 < len(one.tickets) < 5


def test_gradient_direction_is_kept_and_its_length_is_over_the_mixed_share(make_report):
    """The scale 1 / P(mixed) of the docstring, for groups without gradient where not mixed."""
    chances, gradients = np.array([0.9, 0.5, 0.1]), np.array([[1.0, 0], [0, 1], [-3, 2]])
    allocator = DynamicSampling(draws=IndependentDraws(), max_rounds=10**6)
    nothing = np.ones(3)
    allocation = allocator.allocate(Estimates(nothing, nothing, nothing, nothing), None)
    snapshot = Snapshot(None, allocation, allocator.prepare(allocation, None))
    learned = []
    for seed in range(1500):
        rng = np.random.default_rng(seed)
        state = allocator.initial_state(type("Pool", (), {"num_prompts": 3}))
        tickets, reports = [], []
        while True:
            so_far = BatchSoFar(2, 4, tickets, reports, {}, [])
            answer, state = allocator.next_round(so_far, snapshot, rng, state)
            if isinstance(answer, Complete):
                break
            for index in answer.indices.tolist():
                ticket = Ticket(len(tickets), index, 4, 1 / 3, 1.0, 9)
                rewards = MIXED if rng.random() < chances[index] else EQUAL
                tickets.append(ticket)
                reports.append(make_report(ticket, rewards=np.array(rewards)))
        learned += [gradients[tickets[key].prompt_index] for key in answer.accepted[:2]]
    mean, error = np.mean(learned, axis=0), np.std(learned, axis=0) / np.sqrt(len(learned))
    expected = (chances[:, None] * gradients).mean(axis=0) / chances.mean()
    assert (np.abs(mean - expected) < 5 * error).all()


def test_missing_groups_times_oversample_are_rounded_up_only_where_they_are_not_whole():
    asked = DynamicSampling(oversample=1.1).num_tickets
    assert [asked(missing, None, None) for missing in (1, 9, 10, 11, 30)] == [2, 10, 11, 13, 33]
