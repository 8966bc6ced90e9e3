"""Hidden tests are read in the layouts of well-known data sets; the rows are invented."""

import json

import pytest

from rollout.rewards.code_tests import HiddenTests, read_tests


def read(**row):
    return read_tests(json.dumps(row))


def test_asserts_come_as_this_project_or_mbpp_has_them():
    asserts, code = ("assert add(2, 3) == 5",), "def add(a, b): return a + b"
    expected = HiddenTests((), asserts, "import math", (code,))
    assert read(asserts=asserts, setup="import math", reference=code) == expected
    row = {"test_list": asserts, "code": code, "task_id": 601}
    found = read(**row, test_setup_code="import math", challenge_test_list=[])
    assert (found.asserts, found.setup.strip(), found.references) == (
        asserts, "import math", (code,),
    )  # fmt: skip
    sanitized = read(**row, test_imports=["import math"])
    assert sanitized.setup.strip() == "import math"


def test_human_eval_checks_the_function_that_its_prompt_begins():
    test = "def check(candidate):\n    assert candidate(2) == 4\n"
    prompt = 'import math\n\ndef double(n):\n    """Twice."""\n'
    row = {"entry_point": "double", "test": test, "canonical_solution": "    return 2 * n\n"}
    found = read(task_id="HumanEval/0", prompt=prompt, **row)
    reference = f"{prompt}    return 2 * n\n"
    expected = HiddenTests((), ("check(double)",), test, (reference,), prompt, ("double",))
    assert found == expected
    assert read(prompt="def double(n):\n", **row).prelude == ""
    method = read(**row | {"entry_point": "Solution().double"})
    assert (method.asserts, method.called) == (("check(Solution().double)",), ())


@pytest.mark.parametrize(
    "row",
    [
        {"input_output": {"inputs": ["2\n", "3\n"], "outputs": ["4\n", "6\n"]}},
        {"input_output": json.dumps({"inputs": ["2\n", "3\n"], "outputs": ["4\n", "6\n"]})},
        {"input_output": {"inputs": [["2", ""], ["3", ""]], "outputs": [["4", ""], ["6", ""]]}},
        {"tests": {"inputs": ["2\n", "3\n"], "outputs": ["4\n", "6\n"], "fn_name": None}},
        {
            "tests": json.dumps(
                [
                    {"type": "stdin_stdout", "input": "2\n", "output": "4\n"},
                    {"type": "stdin_stdout", "input": "3\n", "output": "6\n"},
                ]
            )
        },
    ],
)
@pytest.mark.parametrize("solutions", [["a", "b"], '["a", "b"]'])
def test_programs_are_given_inputs_and_outputs(row, solutions):
    expected = HiddenTests((("2\n", "4\n"), ("3\n", "6\n")), (), "", ("a", "b"))
    assert read(**row, solutions=solutions) == expected


def test_a_bare_list_is_one_of_tests():
    found = read_tests('[{"input": "2", "output": "4"}]')
    assert (found.cases, found.references) == ((("2", "4"),), ())


def verdicts(found, **names):
    """Which asserts hold in this process."""
    held = []
    for text in found.asserts:
        space = dict(names)
        exec(found.setup, space)
        try:
            exec(text, space)
            held.append(True)
        except AssertionError:
            held.append(False)
    return held


@pytest.mark.parametrize(
    "tests",
    [
        {"fn_name": "add", "inputs": [[1, 2], [[1], [2]], [0, 0]], "outputs": [3, [1, 2], [0]]},
        [
            {"fn_name": "add", "input": [1, 2], "output": 3},
            {"fn_name": "add", "input": [[1], [2]], "output": [[1, 2]]},
            {"fn_name": "add", "input": [0, 0], "output": 0},
        ],
        [
            {"testtype": "functional", "input": "1\n2", "output": "3",
             "metadata": {"func_name": "Solution().add"}},
            {"testtype": "functional", "input": "[1]\n[2]", "output": "[1, 2]", "metadata": {}},
            {"testtype": "functional", "input": "0\n0", "output": "0", "metadata": {}},
        ],
    ],
)  # fmt: skip
def test_functions_and_methods_are_called_with_arguments(tests):
    found = read(tests=tests)
    assert not found.cases
    exec(found.prelude + "\ndef f(values: List[int]) -> int: return gcd(*values)", {})

    def add(a, b):
        return a + b

    class Solution:
        def add(self, a, b):
            return tuple(a + b) if isinstance(a, list) else a + b

    assert verdicts(found, add=add) == [True] * 3
    assert verdicts(found, Solution=Solution) == [True] * 3
    assert verdicts(found, add=lambda a, b: a) == [False, False, True]


def test_names_that_python_has_are_the_solutions_where_it_is_only_these_that_are_tested():
    total = "def sum(a, b): return a + b"
    assert read(test_list=["assert sum(1, 2) == 3"], code=total).called == ("sum",)
    both = f"{total}\ndef f(a): return sum(a, a)"
    assert read(test_list=["assert sum([f(1)]) == 2"], code=both).called == ()
    assert read(test_list=["assert f(1) == 2"], code=both).called == ()
    assert read(test_list=["assert sum([f(1)]) == 2"], code="def f(").called == ()


def test_the_longest_inputs_are_kept():
    found = read(cases=[{"stdin": "1" * n, "stdout": ""} for n in (1, 3, 2)])
    assert [len(given) for given, _ in found.longest(2).cases] == [3, 2]


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ("5", "JSON object with cases or asserts, test_list, .*, or tests, got '5'"),
        ('{"reference": "1"}', "JSON object with cases or asserts"),
        ('{"asserts": [], "reference": "1"}', "needs a test or more"),
        ('{"tests": []}', "needs a test or more"),
        ('{"asserts": ["x"], "seed": 1}', "needs an answer of cases or asserts, .* got 'seed'"),
        ('{"cases": [{"stdin": 1}]}', "stdin and stdout as text"),
        ('{"asserts": "x"}', "asserts must be texts of Python"),
        ('{"asserts": ["assert ("]}', "must be Python .*got 'assert"),
        ('{"asserts": ["x"], "setup": 1}', "setup must be Python code, got 1"),
        ('{"tests": "1"}', "must be inputs with an output for each, got 1"),
        ('{"tests": {"inputs": ["1"], "outputs": []}}', "must be inputs with an output for each"),
        ('{"tests": [{"input": "1"}]}', "a program's output must be a text, got None"),
        ('{"tests": {"inputs": ["1"], "outputs": ["2"], "fn_name": "f"}}', "list of arguments"),
        ('{"tests": {"inputs": [[]], "outputs": [1], "fn_name": "f()"}}', r"a function, got 'f\("),
        (
            '{"asserts": ["def test_f():\\n    assert f()"]}',
            "asserts must test something, .*got 'def",
        ),
        ('{"test": "1", "entry_point": "f"}', r"test must define check\(candidate\), .*got '1'"),
        ('{"test": "1", "entry_point": "while"}', "must name a function, got 'while'"),
        ('{"tests": [{"input": "1", "output": ""}], "solutions": [1]}', "solutions must be texts"),
    ],
)
def test_what_is_no_test_is_refused(answer, told):
    with pytest.raises(ValueError, match=told):
        read_tests(answer)
