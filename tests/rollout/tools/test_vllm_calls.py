"""Calls in the forms of families of models, as vLLM's parsers read them."""

import json

import pytest
from transformers import AutoTokenizer

from rollout.tools.calls import BadCall, Call
from rollout.tools.vllm_calls import VllmCalls
from tests.places import PROJECT

SCHEMA = {
    "type": "function",
    "function": {
        "name": "add", "description": "Adds.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
        },
    },
}  # fmt: skip
SUM = Call("add", {"a": 2, "b": 3})
JSON = json.dumps(SUM.arguments)
XML = "<function=add>\n<parameter=a>\n2\n</parameter>\n<parameter=b>\n3\n</parameter>\n</function>"
FORMS = {
    "qwen3_coder": f"I add.\n<tool_call>\n{XML}\n</tool_call>",
    "hermes": f'<tool_call>\n{{"name": "add", "arguments": {JSON}}}\n</tool_call>',
    "glm45": "<tool_call>add\n<arg_key>a</arg_key>\n<arg_value>2</arg_value>\n"
    "<arg_key>b</arg_key>\n<arg_value>3</arg_value>\n</tool_call>",
    "mistral": f"[TOOL_CALLS]add[ARGS]{JSON}",
    "kimi_k2": "<|tool_calls_section_begin|><|tool_call_begin|>functions.add:0"
    f"<|tool_call_argument_begin|>{JSON}<|tool_call_end|><|tool_calls_section_end|>",
    "llama3_json": f'{{"name": "add", "parameters": {JSON}}}',
    "pythonic": "[add(a=2, b=3)]",
    "minimax_m2": '<minimax:tool_call>\n<invoke name="add">\n<parameter name="a">2</parameter>\n'
    '<parameter name="b">3</parameter>\n</invoke>\n</minimax:tool_call>',
}
MARKS = [
    *("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>"),
    *("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>", "<|tool_call_begin|>"),
    *("<|tool_call_end|>", "<|tool_call_argument_begin|>"),
    *("<minimax:tool_call>", "</minimax:tool_call>"),
]


@pytest.fixture(scope="module")
def tokenizer():
    found = AutoTokenizer.from_pretrained(PROJECT / "rollout/tasks/calculator_model")
    found.add_tokens(MARKS, special_tokens=True)
    return found


@pytest.mark.parametrize("name", FORMS)
def test_a_call_is_read_in_the_form_of_every_family(tokenizer, name):
    find = VllmCalls(name, tokenizer, [SCHEMA])
    assert find(FORMS[name]) == (SUM,)
    # Nothing is left of a call that was read before.
    assert find("It is 5.") == ()
    assert find(FORMS[name]) == (SUM,)


def test_thoughts_call_nothing(tokenizer):
    find = VllmCalls("qwen3_coder", tokenizer, [SCHEMA])
    form = FORMS["qwen3_coder"]
    assert find(f"<think>{form}</think>It is 5.") == ()
    assert find(f"<think>{form}") == ()
    assert find(f"<think>No.</think>{form}") == (SUM,)


def test_arguments_that_are_no_object_are_told(tokenizer):
    form = FORMS["kimi_k2"].replace(JSON, "[2, 3]")
    [found] = VllmCalls("kimi_k2", tokenizer, [SCHEMA])(form)
    assert isinstance(found, BadCall)
    assert found.message.startswith("a call needs arguments as an object")


def test_a_call_on_which_a_parser_breaks_down_is_a_bad_one(tokenizer, monkeypatch):
    find = VllmCalls("hermes", tokenizer, [SCHEMA])

    def breaks(*arguments):
        raise RecursionError("too deep")

    monkeypatch.setattr(find._parser, "extract_tool_calls", breaks)
    assert find(FORMS["hermes"]) == (BadCall("the call cannot be read (RecursionError)"),)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("qwen4", r"must be empty or one of vLLM's tool parsers, .*qwen3_coder.*, got 'qwen4'"),
        ("lfm2", r"must be one that reads what the policy .*, got 'lfm2' \(.*tool_call_start"),
        ("openai", r"must be one that reads what the policy .*, got 'openai' \("),
    ],
)
def test_a_parser_that_is_none_or_not_for_this_policy_is_refused(tokenizer, name, message):
    with pytest.raises(ValueError, match=rf"^environment\.parser {message}"):
        VllmCalls(name, tokenizer, [SCHEMA])
