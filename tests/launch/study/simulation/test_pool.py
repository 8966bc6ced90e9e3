"""Many engines: who takes a ticket, what a death costs, and what is refused."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from cost.types import Ticket
from launch.study.simulation import clock
from launch.study.simulation.pool import Scores, SimulatedPool
from launch.study.simulation.speeds import EngineSpeed
from rollout.types import Prompt

SPEED = EngineSpeed(
    max_num_seqs=2, step_seconds=0.5, sequence_seconds=0.25, prefill_token_seconds=0.125
)


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
