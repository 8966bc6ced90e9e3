"""The reward of programs: the response's fenced code against hidden tests, in a sandbox.

A task's answer is a JSON object, which a JSONL file may hold as such:

| key | means |
| --- | --- |
| `cases` | `[{"stdin": ..., "stdout": ...}]`: the code is a program, run once for each |
| `asserts` | Python, such as `["assert add(2, 3) == 5"]`: the code has the functions called |
| `setup` | Python run before each of `asserts` |
| `reference` | code that passes: required, for tests that nobody can pass teach nothing |

What is expected never enters the sandbox of the code: outputs are compared here, and asserts run in
a second sandbox that calls the functions of the first (`rollout.sandbox.rpc`). So it is of no use
to leave with exit code 0, to patch tests, builtins or `==`, or to look for the tests. Outputs are
equal when their lines are, but for blanks at the ends of lines and blank lines at the end.
"""

import json
import re
import socket
import time
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from rollout.rewards.types import Score
from rollout.sandbox.config import SandboxConfig
from rollout.sandbox.run import finish, run, started

_FENCE = re.compile(r"[ \t]*```[ \t]*([\w+-]*)[ \t]*")
_PYTHON = ("python", "py", "python3")
_KEYS = {"cases", "asserts", "setup", "reference"}
CREDITS = ("fraction", "all_or_nothing")


@dataclass(frozen=True, slots=True)
class Tests:
    """The hidden tests of one task.

    Example: Tests(cases=(("2 3", "5"),), asserts=(), setup="", reference="print(5)").
    """

    cases: tuple[tuple[str, str], ...]
    """What a program reads, and what it is to print."""
    asserts: tuple[str, ...]
    setup: str
    reference: str

    @property
    def count(self) -> int:
        """How many there are, at least 1."""
        return len(self.cases) + len(self.asserts)


@dataclass(frozen=True, slots=True)
class CodeReward:
    """Gives the share of the hidden tests that the response's code passes, or 1.0 for all."""

    credit: str = "all_or_nothing"
    """"fraction": passed tests over all; "all_or_nothing": 1.0 when all pass, else 0.0."""
    seconds: float = 8.0
    """For all tests of one response; those that are not reached in time have failed. It must be
    less than `rollout.reward_timeout_seconds`, at which the response would count as not scored."""
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)
    """What the code may use, and how it is shut in."""

    def __post_init__(self) -> None:
        """Refuse settings that say nothing."""
        if self.credit not in CREDITS:
            raise ValueError(
                f"reward.credit must be one of {', '.join(CREDITS)}, got {self.credit!r}"
            )
        if not self.seconds > 0:
            raise ValueError(f"reward.seconds must be positive, got {self.seconds!r}")

    def score(self, prompt_text: str, response_text: str, answer: str) -> Score:
        """Score a response; see `rollout.rewards.types.Reward`.

        Raises:
            SandboxError: If there is no sandbox.
        """
        code = code_of(response_text)
        if code is None:
            return Score(0.0, {"passed": 0.0, "format": 0.0}, "")
        tests = _tests(answer)
        share = self._passed(code, tests) / tests.count
        reward = share if self.credit == "fraction" else float(share == 1.0)
        return Score(reward, {"passed": share, "format": 1.0}, code[:2000])

    def check(self, answer: str) -> None:
        """Accept tests that their own reference passes; all of them are run."""
        tests = _tests(answer)
        generous = replace(self, credit="fraction", seconds=10 * self.seconds)
        passed = generous._passed(tests.reference, tests)
        if passed < tests.count:
            raise ValueError(
                f"the reference solution passes only {passed} of its {tests.count} tests; correct "
                f"it or them, got {tests.reference[:80]!r}"
            )

    def _passed(self, code: str, tests: Tests) -> int:
        end = time.monotonic() + self.seconds
        passed = 0
        for number, (stdin, expected) in enumerate(tests.cases):
            left = end - time.monotonic()
            if left <= 0 or (passed < number and self.credit == "all_or_nothing"):
                return passed
            outcome = run(code, self._within(left), stdin=stdin)
            passed += outcome.ok and _lines(outcome.stdout) == _lines(expected)
        if tests.asserts and end > time.monotonic():
            passed += num_passed(code, tests, self._within(end - time.monotonic()))
        return passed

    def _within(self, seconds: float) -> SandboxConfig:
        return replace(self.sandbox, wall_seconds=min(self.sandbox.wall_seconds, seconds))


def num_passed(code: str, tests: Tests, config: SandboxConfig) -> int:
    """Count the asserts that hold, run beside the code and never with it."""
    job = json.dumps([tests.setup, *tests.asserts])
    ours, theirs = socket.socketpair()
    with (
        # Each end is closed here once it is handed on, so that one that ends is missed.
        ours,
        theirs,
        started(code, config, mode="serve", link=theirs.fileno()),
        started(job, config, mode="test", link=ours.fileno()) as judge,
    ):
        ours.close()
        theirs.close()
        verdicts = finish(judge, config).stdout.splitlines()
    return sum(verdict == '""' for verdict in verdicts)


def code_of(response_text: str) -> str | None:
    """Return the program of a response: its last fenced block of Python; None if there is none.

    A block without a language counts only where none is labelled as Python: beside a program it is
    what the program prints. What stands before the last </think> is no answer.
    """
    labelled = unlabelled = None
    name: str | None = None
    code: list[str] = []
    for line in response_text.rpartition("</think>")[2].replace("\r\n", "\n").split("\n"):
        fence = _FENCE.fullmatch(line)
        if name is None:
            if fence is not None:
                name, code = fence.group(1).lower(), []
        elif fence is None or fence.group(1):
            code.append(f"{line}\n")
        else:
            if name in _PYTHON:
                labelled = "".join(code)
            elif not name:
                unlabelled = "".join(code)
            name = None
    return unlabelled if labelled is None else labelled


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().split("\n")]


@cache
def _tests(answer: str) -> Tests:
    """Read the tests of a task.

    Raises:
        ValueError: If they are not what the module describes.
    """
    try:
        given: Any = json.loads(answer)
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict) or not set(given) <= _KEYS:
        raise ValueError(
            "reward=code needs an answer that is a JSON object with cases or asserts, and "
            f"reference, got {answer[:80]!r}"
        )
    cases = given.get("cases", [])
    fits = isinstance(cases, list) and all(
        isinstance(case, dict) and all(isinstance(case.get(k), str) for k in ("stdin", "stdout"))
        for case in cases
    )
    if not fits:
        raise ValueError(f"cases must be objects with stdin and stdout as text, got {cases!r:.80}")
    asserts = given.get("asserts", [])
    if not isinstance(asserts, list) or not all(isinstance(each, str) for each in asserts):
        raise ValueError(f"asserts must be texts of Python, got {asserts!r:.80}")
    setup, reference = given.get("setup", ""), given.get("reference")
    if not isinstance(setup, str) or not isinstance(reference, str):
        raise ValueError(f"reference and setup must be Python code, got {reference!r:.80}")
    if not cases and not asserts:
        raise ValueError(f"reward=code needs cases or asserts, got {answer[:80]!r}")
    for text in (setup, *asserts):
        try:
            compile(text, "tests.py", "exec", dont_inherit=True)
        except (SyntaxError, ValueError) as error:
            raise ValueError(f"asserts must be Python ({error}), got {text[:80]!r}") from None
    pairs = tuple((case["stdin"], case["stdout"]) for case in cases)
    return Tests(pairs, tuple(asserts), setup, reference)
