"""The pool with hand-written handles: placement, retries, replacement, giving up."""

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest
import ray
from ray.exceptions import RayActorError

from cost.types import Ticket
from rollout import pool as pool_module
from rollout.actor import empty_report
from rollout.config import RolloutConfig
from rollout.pool import EngineError, RolloutPool
from rollout.types import Prompt

PROMPT = Prompt(0, np.zeros(3, np.int32), "1", "fake", "q")


class Call:
    """An actor method: `.remote` and `.options(...).remote`."""

    def __init__(self, function):
        self.remote = function

    def options(self, **_):
        return self


class FakeActor:
    """Answers a ticket after a moment, or as `behaviour` says."""

    def __init__(self, index, log, behaviour):
        self.index, self.log, self.behaviour = index, log, behaviour
        self.run = Call(self._run)
        self.start = Call(self._start)
        self.close = Call(self._start)
        self.check = Call(self._check)

    async def _start(self):
        return {"total": float(self.index)}

    async def _check(self):
        if self.behaviour == "die":
            raise RayActorError()

    def _run(self, ticket, prompt):
        async def answer():
            self.log.append((self.index, ticket.ticket_id))
            await asyncio.sleep(60 if self.behaviour == "hang" else 0.01)
            if self.behaviour == "die":
                raise RayActorError()
            return empty_report(ticket, prompt)

        return answer(), f"group {ticket.ticket_id}"


class FakeScheduler:
    def __init__(self):
        self.reports = []
        self.observe = Call(self._observe)

    async def _observe(self, report):
        self.reports.append(report)


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
    monkeypatch.setattr(ray, "kill", lambda handle: None)
    monkeypatch.setattr(ray, "cancel", lambda reference, force: None)
    monkeypatch.setattr(pool_module, "ray_logs", lambda: "/logs")


def make_pool(*behaviours, **settings):
    """Actors by order of creation; the last behaviour repeats."""
    log, made = [], []

    def make_actor(index, *_):
        behaviour = behaviours[min(len(made), len(behaviours) - 1)]
        made.append(index)
        return FakeActor(index, log, behaviour)

    scheduler = FakeScheduler()
    pool = RolloutPool(make_actor, 1, RolloutConfig(**settings), scheduler, seed=0)
    return SimpleNamespace(pool=pool, log=log, made=made, scheduler=scheduler)


def ticket(ticket_id, num_samples=4):
    return Ticket(ticket_id, 0, num_samples, 0.5, 1.0, 8)


def test_tickets_go_to_the_least_loaded_actor():
    async def scenario():
        made = make_pool("work")
        pool = RolloutPool(
            lambda i, *_: FakeActor(i, made.log, "work"), 2, RolloutConfig(), None, seed=0
        )
        started = await pool.start()
        assert started == {"total": 1.0}
        groups = await asyncio.gather(*(pool.run(ticket(i), PROMPT) for i in range(4)))
        assert [g.data for g in groups] == [f"group {i}" for i in range(4)]
        assert sorted(index for index, _ in made.log) == [0, 0, 1, 1]

    asyncio.run(scenario())


def test_tickets_are_in_flight_until_they_are_groups_or_given_up():
    async def scenario(behaviour):
        pool = make_pool(behaviour, ticket_deadline_seconds=0.05, max_retries=0).pool
        await pool.start()
        running = [asyncio.create_task(pool.run(ticket(i), PROMPT)) for i in range(3)]
        await asyncio.sleep(0)
        assert pool.num_in_flight == 3
        await asyncio.gather(*running)
        assert pool.num_in_flight == 0

    asyncio.run(scenario("work"))
    asyncio.run(scenario("hang"))


def test_a_dead_actor_is_replaced_once_and_gets_weights_before_the_same_ticket():
    async def scenario():
        made = make_pool("die", "work")
        events = made.log

        async def on_replaced():
            events.append("weights")

        made.pool.on_replaced = on_replaced
        await made.pool.start()
        groups = await asyncio.gather(*(made.pool.run(ticket(i), PROMPT) for i in range(3)))
        assert [g.report.ticket_id for g in groups] == [0, 1, 2]
        assert [g.report.attempt for g in groups] == [1, 1, 1]
        assert made.made == [0, 0]
        assert made.pool.num_replaced == 1 and made.pool.num_retries == 3
        assert events.index("weights") == 3
        assert sorted(events[4:]) == [(0, 0), (0, 1), (0, 2)]
        assert made.scheduler.reports == []

    asyncio.run(scenario())


def test_a_ticket_that_never_finishes_becomes_an_empty_group_that_is_reported():
    async def scenario():
        made = make_pool("hang", ticket_deadline_seconds=0.02, max_retries=2)
        await made.pool.start()
        group = await made.pool.run(ticket(5), PROMPT)
        assert group.data is None and group.report.num_responses == 0
        # A report that an earlier attempt may still bring must not count in its stead.
        assert [(r.ticket_id, r.attempt) for r in made.scheduler.reports] == [(5, 3)]
        assert made.log == [(0, 5)] * 3

    asyncio.run(scenario())


def test_actors_that_keep_dying_end_the_run_with_the_way_to_their_logs():
    async def scenario():
        made = make_pool("die", max_retries=5)
        await made.pool.start()
        with pytest.raises(EngineError, match=r"died 6 times .* logs are in /logs"):
            for i in range(10):
                await made.pool.run(ticket(i), PROMPT)

    asyncio.run(asyncio.wait_for(scenario(), 10))


def test_an_error_that_is_no_death_is_raised_at_once():
    async def scenario():
        made = make_pool("work")
        await made.pool.start()
        with pytest.raises(RayActorError, match="elsewhere"):
            await made.pool.replace_dead(RayActorError("elsewhere"))

    class RayActorError(Exception):
        pass

    asyncio.run(scenario())


def test_looking_for_the_dead_replaces_them():
    async def scenario():
        made = make_pool("die", "work")
        await made.pool.start()
        await made.pool.replace_dead(RuntimeError("publish failed"))
        assert made.pool.num_replaced == 1
        assert (await made.pool.run(ticket(1), PROMPT)).data == "group 1"

    asyncio.run(scenario())


def test_news_of_a_death_that_come_late_do_not_kill_the_replacement():
    async def scenario():
        made = make_pool("die", "work")
        await made.pool.start()
        first = made.pool.handles[0]
        slow = first._run

        def late(ticket, prompt):
            answer, data = slow(ticket, prompt)

            async def after():
                await asyncio.sleep(0.2 if ticket.ticket_id == 1 else 0)
                return await answer

            return after(), data

        first.run = Call(late)
        groups = await asyncio.gather(*(made.pool.run(ticket(i), PROMPT) for i in range(2)))
        assert [g.data for g in groups] == ["group 0", "group 1"]
        assert made.made == [0, 0]

    asyncio.run(scenario())
