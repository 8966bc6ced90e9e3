"""The program of a response is found as models write it."""

import time

import pytest

from rollout.rewards.code_response import code_of


def test_the_last_block_of_python_counts():
    text = "```python\n1\n```\nbetter:\n```py\n2\n```\nin a shell:\n```bash\nls\n```"
    assert code_of(text) == "2\n"
    assert code_of("```\n3\n```") == "3\n"
    assert code_of("print(1)") is None
    assert code_of("```python\nprint(1)") is None


def test_example_output_behind_a_program_is_not_the_program():
    text = "```python\nprint(5)\n```\nIt prints:\n```\n5\n```"
    assert code_of(text) == "print(5)\n"
    assert code_of("```\n1\n```\nor\n```\n2\n```") == "2\n"
    assert code_of("```\n1\n```\n```bash\nls\n```") == "1\n"


def test_a_draft_in_a_thought_is_not_the_program():
    assert code_of("<think>```py\n1\n```</think>\n```\n2\n```") == "2\n"
    assert code_of("<think>\n```py\n1\n```\n</think>\nDone.") is None


@pytest.mark.parametrize(
    "text",
    [
        "~~~python\nx = 1\n~~~",
        "```Python3\nx = 1\n```",
        '```python title="a.py"\nx = 1\n```',
        "```python:a.py\nx = 1\n```",
        "```{.python .numberLines}\nx = 1\n```",
        "```cpp a.cpp\nint x;\n```\n```python\nx = 1\n```",
        "````md\n```python\nx = 2\n```\n````\n```python\nx = 1\n```",
        "Use ```x``` here:\n```python\nx = 1\n```",
        "1. So:\n\n   ```python\n   x = 1\n   ```",
        "  ```python\nx = 1\n  ```",
    ],
)
def test_fences_are_read_as_in_markdown(text):
    assert code_of(text) == "x = 1\n"


def test_a_block_in_a_list_keeps_its_inner_indentation():
    text = "- So:\n  ```py\n  def f():\n      return 1\n\n  x = 2\n  ```"
    assert code_of(text) == "def f():\n    return 1\n\nx = 2\n"


def test_lines_that_end_as_on_windows_are_lines():
    assert code_of("So:\r\n```python\r\nx = 1\r\ny = 2\r\n```\r\n") == "x = 1\ny = 2\n"


@pytest.mark.parametrize(
    "line", ["```py\n", "```\n", "```py\n1\n", " " * 9 + "```py \n", "``` a", "~a", "   `"]
)
def test_fences_without_an_end_take_linear_time(line):
    begin = time.monotonic()
    code_of(line * 50_000)
    # A quadratic reading takes minutes, a linear one a tenth of a second.
    assert time.monotonic() - begin < 10
