"""Numbers of answers, read exactly and without a computer algebra system."""

import re
from dataclasses import dataclass
from fractions import Fraction

_MAX_EXPONENT = 5_000

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+|\d+)(?:\.\d*)?|\.\d+"
_POWER = r"(?:\s*(?:\\times|\\cdot|\*|x)\s*10\s*\^\s*(?:\{\s*([-+]?\d+)\s*\}|(\d))|[eE]([-+]?\d+))"
_DECIMAL = re.compile(rf"([-+]?)\s*({_DIGITS}){_POWER}?")
_TEN = re.compile(r"([-+]?)\s*10\s*\^\s*(?:\{\s*([-+]?\d+)\s*\}|(\d))")
_FRACTION = re.compile(
    r"([-+]?)\s*(?:\\frac\s*\{\s*([-+]?[\d.,]+)\s*\}\s*\{\s*([-+]?[\d.,]+)\s*\}"
    r"|([\d.,]+)\s*/\s*([\d.,]+))"
)
_MIXED = re.compile(
    r"([-+]?)\s*(\d+)(?:\s*\\frac\s*\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}|\s+(\d+)\s*/\s*(\d+))"
)
_REPEATING = re.compile(
    r"([-+]?)\s*(\d*)\.(\d*?)(?:\\(?:overline|bar|dot)\s*(?:\{(\d+)\}|(\d))"
    r"|\((\d+)\)|(\d)\7\7+\.\.\."
    r"|(\d{2,6}?)\8+\.\.\.)"
)


@dataclass(frozen=True, slots=True)
class Number:
    """A rational number as it was written."""

    value: Fraction
    rounded: bool = False
    """Written with a decimal point or a power of ten, so that it may stand for a near number."""


def number(text: str) -> Number | None:
    """Read a cleaned answer as a number: grouped, mixed, repeating, in scientific notation."""
    text = text.strip()
    while text.startswith("(") and text.endswith(")") and text.count("(") == 1:
        text = text[1:-1].strip()
    for pattern, read in _FORMS:
        if (found := pattern.fullmatch(text)) is not None:
            try:
                return read(found)
            except (ValueError, ZeroDivisionError):
                return None
    return None


def _plain(found: re.Match[str]) -> Number:
    sign, digits, *powers = found.groups()
    exponent = next(filter(None, powers), "")
    rounded = "." in digits or bool(exponent)
    return Number(_signed(sign, _digits(digits) * _ten_to(exponent or "0")), rounded)


def _ten(found: re.Match[str]) -> Number:
    sign, *powers = found.groups()
    return Number(_signed(sign, _ten_to(next(filter(None, powers)))))


def _fraction(found: re.Match[str]) -> Number:
    sign, *parts = found.groups()
    above, below = (part for part in parts if part)
    value = _signed(sign, _digits(above) / _digits(below))
    return Number(value, "." in above + below)


def _mixed(found: re.Match[str]) -> Number:
    sign, whole, *parts = found.groups()
    above, below = (part for part in parts if part)
    if int(above) >= int(below):
        raise ValueError("an improper fraction beside a whole number is a product")
    return Number(_signed(sign, Fraction(int(whole)) + Fraction(int(above), int(below))))


def _repeating(found: re.Match[str]) -> Number:
    sign, whole, fixed, *periods = found.groups()
    period = next(filter(None, periods))
    value = _digits(f"{whole or 0}.{fixed}")
    value += Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(fixed))
    return Number(_signed(sign, value))


_FORMS = (
    (_DECIMAL, _plain),
    (_TEN, _ten),
    (_MIXED, _mixed),
    (_FRACTION, _fraction),
    (_REPEATING, _repeating),
)


def _digits(text: str) -> Fraction:
    text = text.replace(",", "").replace(" ", "")
    return Fraction(f"0{text}" if text.startswith(".") else text)


def _signed(sign: str, value: Fraction) -> Fraction:
    return -value if sign == "-" else value


def _ten_to(exponent: str) -> Fraction:
    if abs(int(exponent)) > _MAX_EXPONENT:
        raise ValueError(f"a power of ten beyond {_MAX_EXPONENT}")
    return Fraction(10) ** int(exponent)


def near(a: Fraction, b: Fraction, precision: int) -> bool:
    """Whether two numbers agree to `precision` decimals, below 0.1 to as many significant digits.

    The tolerance is half a unit in the last of them. It shrinks with the numbers, so that only 0
    is near 0.
    """
    scale = max(abs(a), abs(b))
    if scale == 0:
        return True
    bits = scale.numerator.bit_length() - scale.denominator.bit_length()
    unit = Fraction(10) ** (bits * 3 // 10)
    while unit > scale:
        unit /= 10
    while unit <= scale:
        unit *= 10
    unit = min(Fraction(1), unit)
    return abs(a - b) <= unit / 2 / Fraction(10) ** precision
