"""Any function with type hints as a tool.

    def weather(city: str, days: int = 1) -> str:
        '''Tells the weather.

Args:
            city: Where.
            days: How many.
        '''

The schema is made of the hints and the docstring, as transformers does it for chat templates.
"""

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

from rollout.threads import in_thread
from rollout.tools.tool import Tool, ToolError


@dataclass(frozen=True, slots=True, eq=False)
class FunctionTool:
    """A function as a tool; one that is not async runs in a thread, for it may take long."""

    function: Callable[..., Any]
    schema: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The function's."""
        return str(self.function.__name__)

    async def call(self, arguments: Mapping[str, Any]) -> str:
        """Call the function; see `rollout.tools.tool.Tool`.

        Raises:
            ToolError: If it raises a ValueError, LookupError or ArithmeticError: what an argument
                may cause. Anything else is the function's own fault.
        """
        try:
            if inspect.iscoroutinefunction(self.function):
                returned = await self.function(**arguments)
            else:
                returned = await in_thread(self.function, **arguments)
        except (ValueError, LookupError, ArithmeticError) as error:
            raise ToolError(f"{type(error).__name__}: {error}") from error
        return returned if isinstance(returned, str) else json.dumps(returned, default=str)


def as_tool(given: Any) -> Tool:
    """Make a tool of a function; what is one already stays as it is.

    Args:
        given: A tool, or a function with a type hint for each parameter and a docstring that says
            what it does and, under `Args:`, what each is.

    Raises:
        ValueError: If hints or descriptions are missing, with the first of them.
    """
    if isinstance(given, Tool):
        return given
    if not callable(given) or not hasattr(given, "__name__"):
        raise ValueError(f"a tool must be a function, or have name, schema and call, got {given!r}")
    name = given.__name__
    try:
        hints = get_type_hints(given)
    except NameError as error:
        raise ValueError(f"the tool {name} has a type hint that names nothing: {error}") from error
    for parameter in inspect.signature(given).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise ValueError(f"the tool {name} must name its parameters, got {parameter}")
        if parameter.name not in hints:
            raise ValueError(
                f"the tool {name} needs a type hint for its parameter {parameter.name}, as in "
                f"{parameter.name}: str"
            )
    return FunctionTool(given, _schema(given))


def _schema(function: Callable[..., Any]) -> Mapping[str, Any]:
    # Pulls in much of transformers, which the process of an engine has loaded anyway.
    from transformers.utils.chat_template_utils import DocstringParsingException, get_json_schema

    try:
        schema: dict[str, Any] = get_json_schema(function)
    except (DocstringParsingException, TypeError, ValueError) as error:
        what = " ".join(str(error).split())
        raise ValueError(f"the tool {function.__name__} cannot be described: {what}") from error
    # What a function returns is no part of how it is called.
    schema["function"].pop("return", None)
    return schema
