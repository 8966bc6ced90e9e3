"""Whatever a policy calls, it reads an observation; only a fault of the tool itself is an error."""

import asyncio

import pytest

from rollout.tools.calls import BadCall, Call, find_calls
from rollout.tools.tool import (
    MAX_OBSERVATION,
    Observation,
    Tool,
    ToolError,
    observe,
    shortened,
    tools_by_name,
)

SCHEMA = {
    "type": "function",
    "function": {
        "name": "double",
        "description": "Doubles a number.",
        "parameters": {
            "type": "object",
            "properties": {"number": {"type": "integer"}, "times": {"type": "integer"}},
            "required": ["number"],
        },
    },
}


class Double:
    name = "double"
    schema = SCHEMA

    async def call(self, arguments):
        if arguments["number"] == 13:
            raise ToolError("13 is not for me")
        return str(
            arguments["number"] * 2 ** arguments.get("times", 1) // (arguments["number"] - 7)
        )


TOOLS = tools_by_name([Double()])


def observed(call, tools=TOOLS):
    return asyncio.run(observe(call, tools))


def test_a_call_is_answered():
    assert isinstance(Double(), Tool)
    (call,) = find_calls('{"name": "double", "arguments": {"number": 8}}')
    assert observed(call) == Observation("16", failed=False)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (BadCall("no JSON"), "Error: no JSON"),
        (Call("triple", {}), "Error: there is no tool 'triple'; there are: double"),
        (Call("double", {}), "Error: double: 'number' is a required property"),
        (Call("double", {"number": "8"}), "Error: double: number: '8' is not of type 'integer'"),
        (Call("double", {"n": 8}), "Error: double: there is no argument 'n'; it takes: number, t"),
        (Call("double", {"number": 13}), "Error: double: 13 is not for me"),
    ],
)
def test_a_bad_call_reads_what_was_wrong(call, told):
    observation = observed(call)
    assert observation.failed and observation.text.startswith(told)


def test_a_fault_of_the_tool_is_an_error_of_its_own():
    with pytest.raises(ZeroDivisionError):
        observed(Call("double", {"number": 7}))


def test_a_long_observation_keeps_its_ends():
    text = "a" * MAX_OBSERVATION + "z"
    assert shortened(text[1:]) == text[1:]
    kept = shortened(text)
    assert kept.startswith("aaa") and kept.endswith("z") and "1 characters left out" in kept


@pytest.mark.parametrize(
    ("tools", "told"), [([Double(), Double()], "double twice"), ([3], "name, schema, call, got 3")]
)
def test_what_cannot_be_told_apart_or_called_is_refused(tools, told):
    with pytest.raises(ValueError, match=told):
        tools_by_name(tools)
