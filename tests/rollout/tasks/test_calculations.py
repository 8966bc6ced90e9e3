"""Calculations: splits that never meet, and a script that says what the environment answers."""

import pytest
from transformers import AutoTokenizer

from rollout.environments.scripted import scripted_play
from rollout.environments.tools import ToolEnvironment
from rollout.rewards.reasoning_gym import ReasoningGymReward
from rollout.stopping import stopping_of
from rollout.tasks.calculations import KINDS, CalculationTask, turns
from rollout.tools.calculator import Calculator
from rollout.tools.calls import Call, find_calls
from tests.places import PROJECT

MODEL = PROJECT / "rollout/tasks/calculator_model"
REWARD = ReasoningGymReward("basic_arithmetic", extract="last_number")


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(MODEL)


def test_splits_share_no_question_whatever_the_seeds(tokenizer):
    found = [
        {
            prompt.text
            for seed in seeds
            for prompt in CalculationTask(split=split, num_prompts=150, seed=seed).prompts(
                tokenizer, check=REWARD.check
            )
        }
        for split, seeds in (("train", (0, 1)), ("held_out", (0, 2)), ("warm_start", (0, 3)))
    ]
    assert all(len(texts) > 300 for texts in found)
    assert len(set.union(*found)) == sum(map(len, found))


def test_each_kind_has_as_many_questions_and_a_seed_repeats(tokenizer):
    prompts = CalculationTask(num_prompts=7).prompts(tokenizer)
    assert [p.source for p in prompts] == [kind for kind in KINDS for _ in range(7)]
    again = CalculationTask(num_prompts=7).prompts(tokenizer)
    other = CalculationTask(num_prompts=7, seed=1).prompts(tokenizer)
    assert [p.text for p in prompts] == [p.text for p in again] != [p.text for p in other]


def test_every_scripted_conversation_is_right_and_so_is_what_the_tool_says(tokenizer):
    stopping = stopping_of(str(MODEL), tokenizer)
    player = ToolEnvironment([Calculator()], describe="none").for_policy(tokenizer, stopping)
    for prompt in CalculationTask(split="warm_start", num_prompts=40).prompts(tokenizer):
        played = scripted_play(player, tokenizer, prompt, turns, 400)
        assert [(t.calls, t.failed_calls) for t in played.turns] == [(1, 0), (0, 0)]
        first, last = played.turns
        heard = tokenizer.decode(played.token_ids[first.end : last.start])
        assert heard == f"<|tool|>{prompt.answer}<|end|><|assistant|>"
        said = stopping.text(tokenizer, played.last_turn.tolist())
        assert REWARD.score(prompt.text, said, prompt.answer).reward == 1.0


@pytest.mark.parametrize(
    ("question", "expression"),
    [
        ("Solve the following multiplication: 20 * 56. Give only the result.", "20 * 56"),
        ("State the answer to the following problem: 42 - 25 + 967 =", "42 - 25 + 967"),
        ("Calculate -5 * ( -6 + 3 ).", "-5 * ( -6 + 3 )"),
        ("Calculate ( 56 + -33 ) * -50.", "( 56 + -33 ) * -50"),
    ],
)
def test_the_call_is_the_calculation_of_the_question(question, expression):
    call, answer = turns(question, "7")
    assert find_calls(call) == (Call("calculator", {"expression": expression}),)
    assert answer == "7" and not find_calls(answer)


def test_a_question_without_a_calculation_is_refused():
    with pytest.raises(ValueError, match="script needs a question with a calculation, got 'Who"):
        turns("Who is there?", "me")


@pytest.mark.parametrize("settings", [{"split": "test"}, {"num_prompts": 0}])
def test_bad_settings_are_refused(settings):
    with pytest.raises(ValueError, match=f"task.{next(iter(settings))}"):
        CalculationTask(**settings)
