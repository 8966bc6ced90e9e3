"""Values of formulas: math-verify reads them, numbers put for the letters compare them.

math-verify's own comparison simplifies, which has no bound, and counts differences below 1e-15 as
none. Two formulas are the same here if they agree at several points to more digits than chance
allows; a value too large to be computed is refused before it is.
"""

import logging
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from typing import Any

from rollout.rewards.math_numbers import Number, near, number
from rollout.rewards.math_text import too_large

_POINTS = (
    ("1.618", "2.71", "0.577", "3.33", "1.2", "0.91"),
    ("0.377", "1.93", "4.41", "0.83", "2.2", "1.31"),
    ("3.1", "0.41", "1.7", "2.9", "0.6", "5.3"),
    ("-1.37", "2.3", "-0.7", "1.1", "-2.6", "0.45"),
    ("-0.52", "-1.9", "-2.4", "-0.31", "-1.6", "-3.7"),
)
"""Values of the letters in alphabetical order; a letter beyond the sixth is a shifted one."""
_DIGITS = (50, 100)
_MAX_BITS = 40_000.0
_MAX_TERMS = 1_000
_MAX_NODES = 400


class NotComputedError(ValueError):
    """A formula whose value cannot be computed here, or has none."""


def load() -> None:
    """Import what reads formulas, and read one: the first takes a second or two."""
    _tree("x")


def readable(text: str) -> bool:
    """Whether a cleaned answer can be read as a number or formula."""
    return number(text) is not None or _tree(text) is not None


def letters(text: str) -> frozenset[str]:
    """Names of the variables of a cleaned formula; empty if it cannot be read."""
    tree = _tree(text)
    if tree is None or not hasattr(tree, "free_symbols"):
        return frozenset()
    return frozenset(symbol.name for symbol in tree.free_symbols)


def has_value(text: str) -> bool:
    """Whether a cleaned formula can be computed for whatever its letters stand for."""
    if number(text) is not None:
        return True
    tree = _tree(text)
    return tree is not None and bool(_agree((tree, tree), 1, rounded=False, ratio=False))


def is_linear(text: str) -> bool:
    """Whether a cleaned formula has one letter and is of first degree in it."""
    import mpmath

    tree, names = _tree(text), letters(text) - {"i"}
    if len(names) != 1:
        return False
    [name] = names
    with mpmath.workdps(_DIGITS[0]):
        try:
            places = [mpmath.mpf(point[0]) for point in _POINTS]
            values = [_value(tree, {name: Fraction(point[0])}, [_MAX_NODES]) for point in _POINTS]
        except (NotComputedError, ArithmeticError, AttributeError, TypeError, ValueError):
            return False
        slopes = [
            (b - a) / (y - x) for (x, a), (y, b) in pairwise(zip(places, values, strict=True))
        ]
        least = abs(slopes[0]) * mpmath.mpf(10) ** (10 - _DIGITS[0])
        return bool(slopes[0] and all(abs(slope - slopes[0]) <= least for slope in slopes))


def same_value(gold: str, found: str, precision: int, scale: Fraction = Fraction(1)) -> bool:
    """Whether `scale` times the one cleaned formula is the other, whatever the letters stand for.

    Args:
        gold: The task's answer.
        found: The response's, which is scaled.
        precision: Decimals to which rounded numbers must agree.
        scale: From the unit of `found` to that of `gold`.
    """
    a, b = number(gold), number(found)
    if a is not None and b is not None:
        value = b.value * scale
        if a.value == value:
            return True
        return (a.rounded or b.rounded) and near(a.value, value, precision)
    if scale != 1:
        found = rf"\frac{{{scale.numerator}}}{{{scale.denominator}}}\cdot({found})"
        b = None
    trees = _exact(a) or _tree(gold), _exact(b) or _tree(found)
    if trees[0] is None or trees[1] is None:
        return False
    if trees[0] == trees[1]:
        return True
    rounded = any(n is not None and n.rounded for n in (a, b)) or any(map(_is_rounded, trees))
    return bool(_agree(trees, precision, rounded, ratio=False))


def below(a: str, b: str) -> bool:
    """Whether the one cleaned formula without letters has a smaller value than the other."""
    import mpmath

    trees = _tree(a), _tree(b)
    if trees[0] is None or trees[1] is None:
        return False
    with mpmath.workdps(_DIGITS[0]):
        try:
            x, y = (_value(tree, {}, [_MAX_NODES]) for tree in trees)
        except (NotComputedError, ArithmeticError, AttributeError, TypeError, ValueError):
            return False
        return bool(not mpmath.im(x) and not mpmath.im(y) and mpmath.re(x) < mpmath.re(y))


def same_set(gold: str, found: str) -> bool:
    """Whether two cleaned answers are the same set of numbers, one written with set operations."""
    both = gold + found
    if not re.search(r"\\(?:mathbb|setminus|cap|emptyset)", both) or re.search(r"[!^]", both):
        return False
    from sympy import Set

    a, b = _tree(gold), _tree(found)
    if not isinstance(a, Set) or not isinstance(b, Set):
        return False
    try:
        return bool(a == b or a.symmetric_difference(b).is_empty)
    except (ArithmeticError, AttributeError, NotImplementedError, TypeError, ValueError):
        return False


def proportional(gold: tuple[str, str], found: tuple[str, str], precision: int) -> int:
    """Sign of the constant c with gold[0] - gold[1] = c (found[0] - found[1]), 0 if none is."""
    texts = (f"({gold[0]})-({gold[1]})", f"({found[0]})-({found[1]})")
    trees = _tree(texts[0]), _tree(texts[1])
    if trees[0] is None or trees[1] is None:
        return 0
    return _agree(trees, precision, any(map(_is_rounded, trees)), ratio=True)


def _exact(written: Number | None) -> Any:
    from sympy import Rational

    if written is None or written.value == 0:
        return None
    return Rational(written.value.numerator, written.value.denominator)


@lru_cache(maxsize=256)
def _tree(text: str) -> Any:
    """The expression that math-verify reads, not evaluated; None if it reads none."""
    from math_verify import LatexExtractionConfig, parse
    from math_verify.parser import NormalizationConfig

    # Degrees inside a formula are those of an angle.
    text = re.sub(r"(\d+(?:\.\d+)?)\s*\^\s*\\circ", r"(\1\\cdot\\frac{\\pi}{180})", text)
    if not text.strip() or too_large(text) or not _is_formula(text):
        return None
    # It warns on every call without a timeout; the bounds above take its place.
    for module in ("parser", "grader"):
        logging.getLogger(f"math_verify.{module}").setLevel(logging.ERROR)
    config = LatexExtractionConfig(
        normalization_config=NormalizationConfig(
            basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none"
        )
    )
    # Without the extraction of plain expressions, which evaluates text as Python.
    trees = parse(f"$${text}$$", [config], fallback_mode="no_fallback", parsing_timeout=None)
    return trees[0] if trees else None


def _is_formula(text: str) -> bool:
    # Binomials and the like of constants are computed while they are read.
    if re.search(r"\d{5,}", text) and re.search(r"binom|choose|gcd|lcm|\\det|matrix", text):
        return False
    return bool(re.search(r"[\w\\]", text))


def _agree(trees: tuple[Any, Any], precision: int, rounded: bool, *, ratio: bool) -> int:
    try:
        names = sorted({s.name for tree in trees for s in tree.free_symbols} - {"i"})
        signs = [
            sign
            for point in _POINTS[: None if names or ratio else 1]
            if (sign := _agree_at(trees, _at(names, point), precision, rounded, ratio)) is not None
        ]
    except (NotComputedError, ArithmeticError, AttributeError, TypeError, ValueError):
        return 0
    if ratio:
        return _constant(signs, precision if rounded else 30)
    return int(bool(signs) and all(sign == 1 for sign in signs))


def _at(names: list[str], point: tuple[str, ...]) -> dict[str, Fraction]:
    return {
        name: Fraction(point[index % len(point)]) + index // len(point)
        for index, name in enumerate(names)
    }


def _constant(ratios: list[Any], digits: int) -> int:
    import mpmath

    if len(ratios) < 2 or any(mpmath.im(r) or not r for r in ratios):
        return 0
    ratios = [mpmath.re(r) for r in ratios]
    tolerance = mpmath.mpf(10) ** -digits
    if any(abs(r - ratios[0]) > tolerance * abs(ratios[0]) for r in ratios):
        return 0
    return 1 if ratios[0] > 0 else -1


def _agree_at(
    trees: tuple[Any, Any], at: Mapping[str, Fraction], precision: int, rounded: bool, ratio: bool
) -> Any:
    """1 or 0 at one point (with `ratio` the quotient there), None where it says nothing."""
    import mpmath

    differences = []
    for digits in _DIGITS:
        with mpmath.workdps(digits):
            try:
                a, b = (_value(tree, at, [_MAX_NODES]) for tree in trees)
            except ZeroDivisionError:
                return None
            if mpmath.isnan(a) or mpmath.isnan(b):
                return None
            if ratio:
                return None if b == 0 else a / b
            if mpmath.isinf(a) or mpmath.isinf(b):
                return int(a == b)
            if any(value < 0 for value in at.values()) and (mpmath.im(a) or mpmath.im(b)):
                return None
            scale = max(abs(a), abs(b))
            differences.append(abs(a - b))
            if differences[-1] <= scale * mpmath.mpf(10) ** (10 - digits):
                return 1
    # A difference that is nothing but rounding shrinks as digits are added.
    if differences[1] <= differences[0] * mpmath.mpf(10) ** -20:
        return 1
    return int(rounded and _near(a, b, precision))


def _near(a: Any, b: Any, precision: int) -> bool:
    import mpmath

    if mpmath.im(a) or mpmath.im(b):
        return bool(abs(a - b) <= abs(a) * mpmath.mpf(10) ** -precision / 2)
    if max(abs(a), abs(b)) > mpmath.mpf(10) ** 300:
        return False
    a, b = (Fraction(mpmath.nstr(mpmath.re(value), 40)) for value in (a, b))
    return near(a, b, precision)


def _is_rounded(tree: Any) -> bool:
    from sympy import Float

    return hasattr(tree, "atoms") and bool(tree.atoms(Float))


def _value(tree: Any, at: Mapping[str, Fraction], budget: list[int]) -> Any:
    """The value of an expression in mpmath's working precision.

    Raises:
        NotComputedError: If a part of it has no value here or is too large.
    """
    import mpmath
    import sympy

    budget[0] -= 1
    if budget[0] < 0:
        raise NotComputedError("too many operations")
    if isinstance(tree, sympy.Symbol):
        if tree.name == "i":
            return mpmath.mpc(0, 1)
        if tree.name not in at:
            raise NotComputedError(tree.name)
        return mpmath.mpf(at[tree.name].numerator) / at[tree.name].denominator
    if isinstance(tree, sympy.Rational):
        return mpmath.mpf(tree.p) / tree.q
    if isinstance(tree, sympy.Float):
        # The nearest short decimal is what was written.
        return mpmath.mpf(str(tree.n(15)))
    name = type(tree).__name__
    if name in _CONSTANTS:
        return _CONSTANTS[name](mpmath)
    if name in ("Sum", "Product"):
        return _total(tree, at, budget)
    parts = [_value(part, at, budget) for part in tree.args]
    if name not in _OPERATIONS:
        raise NotComputedError(name)
    return _OPERATIONS[name](mpmath, *parts)


def _total(tree: Any, at: Mapping[str, Fraction], budget: list[int]) -> Any:
    if len(tree.limits) != 1:
        raise NotComputedError("several limits")
    letter, first, last = tree.limits[0]
    first, last = (_value(part, at, budget) for part in (first, last))
    if first != int(first) or last != int(last) or last - first > _MAX_TERMS:
        raise NotComputedError("terms without an end")
    terms = range(int(first), int(last) + 1)
    budget[0] += 20 * min(len(terms), _MAX_TERMS)
    values = [_value(tree.function, {**at, letter.name: Fraction(k)}, budget) for k in terms]
    operation = "Add" if type(tree).__name__ == "Sum" else "Mul"
    import mpmath

    return _OPERATIONS[operation](mpmath, *values)


def _power(mp: Any, base: Any, exponent: Any) -> Any:
    if mp.isinf(base) or mp.isinf(exponent):
        raise NotComputedError("a power of infinity")
    if base == 0 and mp.re(exponent) < 0:
        raise ZeroDivisionError
    if base and abs(exponent) * (abs(mp.log(abs(base), 2)) + 1) > _MAX_BITS:
        raise NotComputedError("a power too large")
    # The real root of a negative number, as written with a root sign, is not the principal one.
    if not mp.im(base) and mp.re(base) < 0 and not mp.im(exponent):
        root = 1 / exponent if exponent else mp.mpf(0)
        if abs(root - mp.nint(root)) < mp.mpf(10) ** -40 and int(mp.nint(root)) % 2 and root != 1:
            return -mp.power(-base, exponent)
    return mp.power(base, exponent)


def _bounded(function: str, limit: int) -> Callable[..., Any]:
    def call(mp: Any, *parts: Any) -> Any:
        if any(abs(part) > limit for part in parts):
            raise NotComputedError(f"an argument of {function} above {limit}")
        return getattr(mp, function)(*parts)

    return call


def _real(function: str) -> Callable[..., Any]:
    def call(mp: Any, *parts: Any) -> Any:
        if any(mp.im(part) for part in parts):
            raise NotComputedError(f"{function} of a complex number")
        chosen = {"Max": max, "Min": min}.get(function) or getattr(mp, function.lower())
        return chosen(*(mp.re(part) for part in parts))

    return call


def _log(mp: Any, value: Any, base: Any = None) -> Any:
    if value == 0 or base in (0, 1):
        raise ZeroDivisionError
    return mp.log(value) if base is None else mp.log(value) / mp.log(base)


_CONSTANTS: dict[str, Callable[[Any], Any]] = {
    "Pi": lambda mp: +mp.pi,
    "Exp1": lambda mp: +mp.e,
    "ImaginaryUnit": lambda mp: mp.mpc(0, 1),
    "Infinity": lambda mp: mp.inf,
    "NegativeInfinity": lambda mp: -mp.inf,
    "GoldenRatio": lambda mp: +mp.phi,
}
_SMALL = (
    *("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh"),
    *("asin", "acos", "atan", "asinh", "acosh", "atanh", "exp"),
)
_OPERATIONS: dict[str, Callable[..., Any]] = {
    "Add": lambda mp, *parts: mp.fsum(parts),
    "Mul": lambda mp, *parts: mp.fprod(parts),
    "Pow": _power,
    "UnevaluatedExpr": lambda mp, part: part,
    "Abs": lambda mp, part: abs(part),
    "log": _log,
    "floor": _real("floor"),
    "ceiling": _real("ceil"),
    "Max": _real("Max"),
    "Min": _real("Min"),
    "sign": _real("sign"),
    "re": lambda mp, part: mp.re(part),
    "im": lambda mp, part: mp.im(part),
    "arg": lambda mp, part: mp.arg(part),
    "conjugate": lambda mp, part: mp.conj(part),
    "factorial": _bounded("factorial", 2_000),
    "gamma": _bounded("gamma", 2_000),
    "binomial": _bounded("binomial", 5_000),
    **{name: _bounded(name, 20_000) for name in _SMALL},
}
