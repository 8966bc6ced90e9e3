"""Scripted plays: the environment's own tokens between a script's turns, and every misfit told."""

import numpy as np
import pytest
from transformers import AutoTokenizer

from cost.types import PlayEnd
from rollout.environments import SingleTurn
from rollout.environments.scripted import scripted_play
from rollout.environments.tools import ToolEnvironment
from rollout.stopping import stopping_of
from rollout.tasks.calculator import CalculatorTask
from rollout.tools.calculator import Calculator
from tests.places import PROJECT

MODEL = PROJECT / "rollout/tasks/calculator_model"
CALL = '{"name": "calculator", "arguments": {"expression": "6*7"}}'


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(MODEL)


def play(tokenizer, *turns, environment=None, max_tokens=200, script=None):
    environment = environment or ToolEnvironment([Calculator()], describe="none", max_turns=3)
    bind = getattr(environment, "for_policy", None)
    player = bind(tokenizer, stopping_of(str(MODEL), tokenizer)) if bind else environment
    (prompt,) = CalculatorTask(num_prompts=1).prompts(tokenizer)
    return scripted_play(
        player, tokenizer, prompt, script or (lambda question, answer: list(turns)), max_tokens
    )


def test_only_the_scripts_tokens_are_the_policys(tokenizer):
    found = play(tokenizer, f"b42 {CALL}", f"c {CALL}", "#### 42")
    assert found.end == PlayEnd.ANSWER
    own = tokenizer.decode(found.token_ids[found.loss_mask])
    assert own == f"b42 {CALL}<|end|>c {CALL}<|end|>#### 42<|end|>"
    others = tokenizer.decode(found.token_ids[~found.loss_mask])
    assert others == "<|tool|>42<|end|><|assistant|>" * 2
    assert [turn.calls for turn in found.turns] == [1, 1, 0]


def test_what_a_script_is_told_is_question_and_answer(tokenizer):
    told = []

    def script(question, answer):
        told.append((question, answer))
        return [f"#### {answer}"]

    found = play(tokenizer, script=script, environment=SingleTurn())
    (prompt,) = CalculatorTask(num_prompts=1).prompts(tokenizer)
    assert told == [(prompt.text, prompt.answer)]
    assert np.all(found.loss_mask)
    assert tokenizer.decode(found.token_ids) == f"#### {prompt.answer}<|end|>"


@pytest.mark.parametrize(
    ("turns", "settings", "said"),
    [
        ([CALL], {}, "goes on after it"),
        (["#### 1", "#### 1"], {}, "ended by answer after 1 of 2 turns"),
        ([CALL] * 4, {}, "ended by max_turns after 3 of 4 turns"),
        (["#### 1"], {"max_tokens": 4}, "ended by tokens after 1 of 1 turns"),
        ([CALL, "#### 1"], {"max_tokens": 8}, "ended by tokens after 1 of 2 turns"),
        ([], {}, "return a list of texts, got \\[\\]"),
        ([3], {}, "return a list of texts, got \\[3\\]"),
    ],
)
def test_a_script_that_does_not_fit_is_refused_in_a_sentence(tokenizer, turns, settings, said):
    with pytest.raises(ValueError, match=f"^script must .*{said}"):
        play(tokenizer, *turns, **settings)


def test_a_text_is_no_list_of_turns(tokenizer):
    with pytest.raises(ValueError, match="script must return a list of texts, got '#### 1'"):
        play(tokenizer, script=lambda question, answer: "#### 1")


def test_a_tool_that_breaks_is_told_with_its_question(tokenizer):
    class Broken(Calculator):
        async def call(self, arguments):
            raise RuntimeError("out of order")

    environment = ToolEnvironment([Broken()], describe="none")
    with pytest.raises(ValueError, match=r"RuntimeError: out of order \(.*\), for the question 'a"):
        play(tokenizer, CALL, "#### 1", environment=environment)
