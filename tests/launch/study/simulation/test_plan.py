"""The search for the fastest split."""

import io
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
from rich.console import Console

from launch.record.counter import Counter
from launch.study.simulation import plan
from launch.study.simulation.plan import COARSE_POINTS, about_asked, best_count


@pytest.mark.parametrize("most", [1, 2, 7, 16, 63, 100])
def test_the_best_count_is_found_wherever_it_lies(most):
    for best in range(1, most + 1):
        asked = []

        def seconds(count, best=best, asked=asked):
            asked.append(count)
            return max(best / count, (most + 1 - count) ** -1 * (most + 1 - best))

        assert best_count(seconds, most) == best
        assert len(asked) == len(set(asked)) <= about_asked(most)
        assert all(1 <= count <= most for count in asked)


def test_few_counts_are_asked_for():
    asked = []
    best_count(lambda count: asked.append(count) or abs(count - 700.3), 1023)
    assert len(asked) < COARSE_POINTS + 2 * 8 + 4


@dataclass(frozen=True)
class Batch:
    tickets_per_step: int = 512
    thinning: object = None


def test_a_plan_of_one_size_tells_how_far_it_is(monkeypatch):
    """Ten seconds of a clock pass with every split."""
    told, now = io.StringIO(), iter(range(0, 10_000, 10))

    def row(config, scheduler, accelerators, engines):
        return SimpleNamespace(
            accelerators=accelerators,
            engines=engines,
            learners=accelerators - engines,
            step_seconds=abs(engines - 9.5),
        )

    def counter(name, total):
        return Counter(name, total, console=Console(file=told), clock=lambda: float(next(now)))

    monkeypatch.setattr(plan, "_row", row)
    monkeypatch.setattr(plan, "Counter", counter)
    monkeypatch.setattr(plan, "batch_of", lambda config, number: Batch())
    profile = SimpleNamespace(engine=SimpleNamespace(accelerators=1))
    plan.plan_sizes(SimpleNamespace(accelerators=[16], profile=profile))
    lines = told.getvalue().splitlines()
    assert len(lines) > 5 and "16 accelerators, " in lines[0] and "left -" not in lines[0]
