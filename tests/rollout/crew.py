"""Actors made by hand, in a cluster with room for some, and learners that give them weights."""

import asyncio

from ray.exceptions import ActorDiedError

from rollout.admission import Admission
from rollout.config import RolloutConfig
from rollout.joining import Room
from rollout.replacing import Actors

START, SEND = 10.0, 4.0


class Method:
    def __init__(self, function):
        self.remote = function


class Cluster:
    """Has so many slots, each of which an actor takes and gives back with its death."""

    def __init__(self, slots=1000):
        self.free = slots
        self._changed = asyncio.Condition()

    async def add(self, slots=1):
        async with self._changed:
            self.free += slots
            self._changed.notify_all()

    async def take(self):
        async with self._changed:
            await self._changed.wait_for(lambda: self.free > 0)
            self.free -= 1


class Actor:
    """Starts in a while once it has room, then lives until it is killed."""

    def __init__(self, index, cluster):
        self.index, self.alive, self.up, self.weights = index, True, False, 0
        self.node_lost = False
        self._cluster, self._killed = cluster, asyncio.Event()
        self._placed = asyncio.ensure_future(cluster.take())
        self.start, self.check, self.node = (
            Method(self._start), Method(self._check), Method(self._node),
        )  # fmt: skip
        self.close, self.greet = Method(self._check), Method(self._greet)

    def kill(self):
        if self.alive:
            self.alive = False
            self._killed.set()
            if not self._placed.done():
                self._placed.cancel()
            elif not self.node_lost:
                self._told = asyncio.ensure_future(self._cluster.add())

    async def _node(self):
        killed = asyncio.ensure_future(self._killed.wait())
        await asyncio.wait({self._placed, killed}, return_when=asyncio.FIRST_COMPLETED)
        killed.cancel()
        await self._greet()
        return f"node {self.index}"

    async def _start(self):
        await self._node()
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
        await self._greet()
        assert self.up, "whoever starts is asked nothing"


class Crew:
    """Actors with learners that send weights to all that are up, or to none."""

    def __init__(self, num_actors, *, max_retries=2, slots=1000, **room):
        self.made, self.usable, self.given_back, self.groups = [], [], [], []
        self.cluster = Cluster(slots)
        self.admission = Admission(num_actors, full=4, queued=0)
        self.actors = Actors(
            self._make, num_actors, RolloutConfig(max_retries=max_retries), self.admission,
            self.usable.append, Room(give_back=self.given_back.append, **room),
        )  # fmt: skip
        self.actors.on_replaced = self._send
        self.learners_alive = True

    def _make(self, index):
        self.made.append(Actor(index, self.cluster))
        return self.made[-1]

    async def _send(self):
        receivers = list(self.actors.choose())
        await asyncio.sleep(SEND)
        if not self.learners_alive or not all(actor.alive for actor in receivers):
            raise ActorDiedError()
        for actor in receivers:
            assert actor.up
            actor.weights += 1
        self.groups.append([actor.index for actor in receivers])

    def die(self, index, *, noticed=True, with_node=False):
        actor = self.actors.handles[index]
        actor.node_lost = with_node
        actor.kill()
        if noticed:
            self.actors.lose(index, actor, ActorDiedError())

    @property
    def in_use(self):
        """The places that may have tickets."""
        return [i for i in range(len(self.actors.handles)) if self.admission.is_open(i)]
