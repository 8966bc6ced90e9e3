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
from types import FunctionType, NoneType
from typing import Any, get_args, get_type_hints, is_typeddict

from rollout.threads import in_thread
from rollout.tools.tool import Tool, ToolError

_PLAIN = (str, int, float, bool, NoneType, list, tuple, dict, Any)
"""Hints that JSON has values for; further ones are made of these."""


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
            if inspect.isawaitable(returned):
                # A decorator may hide that a function is async.
                returned = await returned
        except (ValueError, LookupError, ArithmeticError) as error:
            raise ToolError(f"{type(error).__name__}: {error}") from error
        if isinstance(returned, str):
            return returned
        # As it is written, not in escapes that the policy would have to read.
        return json.dumps(returned, default=str, ensure_ascii=False)


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
        if (unknown := _no_json(hints[parameter.name])) is not None:
            raise ValueError(
                f"the tool {name} must take what JSON has: hint its parameter {parameter.name} by "
                "str, int, float, bool, list, dict, Literal or a union of them, got "
                f"{getattr(unknown, '__name__', unknown)}"
            )
    hints.pop("return", None)
    return FunctionTool(given, _schema(given, hints))


def _no_json(hint: Any) -> Any:
    """Return the first part of a hint that JSON has no values for; None if there is none."""
    parts = get_args(hint)
    if not parts:
        return None if hint in _PLAIN or is_typeddict(hint) else hint
    # Those of a Literal are values, and `...` stands for more of the same.
    inner = (part for part in parts if isinstance(part, type) or get_args(part))
    return next((found for part in inner if (found := _no_json(part)) is not None), None)


def _schema(function: Callable[..., Any], hints: Mapping[str, Any]) -> Mapping[str, Any]:
    # Pulls in much of transformers, which the process of an engine has loaded anyway.
    from transformers.utils import chat_template_utils as utils

    # What a function returns is no part of how it is called, and may be hinted in any way.
    called = FunctionType((lambda: None).__code__, {}, function.__name__)
    called.__doc__, called.__annotations__ = inspect.getdoc(function), dict(hints)
    called.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    try:
        schema: dict[str, Any] = utils.get_json_schema(called)
    except (
        utils.DocstringParsingException, utils.TypeHintParsingException, TypeError, ValueError
    ) as error:  # fmt: skip
        what = " ".join(str(error).split())
        raise ValueError(
            f"the tool {function.__name__} cannot be described: {what}; its docstring must say "
            "what it does and, under `Args:`, a line for each parameter, such as `city: Where.`"
        ) from error
    schema["function"].pop("return", None)
    return schema
