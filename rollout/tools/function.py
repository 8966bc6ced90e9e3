"""A tool that is a function: `environment=tools environment.tools=[my_file.py:add]`.

    def add(a: int, b: int) -> int:
        '''Add two numbers.

Args:
            a: The first.
            b: The second.
        '''

Its schema is what transformers reads from name, type hints and docstring. It may be async; others
run in a thread. A class in its place is a `rollout.tools.tool.Tool`.
"""

import asyncio
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

from rollout.own_code import OwnCode


@dataclass(frozen=True, slots=True)
class FunctionTool(OwnCode):
    """Calls a function, or a tool's class, found by its path."""

    kind: ClassVar[str] = "tool"
    method: ClassVar[str] = "call"

    def adapted(self, function: Callable[..., Any]) -> Any:
        """Return the function, whose name, hints and docstring must tell what it takes.

        Raises:
            ValueError: If they do not.
        """
        try:
            _schema(function)
        except Exception as error:
            # What transformers raises for a docstring has classes of its own.
            reason = " ".join(str(error).split())
            raise ValueError(
                "names a function that says too little of itself: give every parameter a type "
                f"hint and a line under `Args:` of its docstring ({reason})"
            ) from error
        return function

    @property
    def name(self) -> str:
        """What a call names: the function's own name."""
        made = self.made()
        return str(made.name if hasattr(made, "call") else made.__name__)

    @property
    def schema(self) -> Mapping[str, Any]:
        """What chat templates take."""
        made = self.made()
        found: Mapping[str, Any] = made.schema if hasattr(made, "call") else _schema(made)
        return found

    async def call(self, arguments: Mapping[str, Any]) -> str:
        """Call it; see `rollout.tools.tool.Tool`."""
        made = self.made()
        given = {**arguments, **self.settings}
        if hasattr(made, "call"):
            return str(await made.call(arguments))
        if inspect.iscoroutinefunction(made):
            return str(await made(**given))
        return str(await asyncio.to_thread(made, **given))


@cache
def _schema(function: Callable[..., Any]) -> Mapping[str, Any]:
    from transformers.utils.chat_template_utils import get_json_schema

    found: Mapping[str, Any] = get_json_schema(function)
    return found
