"""Whether every part of a run lives: each is asked time and again, and looked at when silent.

part <- take_heartbeat -- HealthChecks -> Liveness: alive, or how it died
                          |
    rollout actor: replaced; scheduler, learner: PartDied in whatever `guard` holds
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError

from launch.run.cluster_shutdown import watch_of_cluster
from launch.run.deaths import ActorDeath, PartDied, actor_death, data_lost
from launch.run.guards import Guards
from launch.run.liveness import Liveness, ProcessObserver, Seen
from launch.run.stack_traces import STACKS, write_stacks
from rollout.heartbeat import Heartbeat, kill, take_heartbeat
from rollout.places import ray_logs
from rollout.processes import descendants, look, pid_space

Result = TypeVar("Result")
DATA = "data of finished groups"
"""What is lost with the node of an engine, where it was not learned from yet."""
LOOKS = 6
"""In the longest silence."""
ANSWER_SECONDS = 5.0
"""Longest wait for parts to say whether they live, once something has failed."""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Something to watch."""

    name: str
    """Such as "learner 1"."""
    handle: Any
    lost: Callable[[PartDied], None] | None = None
    """Replaces it; None for what ends the work that goes on."""
    group: str | None = None
    """Ray's concurrency group in which it can answer while it works."""


class HungError(TimeoutError):
    """A deadline passed, and what every part was doing is written down."""


class _Watched:
    """A part with what is known of it."""

    def __init__(self, part: Part, silence_seconds: float) -> None:
        self.part = part
        self.liveness = Liveness(silence_seconds)
        self.observer = ProcessObserver()
        self.heartbeat: Heartbeat | None = None
        self.dead = False
        self._limit = silence_seconds
        self._asked: asyncio.Future[Heartbeat] | None = None

    @property
    def owes_an_answer(self) -> bool:
        return self._asked is not None

    def ask(self) -> asyncio.Future[Heartbeat]:
        """Ask for a heartbeat, unless an answer is awaited already."""
        if self._asked is None:
            options = {"concurrency_group": self.part.group} if self.part.group else {}
            method = self.part.handle.__ray_call__.options(enable_task_events=False, **options)
            self._asked = asyncio.ensure_future(method.remote(take_heartbeat, self._limit))
            # Where nobody asks for the answer any more, nobody need hear of its error.
            self._asked.add_done_callback(lambda asked: asked.cancelled() or asked.exception())
        return self._asked

    def told(self) -> str:
        """Take in an answer, if there is one; returns how the part died, or ""."""
        asked = self._asked
        if asked is None or not asked.done():
            return ""
        self._asked = None
        try:
            self.heartbeat = asked.result()
        except RayError as error:
            death = actor_death(error)
            return death.how if death is not None else f"cannot be asked: {error}"
        self.liveness.answered()
        return self.heartbeat.fault


class HealthChecks:
    """Watches the parts of a run, from `start` to `close`.

    Args:
        silence_seconds: How long a part may be silent.
        run_dir: Where what they were doing is written down when one hangs.
    """

    def __init__(self, *, silence_seconds: float, run_dir: Path) -> None:
        self._parts: dict[str, Callable[[], Sequence[Part]]] = {}
        self._limit = silence_seconds
        self.run_dir = run_dir
        self._watched: dict[Any, _Watched] = {}
        self._guards = Guards(self._behind, RayError, TimeoutError)
        self._missed: list[tuple[Part, Exception]] = []
        self._cluster_died: PartDied | None = None
        self._watching: asyncio.Task[None] | None = None

    def watch(self, kind: str, parts: Callable[[], Sequence[Part]]) -> None:
        """Watch parts of a kind, in place of those of that kind before; asked anew at each look."""
        self._parts[kind] = parts

    def start(self) -> None:
        """Begin to watch, the cluster too, in the running event loop."""
        self._watching = asyncio.create_task(self._watch())
        self._watching.add_done_callback(self._watch_ended)
        watch, loop = watch_of_cluster(), asyncio.get_running_loop()
        if watch is not None:

            def tell(died: PartDied) -> None:
                loop.call_soon_threadsafe(self._lost_cluster, died)

            watch.listen(tell)

    def _watch_ended(self, watching: asyncio.Task[None]) -> None:
        """Let no work go on that nobody watches over, as where there was no thread to be had."""
        if not watching.cancelled() and (error := watching.exception()) is not None:
            self._guards.end_all(error)

    def _lost_cluster(self, died: PartDied) -> None:
        self.close()
        self._cluster_died = died
        self._guards.end_all(died)

    def close(self) -> None:
        """Watch no longer."""
        if self._watching is not None:
            self._watching.cancel()

    async def guard(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Do some work, and give it up when a part dies that it cannot do without.

        Where one piece of work is within another, the inner one hears of it; what else dies while
        that is given up ends the next work, unless it is watched no longer by then.

        Raises:
            PartDied: Naming the part.
            EngineError: If rollout actors keep dying.
            HungError: In place of any TimeoutError.
        """
        return await self._guards.hold(work, self._take_missed())

    async def _behind(self, error: Exception) -> Exception:
        """Return what is behind an error that ended some work: a death, what hung, or itself."""
        if isinstance(error, HungError):
            return error
        if isinstance(error, TimeoutError):
            stacks = await self.take_stacks(str(error))
            text = str(error) or "a deadline passed"
            return HungError(f"{text}; what each part was doing is in {stacks}")
        died = await self.culprit(error)
        if died is None and data_lost(error):
            # Of groups that were finished there: only drawing them again brings them back.
            died = PartDied(DATA, "were lost with their node", ray_logs())
        return died or error

    def _take_missed(self) -> Exception | None:
        """Return what no work has heard of yet, once; deaths of what is watched no longer go."""
        watched = {part.handle for kind in self._parts.values() for part in kind()}
        missed, self._missed = self._missed, []
        found = (e for part, e in missed if part.lost is not None or part.handle in watched)
        return self._cluster_died or next(found, None)

    def any_dead(self, kind: str) -> bool:
        """Say whether a part of a kind is known to be dead."""
        handles = {part.handle for part in self._parts.get(kind, list)()}
        return any(watched.dead for handle, watched in self._watched.items() if handle in handles)

    async def culprit(self, error: Exception) -> PartDied | None:
        """Find the part whose death is behind an error of another one; None where all live.

        The one that was watched first comes first: what the others do is its business, too.

        A rollout actor is it only if the error says so: no other part depends on it.
        """
        said = actor_death(error) or ActorDeath("", "")
        parts = self._living()
        unseen = [w.ask() for w in parts if w.observer.see(w.heartbeat, 1.0) is Seen.NOTHING]
        if unseen:
            await asyncio.wait(unseen, timeout=ANSWER_SECONDS)
        for watched in parts:
            named = bool(said.actor_id) and _id_of(watched.part.handle) == said.actor_id
            if watched.part.lost is not None and not named:
                continue
            how = said.how if named else watched.told()
            if how or watched.observer.see(watched.heartbeat, 1.0) is Seen.GONE:
                watched.dead = True
                return self._died(watched, how or "died")
        return None

    async def take_stacks(self, reason: str) -> str:
        """Write down what every part is doing; see `launch.run.stack_traces.write_stacks`."""
        heartbeats = {watched.part.name: watched.heartbeat for watched in self._living()}
        return await asyncio.to_thread(write_stacks, self.run_dir / STACKS, reason, heartbeats)

    async def _watch(self) -> None:
        period, loop = self._limit / LOOKS, asyncio.get_running_loop()
        before = loop.time()
        while True:
            await asyncio.sleep(period)
            # Counted in looks, so that a process that stood still does not find everything silent.
            seconds, before = min(loop.time() - before, 2 * period), loop.time()
            for watched in self._living():
                how = watched.told()
                # What has not answered once is starting, for which there are other deadlines.
                if not how and watched.owes_an_answer and watched.heartbeat is not None:
                    how = watched.liveness.look(
                        seconds, watched.observer.see(watched.heartbeat, seconds)
                    )
                if how:
                    await self._lose(watched, how)
                else:
                    watched.ask()

    def _living(self) -> list[_Watched]:
        known = self._watched
        self._watched = {
            part.handle: known.get(part.handle) or _Watched(part, self._limit)
            for kind in tuple(self._parts.values())
            for part in kind()
        }
        return [watched for watched in self._watched.values() if not watched.dead]

    async def _lose(self, watched: _Watched, how: str) -> None:
        stacks, part = "", watched.part
        if watched.liveness.silent_seconds:
            stacks = await self.take_stacks(f"{part.name} {how}")
        watched.dead = True
        died = self._died(watched, how, stacks)
        _kill(watched.heartbeat)
        try:
            if part.lost is None:
                ray.kill(part.handle)
                raise died
            part.lost(died)
        except Exception as error:
            if not self._guards.end_innermost(error):
                self._missed.append((part, error))

    def _died(self, watched: _Watched, how: str, stacks: str = "") -> PartDied:
        return PartDied(watched.part.name, how, log_of(watched.heartbeat), stacks)


def log_of(heartbeat: Heartbeat | None) -> str:
    """Return the log of the process that a heartbeat came from, or the folder of all logs."""
    folder = Path(ray_logs())
    found = sorted(folder.glob(f"worker-*-{heartbeat.pid}.err")) if heartbeat is not None else []
    return str(found[0] if found else folder)


def _kill(heartbeat: Heartbeat | None) -> None:
    """End a part's process and all that it started, where they can be seen from here.

    Ray ends a process by asking it to end, which one that is stopped does not hear, and leaves
    alone what it started.
    """
    if heartbeat is None or heartbeat.space != pid_space():
        return
    process = look(heartbeat.pid)
    if process is None or process.started != heartbeat.started:
        return
    kill([heartbeat.pid, *(child.pid for child in descendants(heartbeat.pid))])


def _id_of(handle: Any) -> str:
    return str(handle._actor_id.hex())
