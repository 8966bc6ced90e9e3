"""Calls are found in every form that chat templates use, and what is none is said to be wrong."""

import json
import re

import pytest

from rollout.tools.calls import BadCall, Call, find_calls

PRODUCT = Call("calculator", {"expression": "6 * 7"})
AS_JSON = '{"name": "calculator", "arguments": {"expression": "6 * 7"}}'


@pytest.mark.parametrize(
    "text",
    [
        f"<tool_call>\n{AS_JSON}\n</tool_call>",
        f"I compute it.\n<tool_call>{AS_JSON}</tool_call> and wait",
        f"<tool_call>[{AS_JSON}]</tool_call>",
        f"<tool_call>{AS_JSON}",
        AS_JSON,
        f"Let me see: {AS_JSON}",
        f"[TOOL_CALLS][{AS_JSON}]",
        f"<|python_tag|>{AS_JSON.replace('arguments', 'parameters')}<|eom_id|>",
        f"```json\n{AS_JSON}\n```",
        f"```\n{AS_JSON}\n```",
        '{"type": "function", "function": ' + AS_JSON + "}",
        '{"id": "a", "function": {"name": "calculator", "arguments": '
        + json.dumps(json.dumps({"expression": "6 * 7"}))
        + "}}",
        '{"arguments": {"expression": "6 * 7"}, "name": "calculator"}',
        f"<think>{AS_JSON} ```python\n1\n```</think>{AS_JSON}",
    ],
)
def test_a_call_is_found_in_every_form(text):
    assert find_calls(text) == (PRODUCT,)


@pytest.mark.parametrize("said", ["</think>", "<think>", "a <think>b</think> c"])
def test_a_call_may_speak_of_thoughts(said):
    arguments = json.dumps({"text": said})
    call = f'{{"name": "f", "arguments": {arguments}}}'
    expected = (Call("f", {"text": said}),)
    assert find_calls(f"<tool_call>{call}</tool_call>") == expected
    assert find_calls(f"<think>hm</think>\n{call}") == expected
    assert find_calls(f"hm, {AS_JSON}</think>\n{call}") == expected
    code = f"print({said!r})\n"
    assert find_calls(f"```python\n{code}```") == (Call("python", {"code": code}),)


@pytest.mark.parametrize(
    "text",
    [
        f"<think>{AS_JSON}",
        f"<think>\n```python\n1\n```\n<tool_call>{AS_JSON}</tool_call>",
        f"<think>{AS_JSON}</think>It is 42.",
        f"{AS_JSON}</think>It is 42.",
        f"<think>{AS_JSON}</think>So: <think>{AS_JSON}",
    ],
)
def test_what_is_thought_is_not_called(text):
    assert find_calls(text) == ()


@pytest.mark.parametrize("thought", ['<tool_call>{"name": ', "```python\n1", '{"name": "f", "arg'])
def test_what_is_broken_in_a_thought_hides_no_call_behind_it(thought):
    for opener in ("", "<think>\n"):
        assert find_calls(f"{opener}{thought}</think>\n{AS_JSON}") == (PRODUCT,)


def test_fenced_code_is_a_call_of_the_python_tool_and_is_kept_to_the_letter():
    code = 'x = {"name": "f", "arguments": {}}\nprint("<tool_call>")\n'
    text = f"So:\n```python\n{code}```\nthen {AS_JSON}"
    assert find_calls(text) == (Call("python", {"code": code}), PRODUCT)
    assert find_calls(f"```py\n{code}```") == (Call("python", {"code": code}),)
    assert find_calls("```rust\nfn main() {}\n```") == ()


def test_calls_come_in_their_order():
    text = f"{AS_JSON}<tool_call>[{AS_JSON}, {AS_JSON}]</tool_call>```python\n1\n```"
    text = text.replace("```python", "\n```python")
    assert find_calls(text) == (PRODUCT, PRODUCT, PRODUCT, Call("python", {"code": "1\n"}))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "The answer is 42.",
        '{"name": "Ada", "age": 36}',
        '{"name": broken',
        '{"type": "object"}',
        "{'name': 'calculator'}",
    ],
)
def test_what_only_talks_calls_nothing(text):
    assert find_calls(text) == ()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("<tool_call>calculator(6)</tool_call>", "not JSON .Expecting value at character 1"),
        ('<tool_call>{"name": "f", }</tool_call>', "not JSON"),
        ("<tool_call>{} {}</tool_call>", "followed by '{}'"),
        ('<tool_call>{"arguments": {}}</tool_call>', "needs a name"),
        ('<tool_call>{"name": 3, "arguments": {}}</tool_call>', "needs a name"),
        ("<tool_call>3</tool_call>", "needs a name"),
        ('<tool_call>{"name": "f"}</tool_call>', "arguments as an object"),
        ('{"name": "f", "arguments": [1]}', "arguments as an object"),
        ('{"name": "f", "arguments": "x"}', "text that is not JSON"),
        ('{"name": "f", "arguments": {"x": 1}', "not JSON"),
        ("```python\nprint(1)", "close it"),
        ("<tool_call>" + "[" * 100_000, "not JSON that can be read"),
        ("<tool_call>" + "9" * 10_000 + "</tool_call>", "not JSON that can be read"),
    ],
)
def test_a_bad_call_says_what_was_wrong(text, told):
    (bad,) = find_calls(text)
    assert isinstance(bad, BadCall)
    assert re.search(told, bad.message)


@pytest.mark.parametrize(
    "part",
    [
        '{"name":',
        '{"name": "f", "arguments": ',
        "<tool_call>",
        "```python\n",
        '{"type":"',
        "[",
        "<think>",
        "</think>",
        "<tool_call></think>",
    ],
)
def test_hostile_text_raises_nothing_and_calls_nothing(part):
    found = find_calls(part * 5_000)
    assert len(found) <= 1 and all(isinstance(each, BadCall) for each in found)
