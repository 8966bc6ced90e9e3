"""The actor's own behaviour, run in a plain event loop; Ray itself is left to tests/system."""

import asyncio

import numpy as np
import pytest

from cost.actor import SchedulerActor


@pytest.fixture
def actor(make_config):
    return SchedulerActor(
        make_config(), np.full(5, 10), ["a"] * 5, 128, seed=0, report_timeout_seconds=0.2
    )


def test_a_draw_waits_for_reports_on_their_way(actor, make_report):
    async def run():
        tickets = await actor.draw(4, 0)
        waiting = asyncio.create_task(actor.draw(4, 4))
        for ticket in reversed(tickets):
            await asyncio.sleep(0)
            assert not waiting.done()
            await actor.observe(make_report(ticket))
        return await waiting

    assert [ticket.ticket_id for ticket in asyncio.run(run())] == [4, 5, 6, 7]


def test_a_report_that_never_comes_ends_the_wait(actor):
    async def run():
        await actor.draw(2, 0)
        await actor.draw(2, 2)

    with pytest.raises(TimeoutError, match=r"no report for tickets \[0, 1\] within 0.2 seconds"):
        asyncio.run(run())


def test_the_error_of_an_observe_nobody_awaits_is_not_lost(actor, make_report):
    async def run():
        ticket = (await actor.draw(1, 0))[0]
        with pytest.raises(ValueError, match="surprise"):
            await actor.observe(make_report(ticket, surprise=np.full(4, -1.0)))
        await actor.draw(1, 1)

    with pytest.raises(ValueError, match=r"report\.surprise must be finite and not negative"):
        asyncio.run(run())


def test_selected_reports_count_as_observed(actor, make_report):
    async def run():
        tickets = await actor.draw(2, 0)
        await actor.select([make_report(ticket) for ticket in tickets])
        await actor.draw(2, 2)
        return (await actor.metrics())["cost/tickets"]

    assert asyncio.run(run()) == 2


def test_an_impossible_fold_is_refused_at_once(actor):
    with pytest.raises(ValueError, match="folded_until must be at most 0"):
        asyncio.run(actor.draw(1, 5))
