import asyncio
import contextlib
import importlib
from pathlib import Path

import numpy as np
import pytest

from cost.types import RewardStatus
from rollout.rewards.math_answer import MathReward
from rollout.rewards.pool import RewardPool

SECONDS = 60.0
"""Far above what any of them takes; a computation without a bound is killed by the pool."""


@pytest.fixture
def hostile(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return importlib.import_module("math_hostile")


def scored(reward, items):
    pool = RewardPool(reward, num_processes=1, timeout_seconds=SECONDS)

    async def run():
        try:
            return await pool.score(items)
        finally:
            pool.close()

    return asyncio.run(run())


def assert_all_returned(results, names):
    late = {n: r.error for n, r in zip(names, results, strict=True) if r.status != RewardStatus.OK}
    assert late == {}


def test_no_response_takes_for_ever(hostile):
    forms = {
        r"so \boxed{%s}": "5", "so the answer is %s": "x+1", "so $%s$": r"\{1,2\}", "%s": "12 cm",
    }  # fmt: skip
    items = {
        (form, name): ("", form.replace("%s", text), answer)
        for form, answer in forms.items()
        for name, text in hostile.HOSTILE.items()
    }
    assert_all_returned(scored(MathReward(), list(items.values())), items)


def test_no_answer_of_a_task_takes_for_ever(hostile):
    items = {
        (response, name): ("", rf"\boxed{{{text}}}" if response == "same" else response, text)
        for response in (r"\boxed{5}", r"\boxed{x+1, 2}", "same")
        for name, text in hostile.HOSTILE.items()
    }
    assert_all_returned(scored(MathReward(), list(items.values())), items)


def test_no_check_takes_for_ever(hostile):
    items = [("", text, "") for text in hostile.HOSTILE.values()]
    results = scored(hostile.Checked(), items)
    assert_all_returned(results, hostile.HOSTILE)
    refused = {n: r.score.extracted for n, r in zip(hostile.HOSTILE, results, strict=True)}
    assert "nests more than 8 brackets" in refused["sets"]
    assert "has more than 500 characters" in refused["commas"]
    assert "towers powers" in refused["tower without braces"]
    assert refused["limit"] == refused["roots"] == ""


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"\boxed{2^{10000}}", r"4^{5000}"),
        (r"\boxed{100!}", r"100 \cdot 99!"),
        (r"\boxed{\sum_{k=1}^{100} k}", "5050"),
        (r"\boxed{\sqrt{1+\sqrt{2+\sqrt{3}}}}", r"\sqrt{\sqrt{2+\sqrt{3}}+1}"),
    ],
)
def test_what_can_be_computed_is(response, answer):
    assert MathReward().score("", response, answer).reward == 1.0


PIECES = [*r"{}()[]^_!|&<=,%$-x1ie", r"\frac", r"\sqrt{", r"\boxed{", r"\text{", r"\pm", r"\cup"]


@pytest.mark.parametrize("seed", range(20))
def test_no_damaged_answer_crashes(hostile, seed):
    rng = np.random.default_rng(seed)
    rows = [row for rows in importlib.import_module("math_pairs").PAIRS.values() for row in rows]
    for _ in range(15):
        response, answer, _ = rows[rng.integers(len(rows))]
        damaged = [damage(text, rng) for text in (response, answer)]
        MathReward().score("", damaged[0], answer)
        MathReward().score("", rf"\boxed{{{damaged[1]}}}", damaged[1])
        with contextlib.suppress(ValueError):
            MathReward().check(damaged[1])


def damage(text, rng):
    """Put in or take out a few pieces."""
    for _ in range(rng.integers(1, 5)):
        at = int(rng.integers(len(text) + 1))
        piece = PIECES[rng.integers(len(PIECES))] if rng.random() < 0.5 else ""
        text = text[:at] + piece + text[at + (0 if piece else int(rng.integers(1, 4))) :]
    return text


def test_nothing_is_evaluated_as_python(tmp_path):
    mark = tmp_path / "mark"
    for text in (
        f"__import__('pathlib').Path({str(mark)!r}).touch()",
        f"1+(2)(open({str(mark)!r},'w'))",
    ):
        for response in (text, rf"\boxed{{{text}}}", f"${text}$"):
            MathReward().score("", response, "5")
            MathReward().score("", "5", response)
    assert not mark.exists()
