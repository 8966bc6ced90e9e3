"""Whether a program printed what is expected.

Outputs are equal when their lines are, but for blanks at the ends of lines and blank lines at the
beginning and the end. Where a number with a decimal point is expected, one that differs by 1e-6 at
most, or by 1e-9 of it, is equal too, however it is written: judges compare so, for 3.0 is 3.00000,
and a sum of the same numbers in another order has other last digits. An amount of some millions is
wrong by a cent all the same.
"""

import math
import re

_NUMBER = re.compile(r"-?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_ABSOLUTE, _RELATIVE = 1e-6, 1e-9


def same_output(printed: str, expected: str) -> bool:
    """Whether a program printed what is expected; see this module."""
    ours, theirs = _lines(printed), _lines(expected)
    return len(ours) == len(theirs) and all(map(_same_line, ours, theirs))


def _lines(text: str) -> list[str]:
    lines = [line.rstrip() for line in text.rstrip().split("\n")]
    return lines[next((number for number, line in enumerate(lines) if line), 0) :]


def _same_line(printed: str, expected: str) -> bool:
    if printed == expected:
        return True
    ours, theirs = printed.split(" "), expected.split(" ")
    return len(ours) == len(theirs) and all(map(_same_token, ours, theirs))


def _same_token(printed: str, expected: str) -> bool:
    if printed == expected or "." not in expected:
        return printed == expected
    if not (_NUMBER.fullmatch(printed) and _NUMBER.fullmatch(expected)):
        return False
    number = float(expected)
    if not math.isfinite(number):
        return False
    return math.isclose(float(printed), number, rel_tol=_RELATIVE, abs_tol=_ABSOLUTE)
