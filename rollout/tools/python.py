"""The Python tool: runs what the policy wrote in a sandbox, anew at each call."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from rollout.rewards.code_response import code_of, to_the_left
from rollout.sandbox.config import SandboxConfig
from rollout.sandbox.run import Outcome, run, working_form
from rollout.threads import Threads
from rollout.tools.calls import CODE_TOOL
from rollout.tools.tool import ToolError, shortened

MOST_AT_A_TIME = 8
"""Sandboxes of one process; further calls wait, for the processors are few."""


@dataclass(frozen=True, slots=True)
class PythonTool:
    """The tool `python`, which fenced code calls too."""

    sandbox: SandboxConfig = field(default_factory=SandboxConfig)
    name: str = CODE_TOOL

    @property
    def schema(self) -> Mapping[str, Any]:
        """See `rollout.tools.tool.Tool`."""
        code = {"type": "string", "description": "The program. Print what you want to see."}
        parameters = {"type": "object", "properties": {"code": code}, "required": ["code"]}
        about = "Runs a Python program and returns what it prints. Nothing is kept between calls."
        described = {"name": self.name, "description": about, "parameters": parameters}
        return {"type": "function", "function": described}

    def check(self) -> None:
        """See `rollout.tools.tool.Tool`.

        Raises:
            SandboxError: If there is no sandbox here.
        """
        working_form(self.sandbox.form, self.sandbox.allow_weak)

    async def call(self, arguments: Mapping[str, Any]) -> str:
        """Run code; see `rollout.tools.tool.Tool`.

        Raises:
            SandboxError: If there is no sandbox, which is no fault of the call.
        """
        code = _bare(arguments["code"])
        outcome = await _threads().call(run, code, self.sandbox, mode="cell")
        return told(outcome, self.sandbox)


def _bare(code: str) -> str:
    """Code without the fence that models write around it in a call too, and not indented."""
    fenced = code_of(code) if code.lstrip().startswith(("```", "~~~")) else None
    return to_the_left(code if fenced is None else fenced)


@cache
def _threads() -> Threads:
    # A sandbox ends by itself, and until then the processors are taken.
    return Threads("python-tool", MOST_AT_A_TIME, may_hang=False)


def told(outcome: Outcome, config: SandboxConfig) -> str:
    """Say what a program wrote.

    Raises:
        ToolError: If it failed, with what it wrote before.
    """
    written = outcome.stdout + outcome.stderr
    if outcome.ended == "time":
        raise ToolError(shortened(f"{written}\nit took longer than {config.wall_seconds:g} s"))
    if outcome.ended == "output":
        raise ToolError(shortened(f"{written[:1000]}\nit wrote too much"))
    if outcome.code:
        raise ToolError(shortened(written or f"it ended with exit code {outcome.code}"))
    return shortened(written) if written else "(it printed nothing)"
