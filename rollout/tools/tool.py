"""What a tool is, and what comes of a call: an observation, whatever goes wrong.

response -> find_calls -> Call -> observe -> Observation -> the next turn's first tokens
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol, runtime_checkable

from rollout.tools.calls import BadCall, Call

MAX_OBSERVATION = 4000
"""Characters of an observation that are kept: its beginning and its end."""


class ToolError(Exception):
    """What a tool raises to tell the policy what was wrong; its text is the observation."""


@runtime_checkable
class Tool(Protocol):
    """Something a policy may call; several plays may call it at the same time.

    An exception other than a ToolError is a fault of the tool, not of the call: `observe` lets it
    through. One that needs something of the machine may have a method `check()` as well, which
    raises where that is missing, before anything starts.
    """

    @property
    def name(self) -> str:
        """What a call names: letters, digits, `_` and `-`."""
        ...

    @property
    def schema(self) -> Mapping[str, Any]:
        """What chat templates take.

        {"type": "function", "function": {"name", "description", "parameters": a JSON schema}}
        """
        ...

    async def call(self, arguments: Mapping[str, Any]) -> str:
        """Do what is asked for.

        Args:
            arguments: By name; they fit `schema`.

        Returns:
            What the policy reads of it.

        Raises:
            ToolError: If that cannot be done, with the reason in words for the policy.
        """
        ...


@dataclass(frozen=True, slots=True)
class Observation:
    """What the policy reads after a call.

    Example: the answer to Call("calculator", {"expression": "6 * 7"}).

        Observation(text="42", failed=False)
    """

    text: str
    failed: bool
    """Whether the call was bad, or the tool said that it cannot do this."""


def tools_by_name(tools: Sequence[Tool]) -> dict[str, Tool]:
    """Return the tools by their names.

    Raises:
        ValueError: If one is no tool, or two have the same name.
    """
    found: dict[str, Tool] = {}
    for tool in tools:
        if not isinstance(tool, Tool):
            raise ValueError(f"environment.tools must be tools with name, schema, call, got {tool}")
        if tool.name in found:
            raise ValueError(f"environment.tools must differ in their names, got {tool.name} twice")
        found[tool.name] = tool
    return found


async def observe(call: Call | BadCall, tools: Mapping[str, Tool]) -> Observation:
    """Make a call, and say what came of it.

    Args:
        call: As `rollout.tools.calls.find_calls` found it.
        tools: By name.

    Raises:
        Exception: Whatever a tool raises that is no ToolError. No deadline: that is the caller's.
    """
    if isinstance(call, BadCall):
        return _failed(call.message)
    tool = tools.get(call.name)
    if tool is None:
        known = ", ".join(sorted(tools)) or "none"
        return _failed(f"there is no tool {call.name[:100]!r}; there are: {known}")
    fault = argument_fault(tool.schema, call.arguments)
    if fault:
        return _failed(f"{tool.name}: {fault}")
    try:
        return Observation(shortened(await tool.call(call.arguments)), failed=False)
    except ToolError as error:
        return _failed(f"{tool.name}: {error}")


def argument_fault(schema: Mapping[str, Any], arguments: Mapping[str, Any]) -> str:
    """Say what is wrong with arguments; "" if they fit.

    Args:
        schema: A tool's.
        arguments: By name.
    """
    parameters = schema["function"]["parameters"]
    known = parameters.get("properties", {})
    unknown = sorted(set(arguments) - set(known))
    if unknown:
        takes = ", ".join(known) or "none"
        return f"there is no argument {unknown[0][:100]!r}; it takes: {takes}"
    fault = next(iter(_validator(json.dumps(parameters)).iter_errors(dict(arguments))), None)
    if fault is None:
        return ""
    place = ".".join(str(part) for part in fault.absolute_path)
    return f"{place}: {fault.message[:300]}" if place else fault.message[:300]


@cache
def _validator(parameters: str) -> Any:
    # Where nothing calls a tool nothing waits for this import.
    from jsonschema import Draft202012Validator

    return Draft202012Validator(_with_null(json.loads(parameters)))


def _with_null(schema: Any) -> Any:
    """Write `nullable`, which transformers has for an Optional, as JSON schemas do."""
    if isinstance(schema, list):
        return [_with_null(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    own = {key: _with_null(value) for key, value in schema.items() if key != "nullable"}
    return {"anyOf": [own, {"type": "null"}]} if schema.get("nullable") is True else own


def shortened(text: str) -> str:
    """Return a text without its middle if it is longer than `MAX_OBSERVATION` characters."""
    left_out = len(text) - MAX_OBSERVATION
    if left_out <= 0:
        return text
    half = MAX_OBSERVATION // 2
    return f"{text[:half]}\n... {left_out} characters left out ...\n{text[-half:]}"


def _failed(text: str) -> Observation:
    return Observation(shortened(f"Error: {text}"), failed=True)
