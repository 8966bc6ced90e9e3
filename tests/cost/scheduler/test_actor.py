"""The actor's own behaviour, run in a plain event loop; Ray itself is left to tests/system."""

import asyncio
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest

from cost.advantages.types import group_batch
from cost.advantages.within_group import GroupStandardised
from cost.draws.allocators.drawn import Drawn, draw_round, uniform_allocation
from cost.draws.allocators.types import Complete
from cost.draws.entropy_control import EntropyControl
from cost.scheduler.actor import SchedulerActor
from cost.types import Feedback


@pytest.fixture
def make_actor(make_config):
    def build(**changes):
        settings = {"tickets_per_step": 4} | changes
        return SchedulerActor(
            make_config(**settings), np.full(5, 10), ["a"] * 5, 128, seed=0,
            report_timeout_seconds=0.2,
        )  # fmt: skip

    return build


@pytest.fixture
def actor(make_actor):
    return make_actor()


@dataclass(frozen=True, slots=True)
class SecondRound(Drawn):
    """Learns from what its only round drew, once gradient norms are there."""

    objective_preserving: ClassVar[bool] = True
    uniform: ClassVar[bool] = True

    def allocate(self, estimates, state):
        return uniform_allocation(len(estimates.costs))

    def next_round(self, so_far, snapshot, rng, state):
        if so_far.tickets:
            return Complete([ticket.ticket_id for ticket in so_far.tickets]), state
        indices, state = self.draws.draw(state, snapshot.prepared, so_far.num_groups, rng)
        sizes = self.group_sizes(indices, snapshot, so_far.group_size)
        return draw_round(indices, sizes, snapshot, final=False, gradient_norms=True), state


async def observe_and_select(actor, batch, tickets, make_report):
    for ticket in tickets:
        await actor.observe(make_report(ticket))
    await actor.select(batch, [ticket.attempt for ticket in tickets])


def test_a_draw_waits_for_reports_on_their_way(actor, make_report):
    async def run():
        tickets = (await actor.draw(0, 0)).tickets
        waiting = asyncio.create_task(actor.draw(1, 1))
        for ticket in reversed(tickets):
            await asyncio.sleep(0)
            assert not waiting.done()
            await actor.observe(make_report(ticket))
        return await waiting

    assert [ticket.ticket_id for ticket in asyncio.run(run()).tickets] == [4, 5, 6, 7]


def test_a_round_waits_for_reports_of_the_one_before(make_actor, make_report):
    actor = make_actor(allocator=SecondRound())

    async def run():
        drawn = await actor.draw(0, 0)
        assert drawn.members is None and drawn.gradient_norms
        norms = {t.ticket_id: np.ones(4) for t in drawn.tickets}
        waiting = asyncio.create_task(actor.draw(0, 0, norms))
        for ticket in drawn.tickets:
            await asyncio.sleep(0)
            assert not waiting.done()
            await actor.observe(make_report(ticket))
        return await waiting

    assert asyncio.run(run()).members == (0, 1, 2, 3)


def test_missing_gradient_norms_are_refused_at_once(make_actor, make_report):
    actor = make_actor(allocator=SecondRound())

    async def run():
        for ticket in (await actor.draw(0, 0)).tickets:
            await actor.observe(make_report(ticket))
        await actor.draw(0, 0)

    with pytest.raises(ValueError, match=r"gradient norms must be given .* \[0, 1, 2, 3\]"):
        asyncio.run(run())


def test_a_report_that_never_comes_ends_the_wait(actor):
    async def run():
        await actor.draw(0, 0)
        await actor.draw(1, 1)

    message = r"no report for tickets \[0, 1, 2, 3\] within 0.2 seconds"
    with pytest.raises(TimeoutError, match=message):
        asyncio.run(run())


def test_the_error_of_an_observe_nobody_awaits_is_not_lost(actor, make_report):
    async def run():
        ticket = (await actor.draw(0, 0)).tickets[0]
        with pytest.raises(ValueError, match="surprise"):
            await actor.observe(make_report(ticket, surprise=np.full(4, -1.0)))
        await actor.draw(1, 1)

    with pytest.raises(ValueError, match=r"report\.surprise must be finite and not negative"):
        asyncio.run(run())


def test_a_selection_waits_for_the_attempt_whose_groups_the_caller_holds(actor, make_report):
    async def run():
        tickets = (await actor.draw(0, 0)).tickets
        for ticket in tickets:
            await actor.observe(make_report(ticket))
        waiting = asyncio.create_task(actor.select(0, [0, 1, 0, 0]))
        await asyncio.sleep(0)
        assert not waiting.done()
        again = make_report(replace(tickets[1], attempt=1), seed=3)
        await actor.observe(again)
        selections = await waiting
        metrics = await actor.metrics()
        return again, selections, metrics

    again, selections, metrics = asyncio.run(run())
    expected = GroupStandardised().advantages(group_batch([again], 128))
    np.testing.assert_array_equal(selections[1].advantages, expected)
    assert (metrics["cost/tickets"], metrics["cost/lost_attempts"]) == (4, 1)


def test_an_attempt_that_never_reports_ends_the_wait(actor, make_report):
    async def run():
        for ticket in (await actor.draw(0, 0)).tickets:
            await actor.observe(make_report(ticket))
        await actor.select(0, [0, 0, 2, 0])

    with pytest.raises(TimeoutError, match=r"no report for tickets \[2\] within 0.2 seconds"):
        asyncio.run(run())


def test_spent_seconds_reach_the_ledger(actor, make_report):
    async def run():
        tickets = (await actor.draw(0, 0)).tickets
        await observe_and_select(actor, 0, tickets, make_report)
        await actor.learned(0, Feedback(3.0, 2.0))
        return await actor.metrics()

    metrics = asyncio.run(run())
    assert (metrics["cost/engine_seconds"], metrics["cost/learner_seconds"]) == (3.0, 2.0)


def test_the_entropy_decides_on_the_temperature_of_the_next_batch(make_actor, make_report):
    async def run():
        actor = make_actor(entropy_control=EntropyControl(target=0.5))
        factors = []
        for batch, entropy in enumerate((0.9, 0.1, 0.5)):
            tickets = (await actor.draw(batch, batch)).tickets
            factors.append([ticket.temperature_factor for ticket in tickets if ticket.exploring])
            await observe_and_select(actor, batch, tickets, make_report)
            await actor.learned(batch, Feedback(3.0, 2.0, entropy))
        return factors

    assert asyncio.run(run()) == [[], [0.8], [1.2]]


def test_an_impossible_fold_is_refused_at_once(actor):
    with pytest.raises(ValueError, match=r"folded_batches must lie in \[0, 0\], .* got 5"):
        asyncio.run(actor.draw(0, 5))


def test_a_batch_out_of_turn_is_refused_at_once(actor):
    with pytest.raises(ValueError, match=r"batch must be 0, .* got 3"):
        asyncio.run(actor.draw(3, 0))
