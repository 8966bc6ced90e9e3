"""Places for actors in a cluster that has no room, in simulated time."""

import asyncio

import pytest
import ray
from ray.exceptions import ActorDiedError

from launch.study.simulation.clock import run
from rollout import places
from rollout.joining import UnfitError
from rollout.places import EngineError
from tests.rollout.crew import START, Crew


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
    monkeypatch.setattr(ray, "kill", lambda actor: actor.kill())
    monkeypatch.setattr(places, "ray_logs", lambda: "/logs")


def test_without_room_a_place_is_left_out_and_the_others_go_on():
    async def scenario():
        crew = Crew(2, slots=2, deadline_seconds=50)
        await crew.actors.start(lambda number: None)
        crew.die(0, with_node=True)
        await crew.actors.settled()
        assert crew.groups == [[1]] and crew.in_use == [1]
        await crew.actors.replacements()
        assert asyncio.get_running_loop().time() == pytest.approx(START + 50)
        assert crew.given_back == [0]
        await crew.cluster.add()
        await asyncio.sleep(100)
        assert crew.in_use == [1] and crew.groups == [[1]]
        # What is told of it late is of no account.
        crew.actors.lose(0, crew.actors.handles[0], ActorDiedError())
        await crew.actors.close()

    run(scenario())


@pytest.mark.parametrize("most", [0, 2])
def test_the_last_one_without_room_ends_the_run_in_a_sentence(most):
    async def scenario():
        crew = Crew(1, slots=1, most=most, deadline_seconds=50)
        await crew.actors.start(lambda number: None)
        crew.actors.join()
        waiting = asyncio.create_task(crew.admission.enter(0, 1))
        await waiting
        crew.die(0, with_node=True)
        said = r"^rollout actor 0, the last one: the cluster has no room for it$"
        with pytest.raises(EngineError, match=said):
            await crew.actors.settled()
        with pytest.raises(EngineError, match=said):
            await crew.admission.enter(0, 1)

    run(scenario())


def test_a_node_that_lacks_something_is_not_used():
    async def scenario():
        async def look_at(node):
            raise UnfitError(f"{node} lacks torch")

        crew = Crew(1, most=2, look_at=look_at)
        await crew.actors.start(lambda number: None)
        crew.actors.join()
        await asyncio.sleep(100)
        assert crew.in_use == [0] and crew.given_back == [1]
        crew.die(0)
        with pytest.raises(EngineError, match=r"^rollout actor 0, the last one: node 0 lacks tor"):
            await crew.actors.settled()

    run(scenario())


def test_one_that_cannot_start_does_not_end_a_run_that_it_joins():
    async def scenario():
        crew = Crew(1, most=2, max_retries=2)
        await crew.actors.start(lambda number: None)
        crew.actors.join()
        for _ in range(3):
            await asyncio.sleep(1)
            crew.die(1, noticed=False)
        await asyncio.sleep(100)
        assert crew.in_use == [0] and crew.given_back == [1] and len(crew.made) == 4
        await crew.actors.settled()

    run(scenario())


def test_one_that_is_lost_before_it_has_room_is_no_death_of_an_engine():
    """Ray may send it to a node that is dead, and knows that only later."""

    async def scenario():
        crew = Crew(2, slots=2, max_retries=1, deadline_seconds=60)
        await crew.actors.start(lambda number: None)
        crew.die(0, with_node=True)
        for _ in range(10):
            await asyncio.sleep(3)
            crew.actors.handles[0].kill()
        await crew.cluster.add()
        await crew.actors.replacements()
        assert crew.in_use == [0, 1] and len(crew.made) == 13

    run(scenario())
