"""The program inside a response; found in time linear in the text, whatever the text is."""

import re
import textwrap

_FENCE = re.compile(r"[ \t]*+(`{3,}+|~{3,}+)[ \t]*+\{?\.?([\w+-]*+)([^`]*)")
_PYTHON = ("python", "py", "python3", "py3")


def code_of(response_text: str) -> str | None:
    """Return the program of a response: its last fenced block of Python; None if there is none.

    A block without a language counts only where none is labelled as Python: beside a program it is
    what the program prints. What stands before the last </think> is no answer.
    """
    labelled = unlabelled = None
    opened: re.Match[str] | None = None
    code: list[str] = []
    for line in response_text.rpartition("</think>")[2].replace("\r\n", "\n").split("\n"):
        fence = _FENCE.fullmatch(line)
        if opened is None:
            opened, code = fence, []
        elif fence is None or not _closes(opened, fence):
            code.append(f"{line}\n")
        else:
            name = opened[2].lower()
            if name in _PYTHON:
                labelled = to_the_left("".join(code))
            elif not name:
                unlabelled = to_the_left("".join(code))
            opened = None
    return unlabelled if labelled is None else labelled


def _closes(opened: re.Match[str], fence: re.Match[str]) -> bool:
    """Whether a fence is of the same kind as the one before, as long, and alone on its line."""
    return fence[1].startswith(opened[1]) and not fence[0].strip().removeprefix(fence[1])


def to_the_left(code: str) -> str:
    """Take away the indentation of a whole program, which it has in a list."""
    return textwrap.dedent(code) if code.lstrip("\n").startswith((" ", "\t")) else code
