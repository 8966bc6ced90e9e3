"""Tools that are functions of a file."""

import asyncio

import pytest

from rollout.tools.own_function import OwnTool

FILE = '''
def add(a: int, b: int = 1) -> int:
    """Add two numbers.

    Args:
        a: The first.
        b: The second.
    """
    return a + b

async def wait(a: int) -> str:
    """Wait.

    Args:
        a: For how long.
    """
    return "done"

def silent(a, b):
    return a
'''


@pytest.fixture
def tool(tmp_path):
    path = tmp_path / "tools_of_mine.py"
    path.write_text(FILE)
    return lambda name: OwnTool(f"{path}:{name}")


def test_a_function_tells_its_schema_and_is_called_by_name(tool):
    add = tool("add")
    described = add.schema["function"]
    assert add.name == described["name"] == "add"
    assert described["parameters"]["required"] == ["a"]
    assert described["parameters"]["properties"]["b"]["description"] == "The second."
    assert asyncio.run(add.call({"a": 2, "b": 3})) == "5"
    assert asyncio.run(tool("wait").call({"a": 2})) == "done"


def test_a_function_that_says_too_little_is_refused(tool):
    with pytest.raises(ValueError, match=r"^tool\.path the tool silent needs a type hint"):
        tool("silent")
