"""The calculator computes, and runs nothing."""

import asyncio

import pytest

from rollout.tools.calculator import Calculator, calculate
from rollout.tools.calls import Call
from rollout.tools.tool import Tool, ToolError, observe, tools_by_name


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("6 * 7", "42"),
        ("-(2 + 3) ** 2", "-25"),
        ("2^10", "1024"),
        ("7 // 2 + 7 % 2 + 1 / 4", "4.25"),
        ("sqrt(16) + max(1, 2, 3)", "7.0"),
        ("round(pi, 2)", "3.14"),
        ("round(1234, -2) + round(5, -1000) + round(7, 1000)", "1207"),
        ("3 ** 200", str(3**200)),
    ],
)
def test_it_computes(expression, value):
    assert calculate(expression) == value


@pytest.mark.parametrize(
    ("expression", "told"),
    [
        ("__import__('os').system('true')", "nothing that it computes"),
        ("().__class__", "nothing that it computes"),
        ("[1] * 9", "nothing that it computes"),
        ("'a' * 9", "nothing that it computes"),
        ("True + 1", "nothing that it computes"),
        ("x + 1", "nothing that it computes"),
        ("lambda: 1", "nothing that it computes"),
        ("open(1)", "nothing that it computes"),
        ("round(2.5, ndigits=1)", "nothing that it computes"),
        ("9 ** 9 ** 9", "too large"),
        ("round(5, -10 ** 9)", "round takes -1000 to 1000 digits"),
        ("round(5, -2 ** 1000)", "round takes -1000 to 1000 digits"),
        ("round(5, 1, -10 ** 9)", "has no value"),
        ("2 ** 1000 * 2 ** 1000 * 2 ** 1000", "too large"),
        ("(-8) ** 0.5", "not real"),
        ("1 / 0", "has no value: division by zero"),
        ("1e308 ** 2", "has no value"),
        ("sqrt(-1)", "has no value"),
        ("gcd(1.5, 2)", "has no value"),
        ("6 *", "is no expression"),
        ("(" * 400, "is no expression"),
        ("1" * 501, "at most 500 characters"),
        ("", "is no expression"),
    ],
)
def test_everything_else_is_told_in_words(expression, told):
    with pytest.raises(ToolError, match=told):
        calculate(expression)


def test_it_is_a_tool():
    assert isinstance(Calculator(), Tool)
    tools = tools_by_name([Calculator()])
    call = Call("calculator", {"expression": "6 * 7"})
    assert asyncio.run(observe(call, tools)).text == "42"
    bad = asyncio.run(observe(Call("calculator", {"expression": 6}), tools))
    assert bad.failed and "is not of type 'string'" in bad.text
