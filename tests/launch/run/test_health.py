"""HealthChecks in simulated time, over parts that answer, hang, die and are replaced."""

import asyncio
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
from ray import exceptions

from launch.run import health as module
from launch.run.deaths import PartDied
from launch.run.health import HealthChecks, Part
from launch.run.liveness import Seen
from launch.study.simulation.clock import run
from rollout.heartbeat import Heartbeat

LIMIT = 30.0


def died(handle):
    error = exceptions.ActorDiedError()
    error.actor_id = handle.name
    return error


@dataclass(eq=False)
class Handle:
    """An actor that answers, or is "hung", "dead", or has a "fault"."""

    name: str
    state: str = "well"
    seen: Seen = Seen.AT_WORK
    num_asked: int = 0

    @property
    def _actor_id(self):
        return SimpleNamespace(hex=lambda: self.name)

    @property
    def __ray_call__(self):
        return self

    def options(self, **_):
        return self

    async def remote(self, *_):
        self.num_asked += 1
        while self.state == "hung":
            await asyncio.sleep(1)
        if self.state == "dead":
            raise died(self)
        return Heartbeat(1, 2, self.name, "its engine is gone" if self.state == "fault" else "")


@pytest.fixture
def make(tmp_path, monkeypatch):
    """HealthChecks over handles, with processes that do what the handles say."""
    killed = []
    monkeypatch.setattr(module, "ray_logs", lambda: "/logs")
    monkeypatch.setattr(module, "_kill", lambda last: killed.append(last and last.space))
    monkeypatch.setattr(module.ray, "kill", lambda handle: None)

    def build(*handles, lost=None):
        by_name = {handle.name: handle for handle in handles}

        class FakeObserver:
            def see(self, heartbeat, seconds):
                return by_name[heartbeat.space].seen if heartbeat is not None else Seen.NOTHING

        monkeypatch.setattr(module, "ProcessObserver", FakeObserver)
        made = HealthChecks(silence_seconds=LIMIT, run_dir=tmp_path)
        made.killed = killed
        for handle in handles:
            made.watch(handle.name, lambda h=handle: [Part(h.name, h, lost)])
        return made

    return build


def in_time(main):
    async def scenario():
        loop = asyncio.get_running_loop()
        found = await main()
        return found, loop.time()

    return run(scenario())


def test_parts_that_answer_are_asked_all_the_time_and_let_work_end(make):
    async def main():
        parts = [Handle("scheduler"), Handle("learner 0")]
        health = make(*parts)
        health.start()

        async def work():
            await asyncio.sleep(600)
            return "done"

        assert await health.guard(work()) == "done"
        health.close()
        return [part.num_asked for part in parts]

    found, _ = in_time(main)
    assert min(found) >= 600 / (LIMIT / 3)


@pytest.mark.parametrize(
    ("state", "seen", "how", "most_seconds"),
    [
        ("dead", Seen.AT_WORK, "died", 15),
        ("hung", Seen.GONE, "died", 15),
        ("hung", Seen.STOPPED, "does not answer for 30 s: its process is stopped", 50),
        ("hung", Seen.IDLE, "does not answer for 60 s: its process has nothing to do", 80),
        ("fault", Seen.AT_WORK, "its engine is gone", 15),
    ],
)
def test_a_part_that_dies_or_hangs_ends_the_work_and_is_named(make, state, seen, how, most_seconds):
    async def main():
        sick = Handle("learner 1")
        health = make(Handle("scheduler"), sick)
        health.start()

        async def work():
            await asyncio.sleep(100)
            sick.state, sick.seen = state, seen
            await asyncio.sleep(1e6)

        with pytest.raises(PartDied) as found:
            await health.guard(work())
        health.close()
        assert (found.value.part, found.value.how) == ("learner 1", how)
        assert health.killed == ["learner 1"]

    _, seconds = in_time(main)
    assert seconds <= 100 + most_seconds


def test_a_watch_that_fails_itself_ends_the_work(make, monkeypatch):
    def full(*_):
        raise RuntimeError("can't start new thread")

    async def main():
        monkeypatch.setattr(module, "write_stacks", full)
        sick = Handle("learner 1", seen=Seen.STOPPED)
        health = make(sick)
        health.start()

        async def work():
            await asyncio.sleep(100)
            sick.state = "hung"
            await asyncio.sleep(1e6)

        with pytest.raises(RuntimeError, match="new thread"):
            await health.guard(work())
        health.close()

    _, seconds = in_time(main)
    assert seconds <= 200


def test_what_is_at_work_may_be_silent_for_hours(make):
    async def main():
        busy = Handle("learner 0", "hung", Seen.AT_WORK)
        health = make(busy)
        health._living()[0].heartbeat = Heartbeat(1, 2, "learner 0", "")
        health.start()
        await health.guard(asyncio.sleep(10_000))
        health.close()
        return health.killed

    assert in_time(main)[0] == []


def test_what_is_starting_may_be_silent_for_as_long_as_its_deadline(make):
    """On a loaded machine a worker imports for minutes, and nothing has been seen of it yet."""

    async def main():
        starting = Handle("learner 0", "hung")
        health = make(starting)
        health.start()
        await health.guard(asyncio.sleep(LIMIT * 20))
        health.close()
        return health.killed

    assert in_time(main)[0] == []


def test_data_that_were_lost_with_their_node_are_a_death_from_which_a_run_goes_on(make):
    async def main():
        health = make(Handle("learner 0"))
        health.start()
        lost = exceptions.ObjectReconstructionFailedError("ab12")

        async def work():
            raise exceptions.RayTaskError("update", "...", lost).as_instanceof_cause()

        with pytest.raises(PartDied, match=r"^data of finished groups were lost with their node;"):
            await health.guard(work())
        health.close()

    in_time(main)


def test_a_part_that_is_replaced_ends_no_work(make):
    async def main():
        sick, lost = Handle("rollout actor 0"), []
        health = make(sick, lost=lost.append)
        health.start()

        async def work():
            sick.state = "fault"
            await asyncio.sleep(300)

        await health.guard(work())
        health.close()
        return lost

    (death,) = in_time(main)[0]
    assert str(death) == "rollout actor 0 its engine is gone; logs are in /logs"


def test_what_cannot_be_replaced_any_more_ends_the_work(make):
    def lost(death):
        raise RuntimeError("died too often")

    async def main():
        health = make(Handle("rollout actor 0", "dead"), lost=lost)
        health.start()
        with pytest.raises(RuntimeError, match=r"^died too often$"):
            await health.guard(asyncio.sleep(1e6))
        health.close()

    in_time(main)


def test_the_inner_work_hears_of_a_death_and_the_outer_goes_on(make):
    async def main():
        sick = Handle("scheduler")
        health = make(sick)
        health.start()

        async def outer():
            sick.state = "dead"
            with pytest.raises(PartDied):
                await health.guard(asyncio.sleep(1e6))
            health.watch("scheduler", lambda: [Part("scheduler", Handle("scheduler"))])
            await asyncio.sleep(500)
            return "recovered"

        found = await health.guard(outer())
        health.close()
        return found

    assert in_time(main)[0] == "recovered"


def test_a_death_while_nothing_was_guarded_ends_the_next_work(make):
    async def main():
        health = make(Handle("scheduler", "dead"))
        health.start()
        await asyncio.sleep(100)
        with pytest.raises(PartDied, match=r"^scheduler died"):
            await health.guard(asyncio.sleep(1e6))
        await health.guard(asyncio.sleep(1))
        health.close()

    in_time(main)


@pytest.mark.parametrize("at_once", [True, False])
def test_parts_that_die_with_their_node_are_one_death_where_they_are_started_anew(make, at_once):
    """As in training: a loop within a run, and a recovery in the place of the loop."""

    async def main():
        old = [Handle(f"learner {k}") for k in range(4)]
        health = make(*old)
        health.start()

        async def loop():
            await asyncio.sleep(100)
            for handle in old[: 4 if at_once else 1]:
                handle.state = "dead"
            try:
                await asyncio.sleep(1e6)
            finally:
                # Giving up takes a while, and so does what comes before the new ones.
                await asyncio.sleep(20)

        async def recovered():
            old[-1].state = "dead"
            await asyncio.sleep(200)
            return "recovered"

        async def whole():
            with pytest.raises(PartDied, match=r"^learner 0 died"):
                await health.guard(loop())
            assert health.any_dead("learner 0") and health.any_dead("learner 3") is at_once
            for handle in old:
                health.watch(handle.name, list)
            return await health.guard(recovered())

        found = await health.guard(whole())
        health.close()
        return found

    assert in_time(main)[0] == "recovered"


def test_what_dies_while_work_is_given_up_ends_the_next_where_it_is_watched_still(make):
    async def main():
        scheduler, learner = Handle("scheduler"), Handle("learner 0")
        health = make(scheduler, learner)
        health.start()

        async def loop():
            scheduler.state = "dead"
            try:
                await asyncio.sleep(1e6)
            finally:
                learner.state = "dead"
                await asyncio.sleep(20)

        async def whole():
            with pytest.raises(PartDied, match=r"^scheduler died"):
                await health.guard(loop())
            health.watch("scheduler", list)
            with pytest.raises(PartDied, match=r"^learner 0 died"):
                await health.guard(asyncio.sleep(1e6))
            return "told"

        found = await health.guard(whole())
        health.close()
        return found

    assert in_time(main)[0] == "told"


@pytest.mark.parametrize("error", [TimeoutError("batch 3"), "of ray"])
def test_a_death_that_is_found_while_an_error_is_looked_into_is_what_is_told(
    make, monkeypatch, error
):
    async def main():
        sick, other = Handle("learner 0"), Handle("learner 1")
        health = make(sick, other)
        health.start()

        async def slowly(*_):
            await asyncio.sleep(60)

        monkeypatch.setattr(health, "take_stacks", slowly)
        monkeypatch.setattr(health, "culprit", slowly)

        async def work():
            await asyncio.sleep(100)
            sick.state = "dead"
            raise error if isinstance(error, Exception) else died(other)

        with pytest.raises(PartDied, match=r"^learner 0 died"):
            await health.guard(work())
        health.close()

    in_time(main)


def raised_in_a_task(cause):
    return exceptions.RayTaskError("run", "Traceback ...", cause).as_instanceof_cause()


def test_the_culprit_is_the_part_that_died_and_not_the_one_that_says_so(make):
    """A rollout actor reports to a scheduler that is gone; a learner loses its peer."""

    async def main(error_of):
        scheduler, learner = Handle("scheduler"), Handle("learner 1")
        health = make(scheduler, learner)
        for watched in health._living():
            watched.heartbeat = Heartbeat(1, 2, watched.part.name, "")

        async def work():
            raise error_of(scheduler, learner)

        try:
            await health.guard(work())
        except PartDied as death:
            return death.part
        except ValueError as error:
            return str(error.cause)

    def report(scheduler, learner):
        scheduler.seen = Seen.GONE
        return raised_in_a_task(died(scheduler))

    def peer(scheduler, learner):
        learner.seen = Seen.GONE
        return raised_in_a_task(RuntimeError("Connection closed by peer"))

    def bug(scheduler, learner):
        return raised_in_a_task(ValueError("a bug"))

    assert in_time(lambda: main(report))[0] == "scheduler"
    assert in_time(lambda: main(peer))[0] == "learner 1"
    assert in_time(lambda: main(bug))[0] == "a bug"


def test_a_deadline_that_passes_has_what_each_part_was_doing_written_down(make, tmp_path):
    async def main():
        health = make(Handle("scheduler"))

        async def late():
            raise TimeoutError("batch 3: nothing was heard")

        with pytest.raises(TimeoutError) as found:
            await health.guard(health.guard(late()))
        return str(found.value)

    text = asyncio.run(main())
    assert text == (
        f"batch 3: nothing was heard; what each part was doing is in {tmp_path / 'stacks'}"
    )
    (written,) = (tmp_path / "stacks").iterdir()
    assert written.name.endswith("-scheduler.txt")
    assert written.read_text().startswith("batch 3: nothing was heard\n")


def test_an_engine_that_happens_to_be_dead_is_no_reason_for_another_error(make):
    async def main():
        engine = Handle("rollout actor 0", seen=Seen.GONE)
        health = make(engine, lost=lambda death: None)
        health._living()[0].heartbeat = Heartbeat(1, 2, "rollout actor 0", "")
        unrelated = await health.culprit(raised_in_a_task(ValueError("a bug")))
        own = await health.culprit(died(engine))
        return unrelated, own.part

    assert in_time(main)[0] == (None, "rollout actor 0")
