"""What the bench of reward processes counts; nothing about speed."""

from types import SimpleNamespace

import pytest

from launch.study.bench import rewards as module
from launch.study.bench.rewards import bench_rewards


@pytest.mark.parametrize(("processes", "concurrency"), [(1, 3), (2, 2)])
def test_rates_are_of_all_responses_and_best_is_what_waits_at_once(
    monkeypatch, processes, concurrency
):
    monkeypatch.setattr(module, "WAIT_SECONDS", 0.01)
    rollout = SimpleNamespace(reward_processes=processes, reward_concurrency=concurrency)
    found = bench_rewards(SimpleNamespace(rollout=rollout), repetitions=2, warm_ups=1)
    rates = found["responses_per_second"]
    assert set(rates) == {"waits_one_at_a_time", "waits_together", "answers_at_once"}
    best = processes * concurrency / 0.01
    assert found["together_over_the_best"]["middle"] == pytest.approx(
        rates["waits_together"] / best, rel=0.5
    )
    # Waiting bounds what can be scored, whatever the machine.
    assert found["together_over_the_best"]["largest"] <= 1
    assert rates["waits_one_at_a_time"] <= processes / 0.01
