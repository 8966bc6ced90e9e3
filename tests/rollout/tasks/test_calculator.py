"""The calculator task: questions, the tool, and a teacher, in the tokens of its model."""

import asyncio
import random

import pytest
from transformers import AutoTokenizer

from rollout.rewards.chain import ChainReward
from rollout.tasks.calculator import (
    CALL_BEGIN,
    CALL_END,
    CalculatorTask,
    CalculatorTeacher,
    draw_products,
)
from rollout.tools.calculator import Calculator
from rollout.tools.calls import find_calls
from tests.places import PROJECT

MODEL = PROJECT / "rollout/tasks/calculator_model"


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(MODEL)


def test_splits_share_no_question_and_repeat(tokenizer):
    train, held_out = (CalculatorTask(split=s, num_prompts=30) for s in ("train", "held_out"))
    texts = [p.text for p in train.prompts(tokenizer)]
    assert texts == [p.text for p in train.prompts(tokenizer)]
    assert not set(texts) & {p.text for p in held_out.prompts(tokenizer)}
    assert all("*" in text for text in texts)


@pytest.mark.parametrize(("share", "error"), [(1.0, 0.0), (0.0, 0.0), (0.5, 0.0)])
def test_a_teacher_without_mistakes_is_right_however_often_it_calls(share, error):
    rng, teacher = random.Random(0), CalculatorTeacher(call_share=share, guess_error=error)
    for _ in range(20):
        chain = draw_products(rng)
        said = teacher.converse(chain, rng)
        for turn, heard in zip(said[:-1:2], said[1::2], strict=True):
            (call,) = find_calls(turn)
            assert asyncio.run(Calculator().call(call.arguments)) == heard
        assert not find_calls(said[-1])
        assert ChainReward().score(chain.question, said[-1], chain.answer).reward == 1.0
        assert len(said) // 2 == (chain.question.count("*") if share == 1 else len(said) // 2)


def test_guesses_are_wrong_as_often_as_said():
    rng, teacher = random.Random(0), CalculatorTeacher(call_share=0.0, guess_error=1.0)
    single = [c for c in (draw_products(rng) for _ in range(400)) if c.question.count("*") == 1]
    rights = [
        ChainReward().score("", teacher.converse(chain, rng)[-1], chain.answer).reward
        for chain in single
    ]
    assert sum(rights) == 0


def test_what_a_call_begins_and_ends_with_are_one_token_each(tokenizer):
    ids = tokenizer.encode(f"b51 {CALL_BEGIN}51*7{CALL_END}")
    assert len(ids) == len("b51 ") + 1 + len("51*7") + 1
    assert find_calls(tokenizer.decode(ids))[0].arguments == {"expression": "51*7"}


@pytest.mark.parametrize("settings", [{"call_share": 2.0}, {"guess_error": -1.0}])
def test_what_is_no_probability_is_refused(settings):
    with pytest.raises(ValueError, match=r"^calculator\.\w+ must lie in \[0, 1\]"):
        CalculatorTeacher(**settings)
