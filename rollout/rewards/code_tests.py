"""Hidden tests of a programming task, in the layouts that data sets have them in.

| of | an object has | and may have |
| --- | --- | --- |
| this project | `cases`: `[{"stdin": ..., "stdout": ...}]`, or `asserts`: Python | `setup`: \
Python before each assert; `reference`: code that passes |
| MBPP | `test_list`: asserts | `test_setup_code` or `test_imports`; `code`, which passes |
| HumanEval, LeetCode | `test` and `entry_point`: a function, or `Solution().NAME` | `prompt` \
and `canonical_solution`, which together pass |
| APPS, TACO | `input_output` | `solutions` |
| DeepCoder, PrimeIntellect | `tests` | `solutions` |

The last two hold inputs and outputs, of a program or, with `fn_name`, of a function or a method of
`Solution`: `{"inputs": [...], "outputs": [...], "fn_name": ...}`, or a list of `{"input": ...,
"output": ...}`, with `fn_name` or `metadata.func_name` in each. They may be texts that are JSON;
`rollout.rewards.code_functions` says when what a function returns is such an output.
"""

import ast
import builtins
import json
import keyword
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from rollout.rewards.code_functions import FUNCTION, IMPORTED, call

_DEFINITIONS = (
    ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Pass
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class HiddenTests:
    """The hidden tests of one task.

    Example: HiddenTests(cases=(("2 3", "5"),), asserts=(), setup="", references=("print(5)",)).
    """

    cases: tuple[tuple[str, str], ...]
    """What a program reads, and what it is to print."""
    asserts: tuple[str, ...]
    """Texts of Python."""
    setup: str
    """Python that is run before each of `asserts`."""
    references: tuple[str, ...]
    """Code that is said to pass."""
    prelude: str = ""
    """Python that comes before the code, where the task's own judge has it there."""
    called: tuple[str, ...] = ()
    """Names that are the code's in asserts even where Python has them, such as sum."""

    @property
    def count(self) -> int:
        """How many there are, at least 1."""
        return len(self.cases) + len(self.asserts)

    def longest(self, most: int) -> "HiddenTests":
        """Keep so many of the cases, and of the asserts, with the longest input."""
        cases = sorted(self.cases, key=lambda case: -len(case[0]))[:most]
        asserts = sorted(self.asserts, key=lambda text: -len(text))[:most]
        return replace(self, cases=tuple(cases), asserts=tuple(asserts))


@cache
def read_tests(answer: str) -> HiddenTests:
    """Read the tests of a task.

    Args:
        answer: JSON in one of the layouts of this module.

    Raises:
        ValueError: If it is none.
    """
    given = _json(answer)
    if isinstance(given, list):
        given = {"tests": given}
    if not isinstance(given, Mapping):
        given = {}
    given = {key: value for key, value in given.items() if value is not None}
    for keys, read in _LAYOUTS:
        if keys & set(given):
            tests = read(given)
            break
    else:
        raise ValueError(
            "reward=code needs an answer that is a JSON object with cases or asserts, test_list, "
            f"test and entry_point, input_output, or tests, got {answer[:80]!r}"
        )
    if not tests.count:
        raise ValueError(f"reward=code needs a test or more, got {answer[:80]!r}")
    for text in (tests.setup, *tests.asserts):
        if fault := _fault(text):
            raise ValueError(f"asserts must be Python ({fault}), got {text[:80]!r}")
    for text in tests.asserts:
        if all(isinstance(part, _DEFINITIONS) for part in ast.parse(text).body):
            raise ValueError(
                "asserts must test something, and what is only defined tests nothing; call its "
                f"functions behind it, got {text[:80]!r}"
            )
    return tests if tests.called else replace(tests, called=_shadowing(tests))


def _shadowing(tests: HiddenTests) -> tuple[str, ...]:
    """What the reference defines and asserts use, if all of it has names that are Python's own."""
    if not tests.references or _fault(tests.references[0]):
        return ()
    kinds = (ast.FunctionDef, ast.ClassDef)
    body = ast.parse(tests.references[0]).body
    defined = {part.name for part in body if isinstance(part, kinds)}
    nodes = (node for text in tests.asserts for node in ast.walk(ast.parse(text)))
    used = {node.id for node in nodes if isinstance(node, ast.Name)} & defined
    # Beside the function that is tested, asserts use Python's own.
    own = set(dir(builtins)) | sys.stdlib_module_names
    return tuple(sorted(used)) if used <= own else ()


def _fault(code: str) -> str:
    """Why a text is no Python, "" if it is; nothing is run."""
    try:
        compile(code, "tests.py", "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        return str(error)
    return ""


def _ours(given: Mapping[str, Any]) -> HiddenTests:
    unknown = set(given) - {"cases", "asserts", "setup", "reference"}
    if unknown:
        raise ValueError(
            "reward=code needs an answer of cases or asserts, setup and reference, "
            f"got {sorted(unknown)[0]!r}"
        )
    cases = given.get("cases", [])
    fits = isinstance(cases, list) and all(
        isinstance(case, dict) and all(isinstance(case.get(k), str) for k in ("stdin", "stdout"))
        for case in cases
    )
    if not fits:
        raise ValueError(f"cases must be objects with stdin and stdout as text, got {cases!r:.80}")
    return HiddenTests(
        tuple((case["stdin"], case["stdout"]) for case in cases),
        _texts(given.get("asserts", []), "asserts"),
        *_python(given.get("setup", ""), given.get("reference")),
    )


def _mbpp(given: Mapping[str, Any]) -> HiddenTests:
    imports = _texts(given.get("test_imports", []), "test_imports")
    setup = "\n".join([*imports, given.get("test_setup_code", "")])
    return HiddenTests(
        (), _texts(given["test_list"], "test_list"), *_python(setup, given.get("code"))
    )


def _human_eval(given: Mapping[str, Any]) -> HiddenTests:
    name = _name(given.get("entry_point"))
    is_method = str(given["entry_point"]).startswith("Solution().")
    called = f"Solution().{name}" if is_method else name
    if "def check(" not in str(given.get("test")):
        raise ValueError(
            "test must define check(candidate), which entry_point is given to, got "
            f"{given.get('test')!r:.80}"
        )
    solution = given.get("canonical_solution")
    # Its imports and helpers, and the function, which the response defines anew.
    prompt = given.get("prompt", "")
    reference = None if solution is None else f"{prompt}{solution}"
    tests = HiddenTests((), (f"check({called})",), *_python(given.get("test"), reference))
    return replace(
        tests, prelude="" if _fault(prompt) else prompt, called=() if is_method else (name,)
    )


def _inputs_and_outputs(given: Mapping[str, Any]) -> HiddenTests:
    found = _json(given.get("input_output", given.get("tests")))
    if isinstance(found, list) and all(isinstance(test, Mapping) for test in found):
        found = _joined(found)
    inputs, outputs = (
        found.get(key) if isinstance(found, Mapping) else None for key in ("inputs", "outputs")
    )
    fits = isinstance(inputs, list) and isinstance(outputs, list) and len(inputs) == len(outputs)
    if not fits:
        raise ValueError(f"tests must be inputs with an output for each, got {found!r:.80}")
    solutions = _json(given.get("solutions", []))
    references = _texts(solutions if isinstance(solutions, list) else [solutions], "solutions")
    pairs = zip(inputs, outputs, strict=True)  # type: ignore[arg-type]
    if not (name := found.get("fn_name")):
        cases = ((_stream(read, "input"), _stream(told, "output")) for read, told in pairs)
        return HiddenTests(tuple(cases), (), "", references)
    name = _name(name)
    asserts = tuple(call(each, told, exact=found.get("exact", False)) for each, told in pairs)
    setup, prelude = FUNCTION.format(name=name), IMPORTED.format(name=name)
    return HiddenTests((), asserts, setup, references, prelude, (name,))


def _joined(tests: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """HiddenTests with an input and an output each, as one object with those of all."""
    first = tests[0] if tests else {}
    metadata = _json(first.get("metadata")) or {}
    inputs, outputs = ([test.get(key) for test in tests] for key in ("input", "output"))
    exact = first.get("testtype") == "functional"
    if exact:
        # LiveCodeBench writes each argument as JSON on a line of its own.
        inputs = [[_json(line) for line in _stream(each, "input").split("\n")] for each in inputs]
        outputs = [_json(each) for each in outputs]
    name = first.get("fn_name") or metadata.get("func_name")
    return {"inputs": inputs, "outputs": outputs, "fn_name": name, "exact": exact}


_LAYOUTS = (
    ({"cases", "asserts"}, _ours),
    ({"test_list"}, _mbpp),
    ({"entry_point"}, _human_eval),
    ({"input_output", "tests"}, _inputs_and_outputs),
)
"""Keys of which each has one at least, and what reads it."""


def _stream(value: Any, what: str) -> str:
    """What is read or printed: a text, or its lines."""
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "\n".join(value)
    if not isinstance(value, str):
        raise ValueError(f"a program's {what} must be a text, got {value!r:.80}")
    return value


def _name(value: Any) -> str:
    # Methods are named as in Solution().name by some.
    name = str(value).rpartition(".")[2]
    if not name.isidentifier() or keyword.iskeyword(name):
        raise ValueError(f"tests must name a function, got {value!r:.80}")
    return name


def _texts(value: Any, what: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValueError(f"{what} must be texts of Python, got {value!r:.80}")
    return tuple(value)


def _python(setup: Any, reference: Any) -> tuple[str, tuple[str, ...]]:
    references = () if reference is None else (reference,)
    for text in (setup, *references):
        if not isinstance(text, str):
            raise ValueError(f"reference and setup must be Python code, got {text!r:.80}")
    return setup, references


def _json(value: Any) -> Any:
    """Read what is JSON in a text; what is no text, or no JSON, is itself."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value
