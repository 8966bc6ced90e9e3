"""The pool with hand-written handles: placement, retries, replacement, giving up."""

import asyncio
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import ray
from ray.exceptions import RayActorError

from cost.types import RewardStatus, Ticket
from launch.study.simulation import clock
from rollout import places
from rollout.actor import RolloutActor
from rollout.config import EngineConfig, RolloutConfig
from rollout.environments import SingleTurn
from rollout.places import EngineError
from rollout.pool import RolloutPool
from rollout.progress import StalledError, Watch
from rollout.reporting import empty_report
from rollout.stopping import Stopping
from rollout.types import Completion, Prompt, Sampling, VersionSpan

PROMPT = Prompt(0, np.zeros(3, np.int32), "1", "fake", "q")


class Call:
    """An actor method: `.remote` and `.options(...).remote`."""

    def __init__(self, function):
        self.remote = function

    def options(self, **_):
        return self


class FakeActor:
    """Answers a ticket after a moment, or as `behaviour` says; "mute" says nothing meanwhile."""

    def __init__(self, index, log, behaviour):
        self.index, self.log, self.behaviour = index, log, behaviour
        self.progress = Call(self._progress)
        self.run = Call(self._run)
        self.start = Call(self._start)
        self.close = Call(self._start)
        self.check = Call(self._check)
        self.node = Call(self._node)

    async def _start(self):
        return {"total": float(self.index)}

    async def _node(self):
        return "node"

    async def _check(self):
        if self.behaviour == "die":
            raise RayActorError()

    async def _progress(self, known, patience_seconds):
        await asyncio.sleep(60 if self.behaviour == "mute" else patience_seconds)
        if self.behaviour == "die":
            raise RayActorError()
        return known, {}

    def _run(self, ticket, prompt):
        async def answer():
            self.log.append((self.index, ticket.ticket_id))
            await asyncio.sleep(60 if self.behaviour in ("hang", "mute") else 0.01)
            if self.behaviour == "die":
                raise RayActorError()
            if self.behaviour == "stall":
                raise StalledError("no token")
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
    monkeypatch.setattr(places, "ray_logs", lambda: "/logs")


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
        await pool.close()
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

        made.pool.actors.on_replaced = on_replaced
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


@pytest.mark.parametrize("behaviour", ["hang", "mute", "stall"])
def test_a_ticket_that_never_finishes_becomes_an_empty_group_that_is_reported(behaviour):
    async def scenario():
        made = make_pool(behaviour, ticket_deadline_seconds=0.02, max_retries=2)
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
        with pytest.raises(EngineError, match=r"it died 6 times .* logs are in /logs"):
            for i in range(10):
                await made.pool.run(ticket(i), PROMPT)

    asyncio.run(asyncio.wait_for(scenario(), 10))


def test_an_error_that_is_no_death_is_raised_at_once():
    async def scenario():
        made = make_pool("work")
        await made.pool.start()
        with pytest.raises(RayActorError, match="elsewhere"):
            await made.pool.actors.replace_dead(RayActorError("elsewhere"))

    class RayActorError(Exception):
        pass

    asyncio.run(scenario())


def test_looking_for_the_dead_replaces_them():
    async def scenario():
        made = make_pool("die", "work")
        await made.pool.start()
        await made.pool.actors.replace_dead(RuntimeError("publish failed"))
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


SLOTS = 128


class SlowEngine:
    """Gives each of its running requests so many tokens a second; the others queue, as in vLLM.

    Lengths come from the seed and the first token of the prompt, one second a token.
    """

    def __init__(self, deadline_seconds, seconds_of):
        self.seconds_of = seconds_of
        self.slots = asyncio.Semaphore(SLOTS)
        self.num_here = self.most_here = self.num_calls = 0
        self.began = {}
        self.stopped = False
        self.watch = Watch(deadline_seconds, self.num_tokens)

    def num_tokens(self):
        now = asyncio.get_running_loop().time()
        return {} if self.stopped else {name: int(now - t) for name, t in self.began.items()}

    async def generate(self, token_ids, *, max_tokens, sampling, seed):
        self.num_calls += 1
        self.num_here += 1
        self.most_here = max(self.most_here, self.num_here)
        name = str(self.num_calls)
        try:
            async with self.watch.request(name), self.slots:
                self.began[name] = asyncio.get_running_loop().time()
                await asyncio.sleep(1e6 if self.stopped else self.seconds_of(token_ids[0], seed))
        finally:
            self.began.pop(name, None)
            self.num_here -= 1
        one = np.ones(1, np.int32)
        return Completion(one, np.zeros(1, np.float32), "stop", (VersionSpan(0, 1, 0),), 0)


class Rewards:
    """Passes the share of responses that the answer names; one score takes `seconds`."""

    def __init__(self, seconds):
        self.seconds = seconds

    async def score(self, items):
        await asyncio.sleep(self.seconds)
        share = float(items[0][2])
        passed = [j < share * len(items) for j in range(len(items))]
        return [
            SimpleNamespace(
                score=SimpleNamespace(reward=float(p), components={}, extracted=str(p)),
                status=RewardStatus.OK,
            )
            for p in passed
        ]


class InProcess:
    """A handle of a rollout actor that lives here."""

    def __init__(self, actor):
        self.actor = actor
        self.run = Call(self._run)
        self.evaluate = Call(lambda *a: asyncio.ensure_future(actor.evaluate(*a)))
        self.evaluate_group = Call(self._evaluate_group)
        self.progress = Call(lambda *a: asyncio.ensure_future(actor.progress(*a)))
        self.start = self.close = Call(self._start)

    async def _start(self):
        return {"total": 0.0}

    def _run(self, ticket, prompt):
        async def report():
            found, _ = await self.actor.run(ticket, prompt)
            return found

        return asyncio.ensure_future(report()), "data"

    def _evaluate_group(self, *asked):
        made = asyncio.ensure_future(self.actor.evaluate_group(*asked))

        async def part(number):
            return (await made)[number]

        return asyncio.ensure_future(part(0)), asyncio.ensure_future(part(1))


def slow_pool(seconds_of, *, reward_seconds=0.0, environment=None, num_engines=1, **settings):
    """Real actors on slow engines; made in a running loop."""
    config = RolloutConfig(engine=EngineConfig(max_num_seqs=SLOTS), **settings)
    scheduler, engines = FakeScheduler(), []

    def make_actor(*_):
        actor = RolloutActor(config, {}, environment or SingleTurn(), None, scheduler, 0)
        engines.append(SlowEngine(config.ticket_deadline_seconds, seconds_of))
        actor._engine, actor._rewards = engines[-1], Rewards(reward_seconds)
        actor._stopping = Stopping(())
        actor._tokenizer = SimpleNamespace(decode=lambda ids, **_: "x")
        return InProcess(actor)

    pool = RolloutPool(make_actor, num_engines, config, scheduler, seed=0)
    return SimpleNamespace(pool=pool, engines=engines, scheduler=scheduler)


def prompts(num_prompts):
    """Every other one is hard: long answers, rarely right."""
    order = np.random.default_rng(0).permutation(num_prompts)
    return [
        Prompt(int(i), np.full(3, i % 2, np.int32), str((7 - 6 * (i % 2)) / 8), "s", "q")
        for i in order
    ]


def uneven(hard, seed):
    return np.random.default_rng(seed).uniform(20, 60) * (3 if hard else 1)


async def evaluate_all(made, asked):
    await made.pool.start()
    reports = await asyncio.gather(
        *(
            made.pool.evaluate(Ticket(k, p.index, 8, 1.0, 1.0, 9999), p, Sampling(1.0))
            for k, p in enumerate(asked)
        )
    )
    seconds = asyncio.get_running_loop().time()
    await made.pool.close()
    return reports, seconds


@pytest.mark.parametrize(("num_prompts", "reward_seconds"), [(60, 0), (400, 0), (60, 700)])
def test_more_prompts_than_an_engine_answers_in_a_deadline_are_all_answered(
    num_prompts, reward_seconds
):
    async def scenario():
        made = slow_pool(uneven, reward_seconds=reward_seconds, ticket_deadline_seconds=600)
        reports, seconds = await evaluate_all(made, prompts(num_prompts))
        assert made.pool.num_retries == 0
        assert [r.num_responses for r in reports] == [8] * num_prompts
        assert np.mean([r.rewards.mean() for r in reports]) == 0.5
        (engine,) = made.engines
        assert engine.most_here <= SLOTS + 32
        # As long as the engine takes that is never short of work, and its last ones to end.
        work = sum(uneven(1, k) for k in range(1000)) / 1000 * 2 / 3 * 8 * num_prompts / SLOTS
        assert seconds < 1.1 * work + 180 + 10 + reward_seconds

    clock.run(scenario())


def test_long_responses_on_a_slow_engine_live_while_they_get_tokens():
    async def scenario():
        made = slow_pool(lambda hard, _: 10_000 if hard else 5, ticket_deadline_seconds=600)
        reports, seconds = await evaluate_all(made, prompts(60))
        assert made.pool.num_retries == 0 and seconds > 10_000
        assert all(r.num_responses == 8 for r in reports)

    clock.run(scenario())


def test_an_engine_that_stops_loses_what_it_has_after_the_silence_and_each_try():
    async def scenario():
        made = slow_pool(lambda *_: 5, ticket_deadline_seconds=600, max_retries=1)
        made.engines[0].stopped = True
        reports, seconds = await evaluate_all(made, prompts(4))
        assert [r.num_responses for r in reports] == [0] * 4
        assert made.pool.num_retries == 8
        assert 2 * 600 <= seconds <= 2 * 600 * 1.2
        assert made.engines[0].num_here == 0, "what is given up leaves the engine"

    clock.run(scenario())


class Tool:
    """Two turns with something slow in between."""

    def __init__(self, seconds):
        self.seconds = seconds

    async def play(self, generate, prompt, max_tokens):
        await generate(prompt.token_ids, 1)
        await asyncio.sleep(self.seconds)
        return await SingleTurn().play(generate, prompt, max_tokens)


def test_an_environment_has_a_limit_of_its_own():
    async def scenario(seconds):
        made = slow_pool(
            lambda *_: 3000, environment=Tool(seconds), ticket_deadline_seconds=60,
            environment_timeout_seconds=900, max_retries=1,
        )  # fmt: skip
        reports, _ = await evaluate_all(made, prompts(4))
        return [r.num_responses for r in reports], made.pool.num_retries

    assert clock.run(scenario(800)) == ([8] * 4, 0)
    assert clock.run(scenario(1000)) == ([0] * 4, 8)


def test_training_tickets_wait_with_us_in_order_and_a_retried_one_goes_first():
    async def scenario():
        made = slow_pool(uneven, num_engines=2, max_queued_responses=8)
        order, tries = [], Counter()
        for handle in made.pool.handles:
            answer = handle._run

            def run(ticket, prompt, answer=answer):
                order.append(ticket.ticket_id)
                tries[ticket.ticket_id] += 1
                if ticket.ticket_id == 3 and not ticket.attempt:

                    async def stalled():
                        await asyncio.sleep(1)
                        raise StalledError("no token")

                    return stalled(), "data"
                return answer(ticket, prompt)

            handle.run = Call(run)
        await made.pool.start()
        tickets = [replace(ticket(i, 16), max_tokens=9999) for i in range(100)]
        groups = await asyncio.gather(*(made.pool.run(t, prompts(2)[0]) for t in tickets))
        await made.pool.close()
        assert [g.report.ticket_id for g in groups] == list(range(100))
        again = len(order) - 1 - order[::-1].index(3)
        assert again < 25, "ahead of all that had not been placed"
        assert order[:again] + order[again + 1 :] == list(range(100))
        assert [g.report.attempt for g in groups] == [int(i == 3) for i in range(100)]
        assert max(engine.most_here for engine in made.engines) <= SLOTS + 15

    clock.run(scenario())


def test_giving_up_an_evaluation_takes_it_from_the_engine(monkeypatch):
    cancelled = []
    monkeypatch.setattr(ray, "cancel", lambda reference, force: cancelled.append(reference))

    async def scenario():
        made = slow_pool(lambda *_: 50)
        asking = asyncio.create_task(evaluate_all(made, prompts(40)))
        await asyncio.sleep(10)
        asking.cancel()
        await asyncio.wait([asking])
        # Of the 40 tickets 20 had been admitted; who waited has nothing to be taken back.
        assert len(cancelled) == 20

    clock.run(scenario())


def test_an_evaluated_group_is_there_beside_its_report():
    async def main():
        made = slow_pool(lambda *_: 0.0)
        await made.pool.start()
        ticket = Ticket(3, 0, 4, 1.0, 1.0, 9999)
        found = await made.pool.evaluate_group(ticket, prompts(1)[0], Sampling(1.0))
        group = await found.data
        await made.pool.close()
        return found.report, group

    report, group = asyncio.run(main())
    assert report.rewards.tolist() == group.rewards.tolist() and report.num_responses == 4
    assert len(group.trajectories) == 4
