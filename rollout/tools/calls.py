"""Calls of tools, found in the text of a response.

| form | where it comes from |
| --- | --- |
| `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, or a list | Qwen, Hermes, SmolLM2 |
| `{"name": ..., "parameters": {...}}`, bare | Llama |
| `{"type": "function", "function": {"name": ..., "arguments": ...}}` | OpenAI's message format |
| a fenced block ```` ```python ```` | code to run: a call of the tool `python` with `code` |

A bare object is a call when its first key is one of those above and it has a name with arguments
or parameters. What stands between `<think>` and `</think>` is thought, not said, and so is what
follows a thought that never ends, and all before a `</think>` whose thought the prompt began.
Inside a call both are text. Text is parsed as JSON, never run.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

CODE_TOOL = "python"
"""The tool that fenced code is a call of; its argument is `code`."""
_FORM = '{"name": ..., "arguments": {...}}'
_OPENER = re.compile(
    r"(?P<tag><tool_call>)"
    r"|(?P<thought></?think>)"
    r"|^[ \t]*```(?P<fence>[\w+-]*)[ \t]*\n"
    r'|(?P<bare>\{\s*"(?:name|arguments|parameters|function|type|id)"\s*:)',
    re.MULTILINE,
)
_MEANT = re.compile(r'\{\s*"name"\s*:\s*"[\w.-]*"\s*,\s*"(?:arguments|parameters)"')
_SPACE = re.compile(r"\s*")
_FENCE_END = re.compile(r"^[ \t]*```[ \t]*$", re.MULTILINE)
_TAG_END = "</tool_call>"
_THOUGHT, _THOUGHT_END = "<think>", "</think>"
_CODE = {"python", "py", "python3"}
_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a tool, as the policy wrote it.

    Example: Call(name="calculator", arguments={"expression": "6 * 7"}).
    """

    name: str
    arguments: dict[str, Any]
    """By name; whether they fit the tool is not said."""


@dataclass(frozen=True, slots=True)
class BadCall:
    """What was meant as a call and is none.

    Example: the policy wrote <tool_call>{"name": "calculator"}</tool_call>.

        BadCall('a call needs arguments; write {"name": ..., "arguments": {...}}')
    """

    message: str
    """What is wrong with it, for the policy to read."""


def find_calls(text: str) -> tuple[Call | BadCall, ...]:
    """Find the calls of a response, in their order; none if it only talks.

    Args:
        text: The decoded response, special tokens left out or not.
    """
    found: list[Call | BadCall] = []
    position = 0
    while (opener := _OPENER.search(text, position)) is not None:
        if opener["thought"]:
            begins = opener["thought"] != _THOUGHT_END
            end = text.find(_THOUGHT_END, opener.start())
            if end < 0:
                break
            found, position = found if begins else [], end + len(_THOUGHT_END)
            continue
        if opener["tag"]:
            calls, position = _tagged(text, opener.end())
        elif opener["bare"]:
            calls, position = _bare(text, opener.start())
        else:
            calls, position = _fenced(text, opener)
        if any(isinstance(call, BadCall) for call in calls):
            # What is no call does not hide the end of the thought that it stands in.
            end = text.find(_THOUGHT_END, opener.end(), position)
            position = end if end >= 0 else position
        found += calls
    return tuple(found)


def _tagged(text: str, start: int) -> tuple[list[Call | BadCall], int]:
    value, end, fault = _parse(text, start)
    closed = text.find(_TAG_END, end)
    if not fault and closed >= 0 and (rest := text[end:closed].strip()):
        fault = f"the call is followed by {rest[:40]!r} before {_TAG_END}"
    if fault:
        return [BadCall(fault)], closed + len(_TAG_END) if closed >= 0 else len(text)
    after = closed + len(_TAG_END) if closed >= 0 else end
    values = value if isinstance(value, list) else [value]
    return [as_call(each) for each in values], after


def _bare(text: str, start: int) -> tuple[list[Call | BadCall], int]:
    value, end, fault = _parse(text, start)
    if fault:
        # Of broken JSON only what began as a call was meant as one.
        return [BadCall(fault)] if _MEANT.match(text, start) else [], end
    inner = value.get("function", value)
    if isinstance(inner, dict) and "name" in inner and {"arguments", "parameters"} & set(inner):
        return [as_call(value)], end
    return [], end


def _fenced(text: str, opener: re.Match[str]) -> tuple[list[Call | BadCall], int]:
    if opener["fence"].lower() not in _CODE:
        # Of other fences what stands inside may still be a call.
        return [], opener.end()
    closing = _FENCE_END.search(text, opener.end())
    if closing is None:
        return [BadCall("the fenced code has no end; close it with a line of ```")], len(text)
    return [Call(CODE_TOOL, {"code": text[opener.end() : closing.start()]})], closing.end()


def _parse(text: str, start: int) -> tuple[Any, int, str]:
    """Read one JSON value; the value, where to go on, and what is wrong, "" if nothing."""
    begin = _SPACE.match(text, start).end()  # type: ignore[union-attr]
    try:
        value, end = _DECODER.raw_decode(text, begin)
    except json.JSONDecodeError as error:
        what = f"{error.msg} at character {error.pos - begin + 1}"
        return None, max(error.pos, start + 1), f"the call is not JSON ({what}); write {_FORM}"
    except (RecursionError, ValueError):
        # Nested too deeply, or a number of thousands of digits: nothing after it is worth a look.
        return None, len(text), f"the call is not JSON that can be read; write {_FORM}"
    return value, end, ""


def said_of(text: str) -> str:
    """What a response says after its last thought that ends, and before one that does not."""
    said = text.rpartition(_THOUGHT_END)[2]
    return said.partition(_THOUGHT)[0]


def as_call(value: Any) -> Call | BadCall:
    """Return a value of JSON as a call: a name and arguments, as an object or as JSON."""
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        value = value["function"]
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return BadCall(f"a call needs a name; write {_FORM}")
    arguments = value.get("arguments", value.get("parameters"))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return BadCall(f"the arguments are text that is not JSON; write {_FORM}")
    if not isinstance(arguments, dict):
        return BadCall(f"a call needs arguments as an object; write {_FORM}")
    return Call(value["name"], arguments)
