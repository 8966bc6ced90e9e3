"""A calculator: numbers, + - * / // % **, parentheses, and a few functions; nothing is run as code.

The expression is parsed, and its tree walked; whatever is not on the lists below is refused.
"""

import ast
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rollout.tools.tool import ToolError

LONGEST = 500
"""Characters of an expression."""
MOST_BITS = 2000
"""Of a whole number, on the way too."""
MOST_DIGITS = 1000
"""Before or after the point, that a number is rounded to."""
_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{name: getattr(math, name) for name in ("sqrt", "exp", "log", "sin", "cos", "tan")},
    **{name: getattr(math, name) for name in ("floor", "ceil", "gcd", "lcm")},
    "abs": abs,
    "round": round,
    "min": min,
    "max": max,
}
_CONSTANTS = {"pi": math.pi, "e": math.e}


@dataclass(frozen=True, slots=True)
class Calculator:
    """The tool `calculator`."""

    name: str = "calculator"

    @property
    def schema(self) -> Mapping[str, Any]:
        """See `rollout.tools.tool.Tool`."""
        expression = {
            "type": "string",
            "description": "Such as 12 * (3 + 4). Operators: + - * / // % **; functions: "
            + ", ".join(_FUNCTIONS),
        }
        parameters = {
            "type": "object",
            "properties": {"expression": expression},
            "required": ["expression"],
        }
        about = {"name": self.name, "description": "Computes a number.", "parameters": parameters}
        return {"type": "function", "function": about}

    async def call(self, arguments: Mapping[str, Any]) -> str:
        """Compute an expression; see `rollout.tools.tool.Tool`."""
        return calculate(arguments["expression"])


def calculate(expression: str) -> str:
    """Compute an expression.

    Raises:
        ToolError: If it is none, or its value is too large or not defined.
    """
    if len(expression) > LONGEST:
        raise ToolError(f"an expression has at most {LONGEST} characters")
    try:
        value = _value(ast.parse(expression.strip().replace("^", "**"), mode="eval").body)
        return str(value)
    except ToolError:
        raise
    except (SyntaxError, RecursionError, MemoryError):
        raise ToolError(f"{expression[:80]!r} is no expression") from None
    except (ArithmeticError, ValueError, TypeError) as error:
        raise ToolError(f"{expression[:80]!r} has no value: {error}") from None


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return _small(value)
        case ast.Name(id=name) if name in _CONSTANTS:
            return _CONSTANTS[name]
        case ast.UnaryOp(op=sign, operand=operand) if type(sign) in _UNARY:
            return _UNARY[type(sign)](_value(operand))
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _BINARY:
            first, second = _value(left), _value(right)
            if isinstance(sign, ast.Pow):
                _check_power(first, second)
            return _small(_BINARY[type(sign)](first, second))
        case ast.Call(func=ast.Name(id=name), args=given, keywords=[]) if name in _FUNCTIONS:
            values = [_value(each) for each in given]
            if name == "round":
                _check_digits(*values[1:])
            return _small(_FUNCTIONS[name](*values))
    raise ToolError(f"{ast.unparse(node)[:80]!r} is nothing that it computes")


def _check_power(base: Any, exponent: Any) -> None:
    """Refuse a power that would take long, before it is computed."""
    whole = isinstance(base, int) and isinstance(exponent, int)
    if whole and base.bit_length() * abs(exponent) > MOST_BITS:
        raise ToolError("the power is too large")


def _check_digits(digits: Any = 0, *_: Any) -> None:
    """Refuse digits that `round` would take long for: it makes a power of ten out of them."""
    if not -MOST_DIGITS <= digits <= MOST_DIGITS:
        raise ToolError(f"round takes {-MOST_DIGITS} to {MOST_DIGITS} digits")


def _small(value: Any) -> Any:
    if isinstance(value, complex):
        raise ToolError("the value is not real")
    if isinstance(value, int) and value.bit_length() > MOST_BITS:
        raise ToolError("the number is too large")
    return value
