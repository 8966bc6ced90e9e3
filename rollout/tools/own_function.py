"""A tool named by where it stands: `environment=tools environment.tools=[my_file.py:add]`.

    def add(a: int, b: int) -> int:
        '''Add two numbers.

Args:
            a: The first.
            b: The second.
        '''

It may be async; others run in a thread. A class in its place is a `rollout.tools.tool.Tool`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from rollout.own_code import OwnCode
from rollout.tools.function import as_tool
from rollout.tools.tool import Tool


@dataclass(frozen=True, slots=True)
class OwnTool(OwnCode):
    """Calls a function, or a tool's class, found by its path."""

    kind: ClassVar[str] = "tool"
    method: ClassVar[str] = "call"

    def adapted(self, function: Callable[..., Any]) -> Tool:
        """Return the function as a tool.

        Raises:
            ValueError: If its name, hints and docstring do not tell what it takes.
        """
        if self.settings:
            raise ValueError(f"names a function, which takes no settings, got {self.settings!r}")
        return as_tool(function)

    @property
    def name(self) -> str:
        """What a call names: the function's own name."""
        return str(self.made().name)

    @property
    def schema(self) -> Mapping[str, Any]:
        """What chat templates take."""
        found: Mapping[str, Any] = self.made().schema
        return found

    async def call(self, arguments: Mapping[str, Any]) -> str:
        """Call it; see `rollout.tools.tool.Tool`."""
        return str(await self.made().call(arguments))
