"""Code is worth the tests it passes, and nothing that it does beside them."""

import asyncio
import json
import pickle
from dataclasses import replace

import pytest

from cost.types import RewardStatus
from rollout.rewards.code import CodeReward
from rollout.rewards.pool import RewardPool
from rollout.sandbox.config import SandboxConfig
from rollout.sandbox.run import SandboxError, working_form
from tests.places import CONF

PATIENT = SandboxConfig(wall_seconds=60, cpu_seconds=30)
FRACTION = CodeReward(credit="fraction", seconds=120, sandbox=PATIENT)
REFERENCE = "def add(a, b):\n    return a + b\n"
ADD = json.dumps(
    {
        "asserts": [
            "assert add(2, 3) == 5",
            "assert add([1], [2]) == [1, 2]",
            "assert abs(add(0.5, 0.25) - 0.75) < 1e-9",
            "for n in range(5):\n    assert add(n, n) == 2 * n",
        ],
        "reference": REFERENCE,
    }
)
try:
    working_form("auto", False)
    WHY = ""
except SandboxError as error:
    WHY = str(error)
pytestmark = pytest.mark.skipif(bool(WHY), reason=WHY)


def passed(code, answer=ADD, reward=FRACTION):
    return reward.score("", f"So:\n```python\n{code}\n```\n", answer).components["passed"]


def asserts(*tests, reference="", setup=""):
    return json.dumps({"asserts": tests, "reference": reference, "setup": setup})


def test_code_is_worth_the_tests_that_it_passes():
    assert passed(REFERENCE) == 1.0
    assert passed("def add(a, b):\n    return 5 if a == 2 else 2 * a") == 0.25
    whole = CodeReward(seconds=120, sandbox=PATIENT)
    answer = f"```python\n{REFERENCE}```"
    assert whole.score("", answer, ADD).reward == 1.0
    assert whole.score("", answer.replace("a + b", "5"), ADD).reward == 0.0
    nothing = whole.score("", "I do not know.", ADD)
    assert (nothing.reward, nothing.components["format"]) == (0.0, 0.0)


def test_a_method_is_checked_where_a_data_set_names_one():
    code = "class Solution:\n    def add(self, a, b):\n        return a + b"
    test = "def check(candidate):\n    assert candidate(a=2, b=3) == 5"
    row = {"prompt": "from typing import *\n", "test": test, "entry_point": "Solution().add"}
    assert passed(code, json.dumps(row)) == 1.0
    assert passed(code.replace("+", "-"), json.dumps(row)) == 0.0


ALWAYS_EQUAL = """
class Any(float):
    def __new__(cls, *a): return float.__new__(cls, 1e9)
    def __eq__(self, other): return True
    def __lt__(self, other): return True
    def __sub__(self, other): return 0.0
    __rsub__ = __radd__ = __add__ = __sub__
    def __abs__(self): return 0.0
def add(a, b): return Any()
"""


@pytest.mark.parametrize(
    "code",
    [
        "import os; os._exit(0)",
        "raise SystemExit(0)",
        "def add(a, b):\n    import os; os._exit(0)",
        "def add(a, b): raise SystemExit(0)",
        "def add(a, b): raise AssertionError",
        ALWAYS_EQUAL,
        ALWAYS_EQUAL.replace("(float)", "").replace("float.__new__(cls, 1e9)", "Any.plain()")
        + "Any.plain = lambda: object.__new__(Any)",
        "import builtins\nbuiltins.abs = lambda x: 0\nadd = lambda a, b: 7.5\nrange = lambda n: []",
        "import sys\nsys.stdout.write('\"\"\\n' * 9)\nadd = lambda a, b: print('\"\"')",
        """
import os
def add(a, b):
    for fd in range(64):
        try: os.write(fd, b'""\\n' * 9)
        except OSError: pass
""",
        "import os, signal\nadd = lambda a, b: os.kill(os.getppid(), signal.SIGKILL)",
        "import sys\nadd = lambda a, b: sys._getframe(1).f_globals.get('tests') or [9]",
        """
import sys
wire = sys.modules["rollout.sandbox.rpc"]
honest = wire.Peer._do
def lying(self, what, *given):
    done = honest(self, what, *given)
    return {"abs": lambda x: 0, "range": lambda n: [], **done} if what == "names" else done
wire.Peer._do = lying
add = lambda a, b: 7.5
""",
        "add = 5",
        "def add(:",
        "def add(a, b):\n    x = []\n    x.append(x)\n    return x",
        "x = 1",
    ],
)  # fmt: skip
def test_no_trick_passes_a_test(code):
    assert passed(code) == 0.0


def test_what_functions_print_is_neither_read_nor_in_their_way():
    chatty = "def add(a, b):\n    print('adding' * 50_000)\n    return a + b"
    assert passed(chatty) == 1.0


def test_an_end_of_iteration_is_no_answer_to_a_call():
    answer = asserts("assert all(map(check, [1, 2]))", reference="check = bool")
    FRACTION.check(answer)
    assert passed("def check(x): raise StopIteration", answer) == 0.0
    assert passed("check = lambda x: next(iter([]))", answer) == 0.0


def test_what_has_no_end_is_worth_what_it_passed_before():
    impatient = CodeReward("fraction", 3.0, SandboxConfig(wall_seconds=3))
    assert passed("def add(a, b):\n    while True: pass", reward=impatient) == 0.0


def test_tests_may_use_objects_callables_errors_and_arguments_that_change():
    reference = """
class Stack:
    def __init__(self): self.items = []
    def push(self, x): self.items.append(x); return self
    def __len__(self): return len(self.items)
    def __iter__(self): return iter(self.items)
    def __eq__(self, other): return self.items == other.items
    def __getitem__(self, i): return self.items[i]
def apply(f, xs): return [f(x) for x in xs]
def reverse(xs): xs.reverse()
def root(x):
    if x < 0: raise ValueError('negative')
    return {x: (x ** 0.5, None, True, {1}, b'a')}
def count():
    yield 1
    yield 2
"""
    answer = asserts(
        "s = Stack()\ns.push(1).push('b')\nassert len(s) == 2 and list(s) == [1, 'b']",
        "assert Stack().push('b')[0] == 'b'",
        "assert Stack().push(1) == Stack().push(1) and Stack() != Stack().push(1)",
        "assert isinstance(Stack(), Stack) and not isinstance(3, Stack)",
        "assert apply(lambda x: x + 1, [1, 2]) == [2, 3]",
        "xs = [1, 2, 3]\nreverse(xs)\nassert xs == [3, 2, 1]",
        "try:\n    root(-1)\n    assert 0\nexcept ValueError as e:\n    assert 'neg' in str(e)",
        "assert root(4) == {4: (2.0, None, True, {1}, b'a')}",
        "assert list(count()) == [1, 2]",
        "def check(candidate):\n    assert candidate(9)[9][0] == pi // 1\ncheck(root)",
        reference=reference,
        setup="from math import pi",
    )
    FRACTION.check(answer)
    with pytest.raises(ValueError, match="passes only 9 of its 10 tests"):
        FRACTION.check(answer.replace("[2, 3]", "[2, 4]"))


def test_programs_are_judged_by_what_they_print():
    cases = [{"stdin": "2 3\n", "stdout": "5"}, {"stdin": "1 1", "stdout": "2\n\n"}]
    answer = json.dumps({"cases": cases, "reference": "print(sum(map(int, input().split())))"})
    FRACTION.check(answer)
    assert passed("print(5)", answer) == 0.5
    assert passed("print(' 5')\nprint(2)", answer) == 0.0
    assert passed("print(5); raise SystemExit(1)", answer) == 0.0


def test_input_with_line_ends_as_on_windows_is_read_as_lines():
    answer = json.dumps({"cases": [{"stdin": "ab\r\nc\r\n", "stdout": "2\r\n1\r\n"}]})
    assert passed("print(len(input()))\nprint(len(input()))", answer) == 1.0


def test_as_much_as_is_expected_may_be_printed():
    narrow = replace(FRACTION, sandbox=replace(PATIENT, output_kib=1))
    answer = json.dumps({"cases": [{"stdin": "", "stdout": "é" * 5000}]})
    assert passed("print('é' * 5000)", answer, narrow) == 1.0
    assert passed("while True: print('é' * 5000)", answer, narrow) == 0.0


def test_other_separators_than_line_breaks_are_part_of_what_is_printed():
    answer = json.dumps({"cases": [{"stdin": "", "stdout": "a\nb"}], "reference": "print('a\\nb')"})
    FRACTION.check(answer)
    assert passed("print('a\\x0bb')", answer) == 0.0
    assert passed("print('a\\x1db')", answer) == 0.0


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ("5", "needs an answer that is a JSON object"),
        ('{"asserts": ["assert 1"]}', "needs a reference, .* set reward.references=unchecked"),
    ],
)
def test_tests_that_are_none_are_refused(answer, told):
    with pytest.raises(ValueError, match=told):
        CodeReward().check(answer)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"credit": "half"}, "must be one of fraction"),
        ({"seconds": 0}, "must be positive, got 0"),
        ({"references": "none"}, "must be one of required, unchecked, got 'none'"),
        ({"max_tests": 0}, "max_tests must be .*, got 0"),
    ],
)
def test_bad_settings_are_refused(settings, told):
    with pytest.raises(ValueError, match=told):
        CodeReward(**settings)


def test_one_of_several_references_is_enough_and_none_is_where_they_are_not_checked():
    def task(*solutions):
        tests = {"inputs": ["2", "3"], "outputs": ["4", "6"]}
        return json.dumps({"input_output": tests, "solutions": list(solutions)})

    wrong, right = "print(4)", "print(2 * int(input()))"
    FRACTION.check(task(wrong, right))
    with pytest.raises(ValueError, match="passes only 1 of its 2 tests"):
        FRACTION.check(task(wrong))
    CodeReward(references="unchecked").check(task(wrong))
    CodeReward(references="unchecked").check(task())
    with pytest.raises(ValueError, match="needs an answer"):
        CodeReward(references="unchecked").check("5")


def test_the_reference_is_an_example_of_what_is_right():
    assert FRACTION.score("", FRACTION.example(ADD), ADD).reward == 1.0
    assert FRACTION.example('{"asserts": ["assert add(2, 3) == 5"]}') == ""


def test_so_many_tests_are_used_as_are_asked_for():
    """Those with the longest input."""
    tests = [{"input": "1" * n, "output": str(n)} for n in (1, 3, 2)]
    answer = json.dumps({"tests": tests, "solutions": ["print(len(input()))"]})
    code = "print(max(2, len(input())))"
    assert passed(code, answer) == pytest.approx(2 / 3)
    assert passed(code, answer, replace(FRACTION, max_tests=2)) == 1.0


def test_python_s_own_is_no_answer_to_a_test_of_its_name():
    answer = {"test_list": ["assert max([1, 2]) == 2"], "code": "def max(a): return sorted(a)[-1]"}
    FRACTION.check(json.dumps(answer))
    assert passed("x = 1", json.dumps(answer)) == 0.0


def test_scripted_responses_go_through_the_pool():
    assert pickle.loads(pickle.dumps(FRACTION)) == FRACTION
    responses = [f"```python\n{REFERENCE}```", "no code", "```python\nadd = len\n```"]

    async def main():
        pool = RewardPool(FRACTION, timeout_seconds=200)
        try:
            return await pool.score([("add", response, ADD) for response in responses])
        finally:
            pool.close()

    found = asyncio.run(main())
    assert [one.status for one in found] == [RewardStatus.OK] * 3
    assert [one.score.reward for one in found] == [1.0, 0.0, 0.0]


def test_the_shipped_exercises_pass_their_own_tests():
    lines = (CONF / "examples" / "exercises.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert len({row["prompt"] for row in rows}) == len(rows) >= 30
    for row in rows:
        FRACTION.check(json.dumps(row["answer"]))
