"""What functions return is compared as the judges of their data sets compare it."""

import json

import pytest

from rollout.rewards.code_functions import FUNCTION, call
from tests.rollout.rewards.test_code import FRACTION, WHY, passed

needs_sandbox = pytest.mark.skipif(bool(WHY), reason=WHY)


def holds(returned, expected, exact=False):
    space = {"f": lambda: returned}
    exec(FUNCTION.format(name="f"), space)
    try:
        exec(call([], expected, exact=exact), space)
    except AssertionError:
        return False
    return True


@pytest.mark.parametrize(
    ("returned", "expected"),
    [
        (((1, 2), [(3,)]), [[1, 2], [[3]]]),
        (0.1 * 3, 0.3),
        ([{"a": (0.1 * 3, 1)}], [{"a": [0.3, 1]}]),
        (3, 3.0),
        (3, [3]),
        ([3], [3]),
        ([3], [[3]]),
        ({1: "a", -2: "b"}, {"1": "a", "-2": "b"}),
        ({1: "a"}, [{"1": "a"}]),
        ({}, {}),
        (None, None),
    ],
)
def test_outputs_are_equal_in_what_json_can_say(returned, expected):
    assert holds(returned, expected)


@pytest.mark.parametrize(
    ("returned", "expected"),
    [
        (4, [4, 4]),
        ("b", "ba"),
        (0.31, 0.3),
        (1234567.90, 1234567.89),
        (float("nan"), 0.3),
        (float("inf"), 0.3),
        ([1, 2, 3], [1, 2]),
        ({1, 2}, [1, 2]),
        ("12", ["1", "2"]),
        ({"x": 1, "y": 2}, {"x": 1}),
        ({"1": 1}, {"1": 1}),
        (3.0000001, 3),
    ],
)
def test_other_outputs_are_wrong(returned, expected):
    assert not holds(returned, expected)


def test_exact_outputs_are_nothing_else():
    assert holds([3], [3], exact=True) and holds({"1": 1}, {"1": 1}, exact=True)
    assert not holds(3, [3], exact=True) and not holds({1: 1}, {"1": 1}, exact=True)


def test_an_only_dict_has_numbers_for_keys_again():
    assert "_called(*[{1: 2}])" in call([{"1": 2}], 0, exact=False)
    assert "_called(*[{'a': 2}])" in call([{"a": 2}], 0, exact=False)
    assert "_called(*[{'1': 2}, 3])" in call([{"1": 2}, 3], 0, exact=False)


@needs_sandbox
def test_functions_and_methods_are_called_with_inputs():
    """Their tuples are lists; an output in a list of its own is that output."""
    tests = {"fn_name": "halves", "inputs": [[7], [8]], "outputs": [[[3, 4]], [4, 4]]}
    code = "def halves(n): return n // 2, n - n // 2"
    answer = json.dumps({"tests": json.dumps(tests), "solutions": [code]})
    FRACTION.check(answer)
    assert passed(code, answer) == 1.0
    method = "class Solution:\n    def halves(self, n): return [n // 2, n // 2]"
    assert passed(method, answer) == 0.5
    assert passed("def other(n): return n", answer) == 0.0
    hinted = "def halves(n: Optional[int]): return floor(n / 2), ceil(n / pow(2, 1, 5))"
    assert passed(hinted, answer) == 1.0


NAMED = [
    ("factorial", "class Solution:\n    def factorial(self, n): return [factorial(n)]", [[3], [6]]),
    ("sum", "def sum(a): return max(a)", [[[1, 2]], 2]),
    ("all", "class Solution:\n    def all(self, a): return max(a)", [[[1, 2]], 2]),
    ("trace", "def trace(n): return n + 1", [[1], 2]),
]


@needs_sandbox
@pytest.mark.parametrize(("name", "code", "test"), NAMED)
def test_names_that_python_has_are_the_responses(name, code, test):
    """What Python and the judge's imports have by them is no answer."""
    tests = {"fn_name": name, "inputs": [test[0]], "outputs": [test[1]]}
    answer = json.dumps({"tests": tests, "solutions": [code]})
    FRACTION.check(answer)
    assert passed("x = 1", answer) == 0.0
    assert passed(f"{name} = lambda *given: True", answer) == 0.0


@needs_sandbox
def test_imports_of_the_future_come_before_those_of_the_judge():
    tests = {"fn_name": "f", "inputs": [[6]], "outputs": [2]}
    code = "from __future__ import annotations\ndef f(n: Optional[Later]): return gcd(n, 4)"
    answer = json.dumps({"tests": tests, "solutions": [code]})
    FRACTION.check(answer)
    assert passed(code.replace("annotations", "(\n  annotations,\n)"), answer) == 1.0
