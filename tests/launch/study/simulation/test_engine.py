"""Engines against arithmetic by hand: continuous batching, pauses, deaths."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from cost.types import Ticket
from launch.study.simulation import clock
from launch.study.simulation.engine import (
    EngineDiedError,
    EngineSpeed,
    Scores,
    SimulatedEngine,
    SimulatedPool,
)
from rollout.types import Prompt

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


class FakePolicy:
    def lengths(self, ticket):
        lengths = np.full(ticket.num_samples, 5 + ticket.ticket_id % 7, np.int64)
        return lengths, lengths >= ticket.max_tokens

    def score(self, ticket, lengths, version):
        n = len(lengths)
        return Scores(np.ones(n), np.zeros(n), np.zeros(n, np.int64))


def run_pool(num_tickets, speed, num_engines=3, **settings):
    async def main():
        reports = []

        async def observe(report):
            reports.append(report)

        pool = SimulatedPool(speed, num_engines, FakePolicy(), observe, **settings)
        prompt = Prompt(0, np.zeros(8, np.int32), "", "", "")
        tickets = [Ticket(i, 0, 2, 1.0, 1.0, 100) for i in range(num_tickets)]
        groups = await asyncio.gather(*(pool.run(ticket, prompt) for ticket in tickets))
        pool.close()
        pool.count_up()
        return pool, groups, reports

    return clock.run(main())


def test_tickets_go_to_the_least_loaded_engine():
    pool, groups, reports = run_pool(6, SPEED)
    assert [engine.prefill_tokens for engine in pool.engines] == [16, 16, 16]
    assert sorted(r.ticket_id for r in reports) == list(range(6))
    assert all(group.data is not None for group in groups)


def test_deaths_keep_tickets_and_count_what_is_lost():
    deadly = replace(SPEED, failures_per_hour=60.0, restart_seconds=10.0)
    pool, groups, reports = run_pool(60, deadly, max_retries=50)
    calm, same, _ = run_pool(60, SPEED)
    assert pool.num_failures > 0 and pool.num_retries > 0
    for group, other in zip(groups, same, strict=True):
        assert group.report.ticket_id == other.report.ticket_id
        assert group.report.lengths.tolist() == other.report.lengths.tolist()
    assert sum(engine.lost_tokens for engine in pool.engines) > 0
    generated = sum(e.response_tokens + e.prefill_tokens for e in pool.engines)
    assert generated == sum(report.generated_tokens for report in reports)
    assert generated == sum(e.response_tokens + e.prefill_tokens for e in calm.engines)


def test_a_ticket_that_fails_for_good_is_an_empty_group():
    deadly = replace(SPEED, failures_per_hour=3600.0, restart_seconds=1.0)
    _, groups, reports = run_pool(40, deadly, max_retries=0)
    failed = [group for group in groups if group.data is None]
    assert failed and all(group.report.num_responses == 0 for group in failed)
    assert len(reports) == 40


def test_settings_are_checked():
    with pytest.raises(ValueError, match=r"^profile\.engine\.max_num_seqs must be at least 1"):
        replace(SPEED, max_num_seqs=0)
    with pytest.raises(ValueError, match=r"^profile\.engine\.step_seconds must be finite"):
        replace(SPEED, step_seconds=-1.0)
    with pytest.raises(ValueError, match=r"^update_mode must be one of recompute, keep_kv"):
        run_pool(1, SPEED, update_mode="drain")
