"""Asserts of functions whose inputs and outputs a data set has as JSON, as their judges compare.

A function's tuples count as lists. A float is equal to one that differs by 1e-6 at most, or by 1e-9
of it. An output in a list of its own is that output too, and an only argument or an output that is
a dict with numbers for keys had them as numbers: JSON has texts for keys only.
"""

import re
from typing import Any

IMPORTED = """
import bisect, collections, copy, functools, heapq, itertools
import math, operator, random, re, string, sys
from bisect import *
from collections import *
from functools import *
from heapq import *
from itertools import *
from math import *
from typing import *
from builtins import *
import builtins
if "{name}" in globals():
    builtins.{name} = globals().pop("{name}")
"""
"""What judges of functions import before the code; starter code leans on it. Of what is called the
code may use Python's, such as gcd, but only the code's own answers."""
FUNCTION = """
try:
    _called = {name}
except NameError:
    _called = Solution().{name}
from builtins import *


def _same(value, told):
    if isinstance(told, list):
        is_list = isinstance(value, (list, tuple)) and len(value) == len(told)
        return is_list and all(map(_same, value, told))
    if isinstance(told, dict):
        is_dict = isinstance(value, dict) and value.keys() == told.keys()
        return is_dict and all(_same(value[key], told[key]) for key in told)
    if isinstance(told, float) and type(value) in (int, float):
        return abs(value - told) <= max(1e-6, 1e-9 * abs(told))
    return value == told


def _among(value, allowed):
    return any(_same(value, told) for told in allowed)
"""
"""Python before each assert; what it uses is Python's own, whatever the name that is called."""
_INTEGER = re.compile("-?[0-9]{1,18}")


def call(arguments: Any, expected: Any, *, exact: bool) -> str:
    """Write an assert of a call.

    Args:
        arguments: A list of them.
        expected: What the function is to return.
        exact: Whether both are as they were before they became JSON.

    Raises:
        ValueError: If the arguments are no list.
    """
    if not isinstance(arguments, list):
        raise ValueError(f"a function's input must be a list of arguments, got {arguments!r:.80}")
    allowed = [expected]
    if not exact:
        if isinstance(expected, list) and len(expected) == 1:
            allowed += expected
        allowed = [_with_numbers(each) for each in allowed]
        if len(arguments) == 1:
            arguments = [_with_numbers(arguments[0])]
    return f"assert _among(_called(*{arguments!r}), {allowed!r})"


def _with_numbers(value: Any) -> Any:
    """A dict with keys that are numbers, if all are; JSON has texts for keys only."""
    if not isinstance(value, dict) or not all(_INTEGER.fullmatch(key) for key in value):
        return value
    return {int(key): each for key, each in value.items()}
