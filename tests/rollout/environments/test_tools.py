"""The environment of tools: calls are made, bad ones answered, and prompts tell of the tools."""

import asyncio
import copy
import pickle
from typing import ClassVar

import numpy as np
import pytest
from transformers import AutoTokenizer

from cost.types import PlayEnd
from rollout.environments.tools import TellingTokenizer, ToolEnvironment
from rollout.stopping import Stopping
from rollout.tasks.calculator import CalculatorTask
from rollout.tools.tool import ToolError
from rollout.types import Completion, VersionSpan
from tests.places import PROJECT

MODEL = PROJECT / "rollout/tasks/calculator_model"
END = 1


class Times:
    """Multiplies, or says that it cannot; and breaks down at thirteen."""

    name = "calculator"
    schema: ClassVar = {
        "type": "function",
        "function": {
            "name": "calculator", "description": "Multiplies.",
            "parameters": {
                "type": "object", "properties": {"expression": {"type": "string"}},
                "required": ["expression"],
            },
        },
    }  # fmt: skip

    async def call(self, arguments):
        one, found, other = arguments["expression"].partition("*")
        if not found:
            raise ToolError("write a*b")
        if "13" in (one, other):
            raise RuntimeError("out of order")
        return str(int(one) * int(other))


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(MODEL)


@pytest.fixture(scope="module")
def prompt(tokenizer):
    return CalculatorTask(num_prompts=1).prompts(tokenizer)[0]


def call(expression):
    return '{"name": "calculator", "arguments": {"expression": "' + expression + '"}}'


def play(tokenizer, prompt, *texts, **settings):
    said = [np.array([*tokenizer.encode(text), END], np.int32) for text in texts]
    asked = []

    async def generate(token_ids, max_tokens):
        ids = said[len(asked)]
        asked.append(tokenizer.decode(token_ids))
        spans = (VersionSpan(0, len(ids), 0),)
        return Completion(ids, np.zeros(len(ids), np.float32), "stop", spans, 0)

    environment = ToolEnvironment([Times()], describe="none", **settings)
    player = environment.for_policy(tokenizer, Stopping((END,)))
    return asyncio.run(player.play(generate, prompt, 400)), asked


def test_calls_are_read_in_the_form_of_the_policys_family(tokenizer, prompt):
    """Whose marks may be special tokens."""
    assert "<|tool|>" in tokenizer.all_special_tokens
    form = "[TOOL_CALLS]calculator[ARGS]"
    marked = copy.deepcopy(tokenizer)
    marked.add_tokens(["[TOOL_CALLS]", "[ARGS]"], special_tokens=True)
    said = [f'{form}{{"expression": "51*7"}}', "c57 #### 57"]
    found, asked = play(marked, prompt, *said, parser="mistral")
    assert asked[1].endswith("<|end|><|tool|>357<|end|><|assistant|>")
    assert found.end == PlayEnd.ANSWER and found.turns[0].calls == 1
    # Our own forms are not looked for.
    _, asked = play(tokenizer, prompt, f"b51 {call('51*7')}", parser="qwen3_coder")
    assert len(asked) == 1


def test_a_call_is_made_and_its_answer_read(tokenizer, prompt):
    found, asked = play(tokenizer, prompt, f"b51 {call('51*7')}", "c57 #### 57")
    assert asked[1].endswith("<|end|><|tool|>357<|end|><|assistant|>")
    assert found.end == PlayEnd.ANSWER
    assert [turn.calls for turn in found.turns] == [1, 0]
    assert tokenizer.decode(found.last_turn, skip_special_tokens=True) == "c57 #### 57"


def test_bad_calls_are_answered_and_counted(tokenizer, prompt):
    found, asked = play(
        tokenizer, prompt, call("51"), '{"name": "search", "arguments": {}}', "#### 1"
    )
    assert "Error: calculator: write a*b" in asked[1]
    assert "Error: there is no tool 'search'" in asked[2]
    assert [(t.calls, t.failed_calls) for t in found.turns] == [(1, 1), (1, 1), (0, 0)]
    assert found.end == PlayEnd.ANSWER


def test_calls_beyond_the_limit_are_told_of(tokenizer, prompt):
    found, asked = play(
        tokenizer, prompt, " ".join(call(f"{k}*2") for k in range(4)), "#### 1", max_calls=2
    )
    assert asked[1].count("<|tool|>") == 3 and "2 were not" in asked[1]
    assert (found.turns[0].calls, found.turns[0].failed_calls) == (4, 2)


def test_a_tool_that_breaks_ends_the_play_as_a_failure(tokenizer, prompt):
    found, _ = play(tokenizer, prompt, call("13*2"))
    assert found.end == PlayEnd.FAILURE and "RuntimeError: out of order" in found.failure


def test_a_tokenizer_that_tells_of_tools_can_be_copied_and_sent(tokenizer):
    telling = TellingTokenizer(tokenizer, [Times().schema], "system")
    for other in (copy.copy(telling), copy.deepcopy(telling), pickle.loads(pickle.dumps(telling))):
        messages = [{"role": "user", "content": "a1"}]
        said = other.apply_chat_template(messages, tokenize=False)
        assert said == telling.apply_chat_template(messages, tokenize=False)
        assert other.eos_token_id == tokenizer.eos_token_id


SHOWS = "{% if tools %}TOOLS {{ tools | tojson }}{% endif %}"
PLAIN = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
)


@pytest.mark.parametrize(
    ("template", "describe", "refusal"),
    [
        (SHOWS + PLAIN, "template", None),
        (PLAIN, "system", None),
        (PLAIN, "none", None),
        (PLAIN, "template", "set environment.describe=system"),
        ("{{ messages[-1]['content'] }}", "system", "set environment.describe=none"),
    ],
)
def test_prompts_tell_of_the_tools_or_the_template_is_refused(template, describe, refusal):
    own = AutoTokenizer.from_pretrained(MODEL)
    own.chat_template = template
    environment = ToolEnvironment([Times()], describe=describe)
    if refusal is not None:
        with pytest.raises(ValueError, match=refusal):
            environment.prompt_tokenizer(own)
        return
    (made,) = CalculatorTask(num_prompts=1).prompts(environment.prompt_tokenizer(own))
    assert ("Multiplies." in own.decode(made.token_ids)) is (describe != "none")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tools": []}, "environment.tools must be a list of one tool or more"),
        (
            {"tools": "my.py:add"},
            r"environment.tools must be a list .*\[my_file.py:add\], got 'my.py",
        ),
        ({"tools": [3]}, "environment.tools must be tools"),
        ({"tools": [Times(), Times()]}, "calculator twice"),
        ({"describe": "loud"}, "environment.describe must be one of template, system, none"),
        ({"max_calls": 0}, "environment.max_calls"),
    ],
)
def test_bad_settings_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        ToolEnvironment(**({"tools": [Times()]} | settings))


def test_a_template_that_asks_for_calls_in_another_form_needs_its_parser(tokenizer):
    asking = copy.deepcopy(tokenizer)
    asking.chat_template = (
        "{% for tool in tools %}{{ tool | tojson }}{% endfor %}{% if tools %}To call one, write "
        "<tool_call><function=NAME>...{% endif %}" + tokenizer.chat_template
    )
    with pytest.raises(ValueError, match=r"environment\.parser must .* environment\.parser=qwen3_"):
        ToolEnvironment([Times()]).prompt_tokenizer(asking)
    for settings in ({"parser": "qwen3_coder"}, {"describe": "none"}):
        environment = ToolEnvironment([Times()], **settings)
        assert environment.prompt_tokenizer(asking) is not None
