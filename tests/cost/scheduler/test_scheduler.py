"""The scheduler as its callers see it: the order of reports and batches, tickets, metrics."""

import numpy as np
import pytest

from cost.draws.allocators.square_root import SquareRoot
from cost.draws.entropy_control import EntropyControl
from cost.ledger import METRICS
from cost.prices.seconds import SecondsPrice
from cost.thinning.clipping import GradientShare
from cost.thinning.priced import Priced
from cost.worth.utilities import PassRateVariance
from tests.cost.play import select
from tests.cost.scheduler.playing import ALLOCATORS, Filter, Pilots, Player, assert_same, play


@pytest.mark.parametrize("lag", [0, 2])
@pytest.mark.parametrize("allocator", ALLOCATORS, ids=repr)
def test_order_of_reports_does_not_matter(make_scheduler, make_report, allocator, lag):
    rng = np.random.default_rng(0)
    players = [
        Player(make_scheduler(allocator=allocator, max_staleness=3), make_report, lag=lag, order=o)
        for o in (
            list,
            reversed,
            lambda reports: [reports[i] for i in rng.permutation(len(reports))],
        )
    ]
    for player in players:
        player.play(6)
    assert_same(players[0], players[1])
    assert_same(players[0], players[2])
    one, *others = [player.scheduler.metrics() for player in players]
    assert others == [one, one]


def test_reports_that_arrive_early_are_not_used_early(make_scheduler, make_report):
    eager, patient = make_scheduler(), make_scheduler()
    for scheduler in (eager, patient):
        scheduler.draw(0, 0)
    tickets = eager.draw(1, 0).tickets
    for ticket in tickets:
        eager.observe(make_report(ticket))
    patient.draw(1, 0)
    assert eager.draw(2, 0) == patient.draw(2, 0)


def test_learns_to_draw_what_is_cheap_and_undecided(make_scheduler, make_report):
    """Even prompts are short; prompts 0 to 9 always pass, the others half of the time."""
    scheduler = make_scheduler(
        allocator=SquareRoot(floor=0.1), utility=PassRateVariance(), tickets_per_step=20
    )
    rng = np.random.default_rng(0)
    for batch in range(60):
        for t in scheduler.draw(batch, batch).tickets:
            lengths = np.full(4, 10 if t.prompt_index % 2 == 0 else 100)
            rewards = np.ones(4) if t.prompt_index < 10 else rng.permutation([1.0, 1.0, 0.0, 0.0])
            scheduler.observe(make_report(t, lengths=lengths, rewards=rewards))
    scheduler.draw(60, 60)
    distribution = scheduler.distribution()
    p = distribution.probabilities
    assert p[10::2].min() > p[11::2].max() > p[1:10:2].max()
    assert p[10::2].min() > p[:10:2].max()
    assert distribution.expected_length_ratio < 0.9
    assert 0.05 < distribution.total_variation_from_uniform < 1
    assert distribution.lengths[::2].max() < 20 and distribution.lengths[1::2].min() > 80


def test_batches_do_not_go_back(make_scheduler, make_report):
    scheduler = make_scheduler(tickets_per_step=2)
    reports = [[make_report(t) for t in scheduler.draw(batch, 0).tickets] for batch in range(2)]
    select(scheduler, 1, reports[1])
    with pytest.raises(ValueError, match=r"batch must be complete and not before 1, .* got 0"):
        select(scheduler, 0, reports[0])
    with pytest.raises(ValueError, match=r"batch must be complete and not before 1, .* got 2"):
        select(scheduler, 2, [])


@pytest.mark.parametrize("allocator", [SquareRoot(), Filter(), Pilots()], ids=repr)
def test_tickets_are_forgotten_in_time(make_scheduler, make_report, allocator):
    scheduler = make_scheduler(allocator=allocator, max_staleness=1)
    player = Player(scheduler, make_report).play(10)
    state = scheduler.state_dict()
    recent = [key for key in player.tickets if key >= player.members[8][0]]
    assert len(state["book"]["tickets"]["ticket_id"]) <= len(recent)
    assert len(state["book"]["reports"]["ticket_id"]) <= len(recent)
    assert len(state["drawing"]["batches"]["members"]) <= 2
    assert len(state["statistics"]["spendings"]["entered"]) <= 1


@pytest.mark.parametrize("allocator", [SquareRoot(), Filter(), Pilots()], ids=repr)
def test_metrics_are_described_and_finite(make_scheduler, make_report, allocator):
    scheduler = make_scheduler(
        allocator=allocator, price=SecondsPrice(skip_batches=0), accelerator_hour_price=2.0,
        entropy_control=EntropyControl(), clipping=GradientShare(), thinning=Priced(),
    )  # fmt: skip
    assert set(scheduler.metrics()) <= set(METRICS)
    play(scheduler, make_report, 3)
    metrics = scheduler.metrics()
    of_sizing = {key for key in METRICS if key.startswith("cost/sizing_")}
    assert set(metrics) == set(METRICS) - of_sizing
    assert all(np.isfinite(value) for value in metrics.values())
