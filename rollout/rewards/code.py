"""The reward of programs: the response's fenced code against hidden tests, in a sandbox.

A task's answer is JSON, as this or in the layout of a public data set (`code_tests`):

    {"asserts": ["assert add(2, 3) == 5"], "reference": "def add(a, b): return a + b"}
    {"cases": [{"stdin": "2", "stdout": "4"}], "reference": "print(2 * int(input()))"}

What is expected never enters the sandbox of the code: outputs are compared here, and asserts run in
a second sandbox that calls the functions of the first (`rollout.sandbox.rpc`). So it is of no use
to leave with exit code 0, to patch tests, builtins or `==`, or to look for the tests.
"""

import json
import re
import socket
import time
from dataclasses import dataclass, field, replace

from cost.ranges import count
from rollout.rewards.code_output import same_output
from rollout.rewards.code_response import code_of
from rollout.rewards.code_tests import HiddenTests, read_tests
from rollout.rewards.types import Score
from rollout.sandbox.config import SandboxConfig
from rollout.sandbox.run import finish, started

_FUTURE = re.compile(r"^from __future__ import (?:\([^()]*\)|[^\n]*)", re.MULTILINE)
CREDITS = ("fraction", "all_or_nothing")
REFERENCES = ("required", "unchecked")
_TRIED = 3
"""Of several references."""


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
    max_tests: int | None = None
    """Use so many cases and so many asserts of a task at most, those with the longest input; null
    for all."""
    references: str = "required"
    """"required": each task has code that is known to pass, which is tried before anything starts,
    for tests that nobody can pass teach nothing; "unchecked": tests are taken as they are."""

    def __post_init__(self) -> None:
        """Refuse settings that say nothing."""
        if self.credit not in CREDITS:
            raise ValueError(
                f"reward.credit must be one of {', '.join(CREDITS)}, got {self.credit!r}"
            )
        if self.references not in REFERENCES:
            raise ValueError(
                f"reward.references must be one of {', '.join(REFERENCES)}, got {self.references!r}"
            )
        if not self.seconds > 0:
            raise ValueError(f"reward.seconds must be positive, got {self.seconds!r}")
        if self.max_tests is not None and (fault := count(1e6).fault(self.max_tests)):
            raise ValueError(f"reward.max_tests {fault}, got {self.max_tests!r}")

    def score(self, prompt_text: str, response_text: str, answer: str) -> Score:
        """Score a response; see `rollout.rewards.types.Reward`.

        Raises:
            SandboxError: If there is no sandbox.
        """
        code = code_of(response_text)
        if code is None:
            return Score(0.0, {"passed": 0.0, "format": 0.0}, "")
        tests = self._tests(answer)
        share = self._passed(code, tests) / tests.count
        reward = share if self.credit == "fraction" else float(share == 1.0)
        return Score(reward, {"passed": share, "format": 1.0}, code[:2000])

    def check(self, answer: str) -> None:
        """Accept tests that a reference of their own passes; all of them are run."""
        tests = self._tests(answer)
        if self.references == "unchecked":
            return
        if not tests.references:
            raise ValueError(
                "reward=code needs a reference, code that passes the tests; add one, or set "
                f"reward.references=unchecked, got {answer[:80]!r}"
            )
        generous = replace(self, credit="fraction", seconds=10 * self.seconds)
        passed = 0
        for reference in tests.references[:_TRIED]:
            passed = max(passed, generous._passed(reference, tests))
            if passed == tests.count:
                return
        raise ValueError(
            f"the reference solution passes only {passed} of its {tests.count} tests; correct "
            f"it or them, got {tests.references[0][:80]!r}"
        )

    def example(self, answer: str) -> str:
        """Return a response with the task's own reference, "" if there is none."""
        references = self._tests(answer).references
        return f"```python\n{references[0].strip()}\n```" if references else ""

    def _tests(self, answer: str) -> HiddenTests:
        tests = read_tests(answer)
        return tests if self.max_tests is None else tests.longest(self.max_tests)

    def _passed(self, code: str, tests: HiddenTests) -> int:
        code = _after(tests.prelude, code) if tests.prelude else code
        end = time.monotonic() + self.seconds
        passed = 0
        for number, (stdin, expected) in enumerate(tests.cases):
            left = end - time.monotonic()
            if left <= 0 or (passed < number and self.credit == "all_or_nothing"):
                return passed
            passed += _prints(code, self._within(left), stdin, expected)
        if tests.asserts and end > time.monotonic():
            passed += num_passed(code, tests, self._within(end - time.monotonic()))
        return passed

    def _within(self, seconds: float) -> SandboxConfig:
        return replace(self.sandbox, wall_seconds=min(self.sandbox.wall_seconds, seconds))


def _prints(code: str, config: SandboxConfig, stdin: str, expected: str) -> bool:
    # What is expected may always be written, in letters of up to four bytes; how much that is, is
    # kept from the sandbox.
    enough = replace(config, output_kib=max(config.output_kib, len(expected) // 256))
    stdin = stdin.replace("\r\n", "\n")
    with started(code, config, mode="program", stdin=stdin) as sandbox:
        outcome = finish(sandbox, enough)
    return outcome.ok and same_output(outcome.stdout, expected)


def num_passed(code: str, tests: HiddenTests, config: SandboxConfig) -> int:
    """Count the asserts that hold, run beside the code and never with it."""
    job = json.dumps([tests.called, tests.setup, *tests.asserts])
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


def _after(prelude: str, code: str) -> str:
    """Join both; imports of __future__ must come first."""
    whole = f"{prelude}\n{code}"
    return "\n".join([*_FUTURE.findall(whole), _FUTURE.sub("", whole)])
