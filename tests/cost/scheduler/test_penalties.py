"""Penalties change advantages, and nothing that is learned or reported of the rewards."""

import numpy as np
import pytest

from cost.advantages.penalties import laid_out
from cost.advantages.within_group import GroupMean
from cost.scheduler.scheduler import Scheduler
from cost.thinning.thinning import KeepAll
from cost.types import Feedback
from tests.cost.play import select


def play(make_scheduler, make_report, penalty=None):
    """One batch of one reward for all responses; its scheduler, reports and selections."""
    scheduler: Scheduler = make_scheduler(advantage=GroupMean(), thinning=KeepAll())
    tickets = scheduler.draw(0, 0).tickets
    reports = [make_report(ticket, rewards=np.ones(ticket.num_samples)) for ticket in tickets]
    for report in reports:
        scheduler.observe(report)
    penalties = None if penalty is None else [penalty for _ in reports]
    return scheduler, reports, select(scheduler, 0, reports, penalties=penalties)


def test_a_penalty_counts_against_its_mean_over_the_group(make_scheduler, make_report):
    penalty = np.array([0.1, 0.3, -0.2, 0.6])
    _, _, selections = play(make_scheduler, make_report, penalty)
    for selection in selections:
        # By hand: the mean penalty is .2.
        np.testing.assert_allclose(selection.advantages, [0.1, -0.1, 0.4, -0.4], atol=1e-12)
    _, _, without = play(make_scheduler, make_report)
    assert not any(selection.advantages.any() for selection in without)


def test_statistics_ledger_and_metrics_keep_the_rewards(make_scheduler, make_report):
    plain, *_ = play(make_scheduler, make_report)
    penalised, reports, _ = play(make_scheduler, make_report, np.array([0.1, 0.3, -0.2, 0.6]))
    shown = [one.metrics()["cost/reward_mean_uniform"] for one in (penalised, plain)]
    assert shown[0] == shown[1] > 0.9
    # A resent report and another pass are what they were.
    penalised.observe(reports[0])
    select(penalised, 0, reports, epoch=1, penalties=[np.zeros(4) for _ in reports])
    select(plain, 0, reports, epoch=1)
    for scheduler in (plain, penalised):
        scheduler.learned(0, Feedback(1.0, 1.0))
    first, second = plain.draw(1, 1), penalised.draw(1, 1)
    assert first == second
    plugs = [one.state_dict()["statistics"]["plugs"] for one in (plain, penalised)]
    np.testing.assert_equal(*plugs)


def test_penalties_are_laid_out_as_the_responses(make_scheduler, make_report, empty_report):
    scheduler = make_scheduler()
    first, second = scheduler.draw(0, 0).tickets[:2]
    reports = [make_report(first), empty_report(second)]
    found = laid_out(reports, [np.arange(4.0), np.zeros(0)])
    assert found.tolist() == [0, 1, 2, 3]
    assert laid_out(reports, None) is None
    assert laid_out([reports[1]], [np.zeros(0)]).dtype == np.float64


@pytest.mark.parametrize(
    ("penalty", "message"),
    [
        (np.zeros(3), r"^penalties must have one number a response, \[4, .*got \[3, "),
        (np.array([0.0, np.nan, 0.0, 0.0]), r"^penalties must be finite, got array.*ticket 0$"),
    ],
)
def test_penalties_that_cannot_be_true_are_refused(make_scheduler, make_report, penalty, message):
    with pytest.raises(ValueError, match=message):
        play(make_scheduler, make_report, penalty)
