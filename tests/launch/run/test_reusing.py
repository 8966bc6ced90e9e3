"""What is held of earlier batches, and how a batch is joined by it."""

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest

from cost.thinning.reuse import EarlierBatches, SecondPass
from cost.types import Selection
from launch.run.reusing import Reusing
from rollout.types import GroupRef


def group(ticket_id):
    return GroupRef(SimpleNamespace(ticket_id=ticket_id), f"data {ticket_id}")


def selection(ticket_id, advantage=1.0, *, kept=True, exploring=False):
    keep = np.array([kept, False])
    return Selection(
        ticket_id, keep, 1.0 * keep, np.array([advantage, -advantage]), np.ones(2),
        exploring=exploring,
    )  # fmt: skip


class FakeScheduler:
    """Chooses from the last two batches that were held, of three tickets each."""

    def __init__(self):
        self.asked = []

    async def reuse(self, batch):
        self.asked.append(batch)
        batches = range(max(batch - 2, 0), batch)
        return [[selection(10 * b + k, kept=k == 0) for k in range(3)] for b in batches]


def members(batch):
    tickets = [10 * batch + k for k in range(3)]
    return [group(key) for key in tickets], [selection(key) for key in tickets]


@pytest.fixture
def scheduler():
    return FakeScheduler()


def run(reusing, num_batches, share=1.0):
    """The tickets that the learners are given, batch by batch."""

    async def scenario():
        found = []
        for batch in range(num_batches):
            groups, selections = members(batch)
            given, chosen = await reusing.join(batch, groups, selections)
            assert [one.ticket_id for one in chosen] == [g.report.ticket_id for g in given]
            found.append([one.ticket_id for one in chosen])
            reusing.hold(batch, groups, selections, {"learner/rollout_effective_share": share})
        return found

    return asyncio.run(scenario())


def test_a_batch_is_followed_by_what_is_kept_of_those_before(scheduler):
    reusing = Reusing(EarlierBatches(max_age=2, first_batch=2), scheduler)
    own = [[10 * batch + k for k in range(3)] for batch in range(4)]
    assert run(reusing, 4) == [own[0], own[1], [*own[2], 0, 10], [*own[3], 10, 20]]
    assert scheduler.asked == [2, 3]
    assert [sorted(held) for held in reusing._held.values()] == [own[2], own[3]]


def test_only_plain_groups_with_an_advantage_are_held(scheduler):
    reusing = Reusing(EarlierBatches(), scheduler)
    chosen = [selection(0), selection(1, advantage=0.0), selection(2, exploring=True)]
    reusing.hold(0, [group(key) for key in range(3)], chosen, {})
    assert [list(held) for held in reusing._held.values()] == [[0]]


def test_a_step_far_from_the_samples_is_followed_by_one_of_its_own(scheduler):
    assert all(
        len(tickets) == 3
        for tickets in run(Reusing(EarlierBatches(first_batch=0), scheduler), 3, share=0.3)
    )
    assert scheduler.asked == []


def test_a_second_step_that_went_far_is_followed_by_a_batch_without_one():
    class Scheduler:
        async def reuse(self, batch):
            return [members(batch)[1]]

    async def scenario(shares):
        reusing, found = Reusing(SecondPass(first_batch=1), Scheduler()), []
        for batch in range(5):
            groups, selections = members(batch)
            assert await reusing.join(batch, groups, selections) == (groups, selections)
            reusing.hold(batch, groups, selections, {"learner/rollout_effective_share": 0.01})
            assert not reusing._held
            again = await reusing.again(batch)
            found.append(again is not None)
            if again is not None:
                assert [one.ticket_id for one in again] == [one.ticket_id for one in selections]
                reusing.stepped({"learner/rollout_effective_share": next(shares)})
        return found

    assert asyncio.run(scenario(iter([0.9, 0.3, 0.8]))) == [False, True, True, False, True]


def test_a_batch_without_members_has_no_second_step():
    """A filter that accepts no group leaves such a batch; the next one may have a second step."""

    class Scheduler:
        async def reuse(self, batch):
            return [] if batch == 1 else [members(batch)[1]]

    async def scenario():
        reusing, found = Reusing(SecondPass(first_batch=0), Scheduler()), []
        for batch in range(3):
            again = await reusing.again(batch)
            found.append(again is not None)
            if again is not None:
                reusing.stepped({"learner/rollout_effective_share": 0.9})
        return found

    assert asyncio.run(scenario()) == [True, False, True]


def test_earlier_batches_are_joined_and_nothing_else(scheduler):
    assert asyncio.run(Reusing(EarlierBatches(first_batch=0), scheduler).again(3)) is None
    assert asyncio.run(Reusing(None, scheduler).again(3)) is None


def test_without_reuse_nothing_is_asked_or_held(scheduler):
    reusing = Reusing(None, scheduler)
    groups, selections = members(0)
    given, chosen = asyncio.run(reusing.join(0, groups, selections))
    assert given is groups and chosen is selections
    reusing.hold(0, groups, selections, {})
    assert not reusing._held and scheduler.asked == []
