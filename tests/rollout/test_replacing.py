"""Actors that die at any moment of their replacement, in simulated time."""

import asyncio
import gc

import pytest
import ray
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.exceptions import ActorDiedError

from launch.study.simulation.clock import run
from rollout import places
from rollout.places import EngineError
from rollout.replacing import LostMeanwhileError
from tests.rollout.crew import SEND, START, Crew


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
    monkeypatch.setattr(places, "ray_logs", lambda: "/logs")


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
            await crew.actors.replacements()
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
            await crew.actors.replacements()
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


def test_nobody_who_is_up_waits_for_one_that_starts():
    """The others get a group without the one that died at once, and one with it later."""

    async def scenario():
        crew = Crew(3)
        await crew.actors.start(lambda number: None)
        crew.die(1)
        assert crew.in_use == [0, 2]
        await crew.actors.settled()
        assert crew.groups == [[0, 2]] and crew.actors.places.is_starting(1)
        assert [actor.index for actor in crew.actors.holders] == [0, 2]
        await crew.actors.replacements()
        assert crew.groups == [[0, 2], [0, 1, 2]] and is_whole(crew)

    run(scenario())


def test_an_actor_joins_as_soon_as_there_is_room_and_others_do_not_wait():
    async def scenario():
        crew = Crew(1, slots=1, most=3)
        await crew.actors.start(lambda number: None)
        crew.actors.join()
        await asyncio.sleep(1000)
        assert crew.in_use == [0] and crew.groups == []
        await crew.cluster.add()
        await asyncio.sleep(START / 2)
        # It only starts: whoever publishes now goes on with who is there.
        await crew.actors.settled()
        assert crew.in_use == [0] and crew.actors.started() == crew.actors.handles[:1]
        await asyncio.sleep(START / 2 + SEND + 1)
        assert crew.groups in ([[0, 1]], [[0, 2]]) and len(crew.in_use) == 2
        assert crew.actors.num_in_use == 2 and crew.actors.num_replaced == 0
        await crew.cluster.add(5)
        await asyncio.sleep(START + SEND + 1)
        assert crew.in_use == [0, 1, 2] and sorted(crew.groups[-1]) == [0, 1, 2]
        assert len(crew.made) == 3

    run(scenario())


def test_nobody_joins_where_nobody_may():
    async def scenario():
        crew = Crew(1)
        await crew.actors.start(lambda number: None)
        crew.actors.join()
        await asyncio.sleep(1000)
        assert len(crew.made) == 1 and crew.in_use == [0]

    run(scenario())


@pytest.mark.parametrize("after", [1.0, START - 1, START + SEND / 2, START + SEND + 1])
def test_the_first_may_die_with_its_node_while_another_joins(after):
    """The run goes on with the one that joins as soon as that has weights, and not later."""

    async def scenario():
        crew = Crew(1, slots=1, most=2, deadline_seconds=120)
        await crew.actors.start(lambda number: None)
        crew.actors.join()
        await crew.cluster.add()
        await asyncio.sleep(after)
        crew.die(0, with_node=True)
        await crew.actors.settled()
        assert crew.in_use == [1] and crew.actors.holders == [crew.actors.handles[1]]
        assert crew.groups[-1] == [1]
        assert asyncio.get_running_loop().time() <= START + max(START, after) + 2 * SEND + 0.1
        # Its place has no room, and is used again when there is some.
        await asyncio.sleep(500)
        assert crew.in_use == [1] and crew.given_back == []
        await crew.cluster.add()
        await crew.actors.replacements()
        await asyncio.sleep(START + SEND + 1)
        assert crew.in_use == [0, 1] and crew.groups[-1] == [0, 1]

    run(scenario())


def test_one_that_dies_while_it_joins_is_started_again_and_the_others_go_on():
    async def scenario():
        crew = Crew(1, most=2)
        await crew.actors.start(lambda number: None)
        crew.actors.join()
        await asyncio.sleep(START + SEND / 2)
        # In the group already, without its weights.
        crew.die(1)
        await crew.actors.settled()
        assert crew.groups[-1] == [0] and crew.in_use == [0]
        await asyncio.sleep(START + SEND + 1)
        assert crew.in_use == [0, 1] and len(crew.made) == 3

    run(scenario())


def test_a_join_and_a_replacement_go_on_side_by_side():
    async def scenario():
        crew = Crew(2, most=3)
        await crew.actors.start(lambda number: None)
        crew.actors.join()
        await asyncio.sleep(START / 2)
        crew.die(0)
        await asyncio.sleep(START / 2 + SEND + 1)
        assert crew.in_use == [1, 2] and crew.groups == [[1], [1, 2]]
        await crew.actors.replacements()
        assert crew.in_use == [0, 1, 2] and crew.groups[-1] == [0, 1, 2]
        assert crew.actors.num_replaced == 1

    run(scenario())


def test_another_run_begins_without_those_that_have_no_room():
    """What waits for room is made anew, so that it knows of the other run."""

    async def scenario():
        crew = Crew(2, slots=2, most=3, deadline_seconds=50)
        await crew.actors.start(lambda number: None)
        crew.actors.join()
        crew.die(0, with_node=True)
        await asyncio.sleep(1)
        waiting = [crew.actors.handles[place] for place in (0, 2)]
        began = asyncio.get_running_loop().time()
        await begin_anew(crew)
        assert asyncio.get_running_loop().time() - began == pytest.approx(SEND)
        assert crew.in_use == [1]
        assert not any(actor.alive for actor in waiting)
        await crew.cluster.add(2)
        await asyncio.sleep(START + SEND + 1)
        assert crew.in_use == [0, 1, 2]

    run(scenario())


@settings(max_examples=60)
@given(
    deaths=st.lists(
        st.tuples(
            st.integers(0, 2), st.floats(0, 3 * (START + SEND)), st.booleans(), st.booleans()
        ),
        max_size=6,
    ),
    nodes=st.lists(st.floats(0, 60), min_size=3, max_size=8),
)
def test_whoever_dies_and_joins_when_those_with_room_hold_weights(deaths, nodes):
    """Nodes come and go, with and without an actor; nobody is in use without the weights."""

    async def scenario():
        crew = Crew(1, slots=1, max_retries=100, most=3, deadline_seconds=1e6)
        await crew.actors.start(lambda number: None)
        crew.actors.join()
        loop = asyncio.get_running_loop()

        def die(index, noticed, with_node):
            if crew.actors.places.has_room(index):
                crew.die(index, noticed=noticed, with_node=with_node)

        for index, at, noticed, with_node in deaths:
            loop.call_later(at, die, index, noticed, with_node)
        for at in nodes:
            loop.call_later(at, lambda: asyncio.ensure_future(crew.cluster.add()))
        await asyncio.sleep(1000)
        await crew.cluster.add(3)
        await asyncio.sleep(1000)
        if not all(actor.alive for actor in crew.actors.handles):
            await crew.actors.replace_dead(ActorDiedError())
            await crew.actors.replacements()
            await asyncio.sleep(1000)
        assert is_whole(crew) and crew.in_use == [0, 1, 2]
        assert all(actor.weights > 0 or actor is crew.made[0] for actor in crew.actors.handles)
        assert sorted(crew.groups[-1]) == [0, 1, 2]

    run(scenario())


def test_a_start_that_is_given_up_leaves_no_failure_that_nobody_takes():
    told = []

    async def scenario():
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context))
        crew = Crew(2)
        starting = asyncio.create_task(crew.actors.start(lambda number: None))
        await asyncio.sleep(START / 2)
        starting.cancel()
        await asyncio.wait({starting})
        assert starting.cancelled()

    run(scenario())
    gc.collect()
    assert told == []
