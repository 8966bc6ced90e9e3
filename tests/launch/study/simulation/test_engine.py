"""Engines against arithmetic by hand: continuous batching, pauses, deaths."""

import asyncio

import pytest

from launch.study.simulation import clock
from launch.study.simulation.engine import EngineDiedError, SimulatedEngine
from launch.study.simulation.speeds import EngineSpeed

SPEED = EngineSpeed(
    max_num_seqs=2, step_seconds=0.5, sequence_seconds=0.25, prefill_token_seconds=0.125
)


def on_engine(body, speed=SPEED, **settings):
    async def main():
        engine = SimulatedEngine(speed, **settings)
        found = await body(engine, asyncio.get_running_loop())
        engine.count_up()
        return engine, found

    return clock.run(main())


def test_sequences_share_steps_and_the_waiting_take_free_slots():
    async def body(engine, loop):
        await engine.generate(8, [4, 10, 3])
        return loop.time()

    engine, seconds = on_engine(body)
    # Prefill 1 s; 4 steps of two; the third takes the slot: 3 steps of two; then 3 of one.
    assert seconds == pytest.approx(1 + 4 * 1.0 + 3 * 1.0 + 3 * 0.75)
    assert engine.steps == pytest.approx(10)
    assert engine.busy_seconds == pytest.approx(seconds)
    assert engine.sequence_seconds == pytest.approx(2 * (1 + 7) + 3 * 0.75)
    assert (engine.response_tokens, engine.prefill_tokens) == (17, 8)


def test_without_prefix_caching_the_prompt_is_prefilled_with_each_response():
    async def body(engine, loop):
        await engine.generate(8, [4, 4])
        return loop.time()

    engine, seconds = on_engine(body, prefix_caching=False)
    assert seconds == pytest.approx(2 * 1 + 4 * 1.0)
    assert engine.prefill_tokens == 16


def test_groups_that_come_later_end_where_they_would_one_by_one():
    async def body(engine, loop):
        ends = {}

        async def group(name, after, lengths):
            await asyncio.sleep(after)
            await engine.generate(0, lengths)
            ends[name] = loop.time()

        await asyncio.gather(group("a", 0, [10]), group("b", 1.5, [2]))
        return ends

    _, ends = on_engine(body)
    # Alone 2 steps in 1.5 s; together 2 steps of 1 s; then 6 steps alone.
    assert ends["b"] == pytest.approx(1.5 + 2)
    assert ends["a"] == pytest.approx(1.5 + 2 + 6 * 0.75)


def test_a_pause_delays_and_recomputing_costs_the_tokens_so_far():
    def seconds(recompute):
        async def body(engine, loop):
            running = asyncio.ensure_future(engine.generate(8, [10]))
            await asyncio.sleep(1 + 4 * 0.75)
            engine.pause()
            await asyncio.sleep(100)
            engine.resume(3, recompute=recompute)
            version = await running
            return loop.time(), version, engine.version

        engine, found = on_engine(body)
        assert engine.busy_seconds == pytest.approx(found[0] - 100)
        return found

    assert seconds(False) == (pytest.approx(100 + 1 + 10 * 0.75), 0, 3)
    assert seconds(True)[0] == pytest.approx(100 + 1 + 10 * 0.75 + (8 + 4) * 0.125)


def test_half_the_rate_takes_twice_as_long():
    async def body(engine, loop):
        engine.set_rate(0.5)
        running = asyncio.ensure_future(engine.generate(0, [10]))
        await asyncio.sleep(7.5)
        engine.set_rate(1.0)
        await running
        return loop.time()

    assert on_engine(body)[1] == pytest.approx(7.5 + 5 * 0.75)


def test_an_endlessly_fast_engine_takes_no_time():
    async def body(engine, loop):
        await asyncio.sleep(1e6)
        await engine.generate(10, [5, 100, 7, 2])
        return loop.time()

    speed = EngineSpeed(
        max_num_seqs=2, step_seconds=0.0, sequence_seconds=0.0, prefill_token_seconds=0.0
    )
    assert on_engine(body, speed)[1] == 1e6


def test_a_death_loses_what_was_running():
    async def body(engine, loop):
        running = asyncio.ensure_future(engine.generate(0, [10, 10, 10]))
        await asyncio.sleep(4)
        engine.fail()
        with pytest.raises(EngineDiedError):
            await running
        with pytest.raises(EngineDiedError):
            await engine.generate(0, [1])
        engine.restart(5)
        return await engine.generate(0, [1])

    engine, version = on_engine(body)
    assert version == 5
    assert engine.lost_tokens == pytest.approx(8)
    assert engine.response_tokens == 1


def test_a_death_loses_what_had_ended_of_groups_that_had_not():
    async def body(engine, loop):
        whole = asyncio.ensure_future(engine.generate(0, [2]))
        half = asyncio.ensure_future(engine.generate(0, [3, 100]))
        await whole
        while engine.steps < 10:
            await asyncio.sleep(1)
            engine.count_up()
        engine.fail()
        with pytest.raises(EngineDiedError):
            await half
        return engine.steps

    engine, steps = on_engine(body)
    assert engine.response_tokens == 2
    assert engine.lost_tokens == pytest.approx(3 + steps - 2)
