"""What counts as a heartbeat, and what is done without one; time is simulated."""

import asyncio

import numpy as np
import pytest

from launch.study.simulation import clock
from rollout.progress import Attempts, Silence, StalledError, Watch


def test_a_token_speaks_for_its_request_and_those_that_came_later():
    silence = Silence()
    for name in "abc":
        silence.begin(name)
    assert silence.look({}, 5.0) == {"a": 0.0, "b": 0.0, "c": 0.0}
    assert silence.look({"b": 1}, 5.0) == {"a": 5.0, "b": 0.0, "c": 0.0}
    assert silence.look({"b": 1}, 5.0) == {"a": 10.0, "b": 5.0, "c": 5.0}
    assert silence.look({"b": 1, "c": 3}, 5.0) == {"a": 15.0, "b": 10.0, "c": 0.0}
    assert silence.look({"a": 1, "b": 1, "c": 3}, 5.0) == {"a": 0.0, "b": 0.0, "c": 0.0}


@pytest.mark.parametrize("completed", [True, False])
def test_a_request_that_ends_between_looks_speaks_only_if_it_was_completed(completed):
    silence = Silence()
    for name in "abc":
        silence.begin(name)
    silence.look({}, 5.0)
    silence.look({}, 5.0)
    silence.end("b", completed=completed)
    assert silence.look({}, 5.0) == {"a": 10.0, "c": 5.0 if completed else 10.0}


class Engine:
    """Has the token times of its requests."""

    def __init__(self, deadline_seconds=60.0):
        self.times = {}
        self.watch = Watch(deadline_seconds, self.num_tokens)

    def num_tokens(self):
        now = asyncio.get_running_loop().time()
        return {name: sum(t <= now for t in times) for name, times in self.times.items()}

    async def generate(self, name, times):
        """Tokens come at these times; the last one ends it."""
        self.times[name] = times
        try:
            async with self.watch.request(name):
                await asyncio.sleep(times[-1])
        finally:
            del self.times[name]
        return asyncio.get_running_loop().time()


@pytest.mark.parametrize("gap", [1, 50])
def test_a_request_lives_as_long_as_tokens_arrive(gap):
    assert clock.run(Engine().generate("a", range(0, 5000, gap))) >= 4950


@pytest.mark.parametrize("before", [(), (1, 2, 3, 40)])
def test_a_silent_request_ends_after_the_deadline(before):
    async def scenario():
        with pytest.raises(StalledError, match="no token for 60 s"):
            await Engine().generate("a", (*before, 10_000))
        return asyncio.get_running_loop().time() - max(before, default=0)

    assert 60 <= clock.run(scenario()) <= 60 * 1.15


def test_a_request_that_waits_behind_an_older_one_is_not_silent():
    async def scenario():
        engine = Engine()
        older = engine.generate("a", range(1000))
        waiting = engine.generate("b", (1010,))
        assert await asyncio.gather(older, waiting) == [999, 1010]

    clock.run(scenario())


def test_a_request_that_younger_ones_overtake_is_silent():
    async def scenario():
        engine = Engine()
        stuck = asyncio.create_task(engine.generate("a", (10_000,)))
        await asyncio.sleep(0)
        younger = asyncio.create_task(engine.generate("b", range(1000)))
        with pytest.raises(StalledError):
            await stuck
        assert asyncio.get_running_loop().time() < 70
        assert await younger == 999

    clock.run(scenario())


def test_no_clock_runs_while_the_engine_is_paused():
    async def scenario():
        engine = Engine()

        async def update():
            await asyncio.sleep(30)
            engine.watch.paused = True
            await asyncio.sleep(1000)
            engine.watch.paused = False

        running = asyncio.create_task(update())
        assert await engine.generate("a", (1, 1050)) == 1050
        await running

    clock.run(scenario())


def test_an_error_of_the_engine_s_own_passes_as_it_is():
    async def scenario():
        watch = Watch(60.0, dict)
        for error in (TimeoutError("of its own"), ValueError("dead")):
            with pytest.raises(type(error)) as caught:
                async with watch.request("a"):
                    raise error
            assert caught.value is error

    clock.run(scenario())


def test_news_are_told_together_and_patience_ends():
    async def scenario():
        loop, attempts = asyncio.get_running_loop(), Attempts()
        with attempts.attempt((7, 0)) as done, attempts.attempt((8, 1)) as other:
            loop.call_later(5.0, done)
            loop.call_later(5.01, done)
            loop.call_later(5.02, other)
            known, found = await attempts.changed(0, 10.0)
            assert found == {(7, 0): 2, (8, 1): 1} and 5 < loop.time() < 6
            known, found = await attempts.changed(known, 10.0)
            assert found == {(7, 0): 2, (8, 1): 1} and 15 < loop.time() < 16
            done()
            assert (await attempts.changed(known, 10.0))[1] == {(7, 0): 3}
            assert loop.time() < 16, "news that nobody has heard yet are told at once"
        done()
        assert (await attempts.changed(0, 1.0))[1] == {}

    clock.run(scenario())


def test_what_has_no_news_is_told_only_once_in_a_while_and_to_whoever_asks_for_all():
    async def scenario():
        loop, attempts = asyncio.get_running_loop(), Attempts()
        told_at = {}
        with attempts.attempt((7, 0)) as done, attempts.attempt((8, 1)):
            for second in range(1, 30):
                loop.call_at(second, done)
            known = 0
            while loop.time() < 29:
                known, found = await attempts.changed(known, 10.0)
                assert found[7, 0] == known
                told_at.update({loop.time(): key for key in found if key == (8, 1)})
            assert (await attempts.changed(0, 10.0))[1] == {(7, 0): 29, (8, 1): 0}
        assert np.diff(list(told_at)).max() < 11.2 and len(told_at) == 3

    clock.run(scenario())


def test_an_attempt_that_is_late_to_go_has_no_part_in_the_next_run_s_of_the_same_number():
    async def scenario():
        attempts = Attempts()
        with attempts.attempt((7, 0)) as old_done:
            old_done()
            new = attempts.attempt((7, 0))
            new_done = new.__enter__()
            old_done()
            assert (await attempts.changed(0, 1.0))[1] == {(7, 0): 0}
        new_done()
        assert (await attempts.changed(0, 1.0))[1] == {(7, 0): 1}
        new.__exit__(None, None, None)
        assert (await attempts.changed(0, 1.0))[1] == {}

    clock.run(scenario())
