"""A function with type hints is a tool; one without is refused in one sentence."""

import asyncio
import enum
import functools
from typing import Literal

import pytest

from rollout.tools.calculator import Calculator
from rollout.tools.calls import Call
from rollout.tools.function import as_tool
from rollout.tools.tool import Tool, observe, tools_by_name


def weather(city: str, days: int = 1) -> dict:
    """Tells the weather.

    Args:
        city: Where.
        days: How many.
    """
    if city == "Atlantis":
        raise ValueError("there is no such place")
    return {city: ["sun"] * days}


async def waits(seconds: float) -> str:
    """Waits.

    Args:
        seconds: How long.
    """
    return f"waited {seconds}"


def observed(function, arguments):
    tools = tools_by_name([as_tool(function)])
    return asyncio.run(observe(Call(function.__name__, arguments), tools))


def test_a_function_becomes_a_tool():
    tool = as_tool(weather)
    assert isinstance(tool, Tool) and tool.name == "weather"
    described = tool.schema["function"]
    assert described["description"] == "Tells the weather."
    assert described["parameters"]["required"] == ["city"]
    assert described["parameters"]["properties"]["days"]["type"] == "integer"
    assert observed(weather, {"city": "Rome", "days": 2}).text == '{"Rome": ["sun", "sun"]}'
    assert observed(waits, {"seconds": 0.5}).text == "waited 0.5"
    calculator = Calculator()
    assert as_tool(calculator) is calculator


def test_what_an_argument_causes_is_observed():
    bad = observed(weather, {"city": "Atlantis"})
    assert bad.failed and "there is no such place" in bad.text
    assert observed(weather, {"town": "Rome"}).text.endswith("it takes: city, days")


def test_an_optional_argument_may_be_null():
    def find(word: str, kind: Literal["a", "b"] | None = None, tags: list[str] | None = None):
        """Finds.

        Args:
            word: What.
            kind: Of which kind.
            tags: With which tags.
        """
        return [kind, tags]

    assert observed(find, {"word": "x", "kind": None, "tags": None}).text == "[null, null]"
    assert observed(find, {"word": "x", "kind": "a", "tags": ["b"]}).text == '["a", ["b"]]'
    assert observed(find, {"word": None}).failed
    assert observed(find, {"word": "x", "kind": "c"}).failed


def test_a_decorator_may_hide_that_a_function_is_async():
    @functools.wraps(waits)
    def traced(*arguments, **named):
        return waits(*arguments, **named)

    assert observed(traced, {"seconds": 0.5}).text == "waited 0.5"


def test_the_policy_reads_letters_and_no_escapes():
    assert observed(weather, {"city": "東京"}).text == '{"東京": ["sun"]}'


def test_what_a_function_returns_may_be_hinted_in_any_way():
    def letters(word: str) -> tuple[str, ...]:
        """Parts a word.

        Args:
            word: Which.
        """
        return tuple(word)

    assert observed(letters, {"word": "ab"}).text == '["a", "b"]'


def test_a_fault_of_the_function_is_an_error():
    def broken(x: int) -> int:
        """Breaks.

        Args:
            x: Anything.
        """
        return x.missing

    with pytest.raises(AttributeError):
        observed(broken, {"x": 1})


def no_hint(city, days: int) -> str:
    """Tells."""


def no_docstring(city: str) -> str:
    return city


def not_described(city: str) -> str:
    """Tells the weather."""


def any_number(*cities: str) -> str:
    """Tells."""


def no_such_hint(city: "Nowhere") -> str:  # noqa: F821
    """Tells."""


class Unit(enum.Enum):
    CELSIUS = "c"


def no_json(units: list[Unit]) -> str:
    """Tells.

    Args:
        units: Which.
    """


def no_set(days: set[int] | None) -> str:
    """Tells.

    Args:
        days: Which.
    """


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (no_hint, "needs a type hint for its parameter city, as in city: str"),
        (no_docstring, "the tool no_docstring cannot be described: .*docstring"),
        (not_described, "the tool not_described cannot be described: .*city.*under `Args:`"),
        (no_json, "the tool no_json must take what JSON has: .*parameter units by .*, got Unit"),
        (no_set, "the tool no_set .*set"),
        (any_number, "must name its parameters"),
        (no_such_hint, "names nothing"),
        (3, "must be a function, or have name, schema and call, got 3"),
    ],
)
def test_what_cannot_be_described_is_refused_in_one_sentence(function, told):
    with pytest.raises(ValueError, match=told) as refusal:
        as_tool(function)
    assert "\n" not in str(refusal.value)
