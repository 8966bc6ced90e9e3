"""Actors that die at any moment of their replacement, in simulated time."""

import asyncio

import pytest
import ray
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.exceptions import ActorDiedError

from launch.study.simulation.clock import run
from rollout import replacing
from rollout.admission import Admission
from rollout.config import RolloutConfig
from rollout.replacing import Actors, EngineError, LostMeanwhileError

START, SEND = 10.0, 4.0


class Method:
    def __init__(self, function):
        self.remote = function


class Actor:
    """Starts in a while, then lives until it is killed."""

    def __init__(self, index):
        self.index, self.alive, self.up, self.weights = index, True, False, 0
        self._killed = asyncio.Event()
        self.start, self.check = Method(self._start), Method(self._check)
        self.close, self.greet = Method(self._check), Method(self._greet)

    def kill(self):
        self.alive = False
        self._killed.set()

    async def _start(self):
        try:
            await asyncio.wait_for(self._killed.wait(), START)
        except TimeoutError:
            self.up = True
            return {"total": START}
        raise ActorDiedError()

    async def _greet(self):
        if not self.alive:
            raise ActorDiedError()

    async def _check(self):
        if not self.alive:
            raise ActorDiedError()
        assert self.up, "whoever starts is asked nothing"


class Crew:
    """Actors with learners that send weights to all of them or to none."""

    def __init__(self, num_actors, *, max_retries=2):
        self.made, self.usable = [], []
        self.admission = Admission(num_actors, full=4, queued=0)
        self.actors = Actors(
            self._make, num_actors, RolloutConfig(max_retries=max_retries), self.admission,
            self.usable.append,
        )  # fmt: skip
        self.actors.on_replaced = self._send
        self.learners_alive = True

    def _make(self, index):
        self.made.append(Actor(index))
        return self.made[-1]

    async def _send(self):
        receivers = list(self.actors.started())
        await asyncio.sleep(SEND)
        if not self.learners_alive or not all(actor.alive for actor in receivers):
            raise ActorDiedError()
        for actor in receivers:
            assert actor.up
            actor.weights += 1

    def die(self, index, *, noticed=True):
        actor = self.actors.handles[index]
        actor.kill()
        if noticed:
            self.actors.lose(index, actor, ActorDiedError())


async def begin_anew(crew):
    """As a system does: everybody is greeted, then given weights, whoever dies meanwhile."""
    await crew.actors.begin_anew(lambda actor: actor.greet.remote())
    while True:
        try:
            await crew._send()
            break
        except (ActorDiedError, LostMeanwhileError) as error:
            await crew.actors.replace_dead(error)
    crew.actors.go_on()


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
    monkeypatch.setattr(ray, "kill", lambda actor: actor.kill())
    monkeypatch.setattr(replacing, "ray_logs", lambda: "/logs")


def is_whole(crew):
    handles = crew.actors.handles
    places = range(len(handles))
    return all(actor.alive and actor.up for actor in handles) and all(
        crew.admission.is_open(place) for place in places
    )


@settings(max_examples=60)
@given(
    deaths=st.lists(
        st.tuples(st.integers(0, 2), st.floats(0, 3 * (START + SEND)), st.booleans()),
        max_size=6,
    )
)
def test_whoever_dies_when_all_are_replaced_and_hold_weights(deaths):
    """Noticed at once, or by whoever next sends weights."""

    async def scenario():
        crew = Crew(3, max_retries=100)
        await crew.actors.start(lambda number: None)
        loop = asyncio.get_running_loop()
        for index, at, noticed in deaths:
            loop.call_later(at, lambda i=index, n=noticed: crew.die(i, noticed=n))
        await asyncio.sleep(1000)
        # Those whom nobody noticed are found by the next publish.
        if not all(actor.alive for actor in crew.actors.handles):
            await crew.actors.replace_dead(ActorDiedError())
        assert is_whole(crew)
        for place, actor in enumerate(crew.actors.handles):
            replaced = actor is not crew.made[place]
            assert actor.weights > 0 or not replaced
        assert crew.actors.num_replaced <= len(deaths)

    run(scenario())


def test_two_that_die_together_start_side_by_side_and_get_weights_once():
    async def scenario():
        crew = Crew(2)
        await crew.actors.start(lambda number: None)
        began = asyncio.get_running_loop().time()
        crew.die(0)
        crew.die(1)
        await crew.actors.replacements()
        assert asyncio.get_running_loop().time() - began == pytest.approx(START + SEND)
        assert [actor.weights for actor in crew.actors.handles] == [1, 1]
        assert crew.actors.num_replaced == 2

    run(scenario())


def test_one_that_dies_while_another_gets_weights_begins_it_anew():
    async def scenario():
        crew = Crew(2)
        await crew.actors.start(lambda number: None)
        crew.die(0)
        await asyncio.sleep(START + SEND / 2)
        crew.die(1)
        await crew.actors.replacements()
        assert is_whole(crew)
        assert all(actor.weights for actor in crew.actors.handles)

    run(scenario())


@pytest.mark.parametrize("at", [1.0, START + SEND / 2])
def test_one_that_dies_again_and_again_without_a_ticket_is_an_error(at):
    async def scenario():
        crew = Crew(2, max_retries=2)
        await crew.actors.start(lambda number: None)
        with pytest.raises(
            EngineError, match=r"^rollout actor 1 died: .*; it died 3 times .* in /logs$"
        ):
            for _ in range(3):
                crew.die(1)
                await asyncio.sleep(at)
            await crew.actors.replacements()

    run(scenario())


def test_finished_tickets_pardon_deaths():
    async def scenario():
        crew = Crew(1, max_retries=0)
        await crew.actors.start(lambda number: None)
        crew.actors.finished_ticket()
        with pytest.raises(EngineError):
            crew.die(0)
        crew = Crew(1, max_retries=1)
        await crew.actors.start(lambda number: None)
        for _ in range(5):
            crew.die(0)
            await crew.actors.replacements()
            crew.actors.finished_ticket()
        assert is_whole(crew)

    run(scenario())


def test_when_the_learners_die_the_error_is_theirs_and_another_run_can_begin():
    async def scenario():
        crew = Crew(2)
        await crew.actors.start(lambda number: None)
        crew.learners_alive = False
        waiting = asyncio.create_task(crew.admission.enter(0, 1))
        await waiting
        crew.die(0)
        with pytest.raises(ActorDiedError):
            await crew.actors.replacements()
        with pytest.raises(ActorDiedError):
            await crew.admission.enter(0, 1)
        crew.learners_alive = True
        await begin_anew(crew)
        assert is_whole(crew) and crew.actors.num_replaced == 0
        await crew.admission.enter(0, 1)

    run(scenario())


def test_another_run_can_begin_while_actors_start():
    async def scenario():
        crew = Crew(2)
        await crew.actors.start(lambda number: None)
        crew.die(0)
        await asyncio.sleep(1)
        await begin_anew(crew)
        assert is_whole(crew)

    run(scenario())


@settings(max_examples=40)
@given(deaths=st.lists(st.tuples(st.integers(0, 2), st.floats(0, 40), st.booleans()), max_size=5))
def test_another_run_begins_whoever_dies_meanwhile(deaths):
    async def scenario():
        crew = Crew(3, max_retries=100)
        await crew.actors.start(lambda number: None)
        loop = asyncio.get_running_loop()
        for index, at, noticed in deaths:
            loop.call_later(at, lambda i=index, n=noticed: crew.die(i, noticed=n))
        await asyncio.sleep(START)
        await begin_anew(crew)
        await asyncio.sleep(1000)
        if not all(actor.alive for actor in crew.actors.handles):
            await crew.actors.replace_dead(ActorDiedError())
        assert is_whole(crew)
        assert all(actor.weights for actor in crew.actors.handles)

    run(scenario())


def test_a_death_at_the_first_start_is_not_repaired():
    async def scenario():
        crew = Crew(1)
        starting = asyncio.create_task(crew.actors.start(lambda number: None))
        await asyncio.sleep(1)
        with pytest.raises(ActorDiedError):
            crew.die(0)
        with pytest.raises(ActorDiedError):
            await starting
        assert len(crew.made) == 1

    run(scenario())


def test_whoever_waits_for_replacements_may_be_cancelled_and_they_go_on():
    async def scenario():
        crew = Crew(1)
        await crew.actors.start(lambda number: None)
        crew.die(0)
        waiting = asyncio.create_task(crew.actors.replacements())
        await asyncio.sleep(1)
        waiting.cancel()
        await asyncio.wait({waiting})
        await asyncio.sleep(START + SEND)
        assert is_whole(crew)

    run(scenario())


def test_old_news_kill_no_replacement():
    async def scenario():
        crew = Crew(1)
        await crew.actors.start(lambda number: None)
        first = crew.actors.handles[0]
        crew.die(0)
        await crew.actors.replacements()
        crew.actors.lose(0, first, ActorDiedError())
        assert is_whole(crew) and len(crew.made) == 2

    run(scenario())


def test_closing_ends_what_is_being_replaced():
    async def scenario():
        crew = Crew(2)
        await crew.actors.start(lambda number: None)
        crew.die(0)
        await asyncio.sleep(1)
        await crew.actors.close()
        assert not any(actor.alive for actor in crew.made)

    run(scenario())
