"""The Python tool says what a program wrote, or why it did not end well."""

import asyncio
import time

import pytest

from rollout.clocks import limited
from rollout.sandbox.config import SandboxConfig
from rollout.sandbox.run import Outcome, SandboxError, working_form
from rollout.tools import python
from rollout.tools.calls import Call, find_calls
from rollout.tools.python import MOST_AT_A_TIME, PythonTool, told
from rollout.tools.tool import MAX_OBSERVATION, Observation, Tool, ToolError, observe, tools_by_name

try:
    working_form("auto", False)
    WHY = ""
except SandboxError as error:
    WHY = str(error)


@pytest.mark.skipif(bool(WHY), reason=WHY)
def test_fenced_code_is_run_and_its_output_observed():
    tool = PythonTool(SandboxConfig(wall_seconds=60, cpu_seconds=30))
    assert isinstance(tool, Tool)
    tools = tools_by_name([tool])
    calls = find_calls("```python\nx = 6\nprint(x)\nx * 7\n```\n```python\n1 / 0\n```")

    async def main():
        return await asyncio.gather(*(observe(call, tools) for call in calls))

    good, bad = asyncio.run(main())
    assert good == Observation("6\n42\n", failed=False)
    assert bad.failed and bad.text.endswith("ZeroDivisionError: division by zero\n")


@pytest.mark.skipif(bool(WHY), reason=WHY)
@pytest.mark.parametrize("code", ["```python\nx = 6\nx * 7\n```", "   x = 6\n   x * 7", "6 * 7"])
def test_code_in_a_call_may_be_fenced_or_indented(code):
    tool = PythonTool(SandboxConfig(wall_seconds=60, cpu_seconds=30))
    assert asyncio.run(tool.call({"code": code})) == "42\n"


def test_a_call_has_its_time_however_many_wait_for_a_sandbox(monkeypatch):
    def hangs(code, config, mode):
        time.sleep(0.2)
        return Outcome("", "", 137, "time")

    async def one(tools):
        async with limited(1.0):
            return await observe(Call("python", {"code": "while True: pass"}), tools)

    async def main():
        tools = tools_by_name([PythonTool()])
        return await asyncio.gather(*(one(tools) for _ in range(10 * MOST_AT_A_TIME)))

    monkeypatch.setattr(python, "run", hangs)
    assert all("longer than 5 s" in each.text for each in asyncio.run(main()))


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (Outcome("a", "", 0, "time"), "longer than 5 s"),
        (Outcome("a" * 9999, "", 0, "output"), "wrote too much"),
        (Outcome("a", "Traceback", 1, "exit"), "aTraceback"),
        (Outcome("", "", 3, "exit"), "exit code 3"),
    ],
)
def test_a_program_that_fails_is_told_of(outcome, words):
    with pytest.raises(ToolError, match=words):
        told(outcome, SandboxConfig())


def test_what_is_written_is_kept_short():
    assert told(Outcome("", "", 0, "exit"), SandboxConfig()) == "(it printed nothing)"
    assert len(told(Outcome("a" * 99_999, "", 0, "exit"), SandboxConfig())) < MAX_OBSERVATION + 100
