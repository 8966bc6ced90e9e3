"""Comparisons that are planned and never started, and what their runs would leave."""

import functools

import pytest

from conf.programs import BudgetConfig, CompareConfig, register
from launch.study.comparison import plan
from tests.launch.study.comparison.planned import PLAIN

register()
composed_once = functools.cache(plan.compose_run)


@pytest.fixture(autouse=True)
def fast_compose(monkeypatch):
    """Composing takes most of the time, and the same few arms come again and again."""
    monkeypatch.setattr(
        plan,
        "compose_run",
        lambda overrides, base: composed_once(tuple(overrides), base=tuple(base)).copy(),
    )


@pytest.fixture
def make_config(tmp_path):
    def make(**changes):
        settings = {
            "name": "compare", "run_dir": str(tmp_path / "out"), "seeds": [0, 1],
            "base": ["experiment=quickstart"], "arms": {"plain": PLAIN, "aware": []},
            "budget": BudgetConfig(amount=5000),
        }  # fmt: skip
        return CompareConfig(**(settings | changes))

    return make
