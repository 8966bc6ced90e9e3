"""The actor's own behaviour, run in a plain event loop; Ray itself is left to tests/system."""

import asyncio
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from cost.draws.allocators.drawn import Drawn, draw_round, uniform_allocation
from cost.draws.allocators.types import Complete
from cost.draws.entropy_control import EntropyControl
from cost.scheduler.actor import SchedulerActor


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
        await actor.observe_gradient_norms({t.ticket_id: np.ones(4) for t in drawn.tickets})
        waiting = asyncio.create_task(actor.draw(0, 0))
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


def test_selected_reports_count_as_observed(actor, make_report):
    async def run():
        tickets = (await actor.draw(0, 0)).tickets
        await actor.select(0, [make_report(ticket) for ticket in tickets])
        await actor.draw(1, 1)
        return (await actor.metrics())["cost/tickets"]

    assert asyncio.run(run()) == 4


def test_spent_seconds_reach_the_ledger(actor, make_report):
    async def run():
        tickets = (await actor.draw(0, 0)).tickets
        await actor.select(0, [make_report(ticket) for ticket in tickets])
        await actor.spend(0, 3.0, 2.0)
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
            await actor.select(batch, [make_report(ticket) for ticket in tickets])
            await actor.spend(batch, 3.0, 2.0)
            await actor.observe_entropy(batch, entropy)
        return factors

    assert asyncio.run(run()) == [[], [0.8], [1.2]]


def test_an_impossible_fold_is_refused_at_once(actor):
    with pytest.raises(ValueError, match=r"folded_batches must lie in \[0, 0\], .* got 5"):
        asyncio.run(actor.draw(0, 5))


def test_a_batch_out_of_turn_is_refused_at_once(actor):
    with pytest.raises(ValueError, match=r"batch must be 0, .* got 3"):
        asyncio.run(actor.draw(3, 0))
