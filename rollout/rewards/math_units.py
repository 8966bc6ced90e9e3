"""Units of answers: lengths, money, degrees, times of day, whatever is counted."""

import re
from dataclasses import dataclass
from fractions import Fraction

from rollout.rewards.math_text import TEXT


@dataclass(frozen=True, slots=True)
class Unit:
    """What a unit measures and how large it is."""

    dimension: tuple[tuple[str, int], ...]
    """Base units with their powers, sorted; empty for percent."""
    factor: Fraction
    """Size in base units."""


PERCENT = Unit((), Fraction(1, 100))
_COUNT = Unit((), Fraction(1))
DEGREE = Unit((("degree", 1),), Fraction(1))

_BASES = {
    "metre": {"mm": "1/1000", "cm": "1/100", "dm": "1/10", "m": "1", "km": "1000"},
    "gram": {"mg": "1/1000", "g": "1", "kg": "1000", "tonne": "1000000"},
    "second": {
        "ms": "1/1000",
        "s": "1",
        "min": "60",
        "h": "3600",
        "day": "86400",
        "week": "604800",
    },
    "litre": {"ml": "1/1000", "mL": "1/1000", "l": "1", "L": "1"},
    "dollar": {"dollar": "1", "$": "1", "usd": "1", "cent": "1/100"},
    "euro": {"\u20ac": "1", "euro": "1", "eur": "1"},
    "pound sterling": {"\u00a3": "1", "gbp": "1"},
    "foot": {"ft": "1", "foot": "1", "inch": "1/12", "in": "1/12", "yard": "3", "mile": "5280"},
    "yen": {"\u00a5": "1", "yen": "1", "jpy": "1"},
    "rupee": {"\u20b9": "1", "rupee": "1", "inr": "1"},
}
_KNOWN = {name: (base, Fraction(f)) for base, names in _BASES.items() for name, f in names.items()}
_SAME = {
    **{"millimeter": "mm", "centimeter": "cm", "meter": "m", "kilometer": "km", "feet": "foot"},
    **{"millimetre": "mm", "centimetre": "cm", "metre": "m", "kilometre": "km", "inches": "inch"},
    **{
        "milligram": "mg",
        "gram": "g",
        "kilogram": "kg",
        "sec": "s",
        "second": "s",
        "minute": "min",
    },
    **{"hour": "h", "hr": "h", "hrs": "h", "liter": "l", "litre": "l", "milliliter": "ml"},
    **{"millilitre": "ml", "mins": "min", "secs": "s", "usd": "dollar", "miles": "mile"},
    **{"lbs": "pound", "lb": "pound", "yd": "yard", "mi": "mile"},
}
_NO_UNIT = frozenset(("unit", "square", "sq", "cubic", "cu", "a", "an", "per", "of", "the"))
_FUNCTIONS = frozenset(
    (
        *("sin", "cos", "tan", "cot", "csc", "log", "ln", "lg", "exp", "max"),
        *("gcd", "lcm", "mod", "det", "dim"),
    )
)
"""Names that are no unit; "sec" and "min" are more often one."""
_JOINS = frozenset(
    (
        *("and", "or", "if", "for", "where", "when", "with", "is", "to", "not", "least", "most"),
        *("between", "either", "maybe", "perhaps", "possibly", "except", "but"),
        *("plus", "minus", "squared", "cubed", "hundred"),
    )
)
"""Words that say something about a number or of another one, so that what has them is no unit."""
_COUNTED = re.compile(r"(?<![A-Za-z^])(?<!\^[ -])(?<!\^ -)\d")
_SPEEDS = (
    (re.compile(r"\bmph\b"), "mile/h"),
    (re.compile(r"\b(?:kmph|kph|kmh)\b"), "km/h"),
)

_TEXT_UNIT = re.compile(
    r"(.+?)\s*\\text\s*\{((?:[^{}]|\^\{-?\d\})*)\}\s*(?:\^\s*\{?\s*(-?\d)\s*\}?)?"
    r"(?:\s*(/)\s*(?:\\text\s*\{([^{}]*)\}|([a-z]+))\s*(?:\^\s*\{?\s*(-?\d)\s*\}?)?)?"
)
_BARE_UNIT = re.compile(r"(.*(?:[\d)}]|\\pi(?![a-zA-Z])))(\s*)-?([A-Za-z][A-Za-z ./^{}\d]*)")
_MONEY_FIRST = re.compile(
    r"(-?)\s*(?:US\s*)?(\\\$|\u20ac|\u00a3|\u00a5|\u20b9|USD(?![a-z])|EUR(?![a-z]))\s*(.+)"
)
_BASED = re.compile(
    r"(?:\\(?:text|overline)\s*\{|\()?\s*([\dA-F]+)\s*[})]?\s*_\s*\{?\s*(\d{1,2})\s*\}?"
)
_MODULO = re.compile(
    r"(.+?)\s*(?:\\[bp]?mod|\(\s*(?:\\?mod|\\text\s*\{\s*mod\s*\}))\s*\{?\s*(\w{1,9})\s*\}?\s*\)?"
)
_MONEY_LAST = re.compile(r"(.+?)\s*(?:\\text\s*\{\s*)?(\\\$|[\u20ac\u00a3\u00a5\u20b9])\s*\}?")
_PERCENT = re.compile(
    r"(.+?)\s*(?:\\?%|(?:\\text\s*\{\s*)?(?:%|per ?cent|pct)\s*\.?\s*\}?)"
    r"(?:\s*\\text\s*\{[^{}]*\})?"
)
_DEGREES = re.compile(
    r"(.+?)\s*(?:\^\s*\\circ\s*|(?:\\text\s*\{\s*)?degrees?\s*\}?)"
    r"\s*(?:\\text\s*\{)?\s*([CF]|[Cc]elsius|[Ff]ahrenheit)?\s*\}?"
)


def quantity(text: str) -> tuple[str, Unit | None]:
    """Part a cleaned answer into what stands before its unit, and the unit if there is one."""
    value, unit = _quantity(text.strip())
    return value, None if unit == _COUNT else unit


def _quantity(text: str) -> tuple[str, Unit | None]:
    if found := re.fullmatch(r"\\text\s*\{\s*([-\d][^{}]*)\}", text):
        text = found.group(1).strip()
    if found := _MONEY_FIRST.fullmatch(text):
        value, more = quantity(found.group(3))
        symbol = found.group(2).strip("\\").lower()
        return found.group(1) + value, more or _unit(symbol)
    if found := _BASED.fullmatch(text):
        return found.group(1), Unit(((f"base {found.group(2)}", 1),), Fraction(1))
    if found := _MODULO.fullmatch(text):
        return found.group(1), Unit(((f"modulo {found.group(2)}", 1),), Fraction(1))
    if found := _MONEY_LAST.fullmatch(text):
        return found.group(1), _unit(found.group(2).strip("\\"))
    if found := _PERCENT.fullmatch(text):
        return found.group(1), PERCENT
    if (found := _DEGREES.fullmatch(text)) and not re.search(
        r"\\(?:sin|cos|tan|cot|sec|csc)", text
    ):
        scale = (found.group(2) or "")[:1].upper()
        return found.group(1), Unit(((f"degree {scale}", 1),), Fraction(1)) if scale else DEGREE
    if found := _TEXT_UNIT.fullmatch(text):
        value, name, power, slash, below, bare, below_power = found.groups()
        written = f"{name}^{power}" if power else name
        if slash:
            written += f"/{below or bare}" + (f"^{below_power}" if below_power else "")
        if (unit := _unit(written)) is not None:
            return value, unit
    if (found := _BARE_UNIT.fullmatch(text)) and _is_bare_unit(found.group(3), found.group(2)):
        return found.group(1), _unit(found.group(3))
    return text, None


def _is_bare_unit(written: str, space: str) -> bool:
    words = re.findall(r"[A-Za-z]+", written)
    known = [_SAME.get(word, word) in _KNOWN or _singular(word) in _KNOWN for word in words]
    if any(word in _FUNCTIONS or word in _JOINS for word in words):
        return False
    fits = (
        # Directly behind a number, letters that are no unit are factors: 6xyz.
        k or word in _NO_UNIT or (len(word) > 2 and (place > 0 or bool(space)))
        for place, (word, k) in enumerate(zip(words, known, strict=True))
    )
    return all(fits) and (bool(space) or len(words[0]) > 1)


def _singular(word: str) -> str:
    word = word if len(word) <= 3 else word.lower()
    word = _SAME.get(word, word)
    if len(word) > 3 and word.endswith("s") and not word.endswith("ss"):
        word = word[:-1]
    return _SAME.get(word, word)


def _unit(written: str) -> Unit | None:
    """Read "cm^2", "km/h", "square metres", "apples"; None of words that are no unit."""
    written = re.sub(r"[{}\s]+", " ", written).replace("\\cdot", " ")
    written = re.sub(r"\bper\b", "/", re.sub(r"(?<=[A-Za-z])\.", "", written)).strip(" .")
    for speed, parts in _SPEEDS:
        written = speed.sub(parts, written)
    if _COUNTED.search(written) or any(word in _JOINS for word in re.findall(r"\w+", written)):
        return None
    powers: dict[str, int] = {}
    factor = Fraction(1)
    for place, part in enumerate(written.split("/")):
        shape = 2 if re.search(r"\b(?:square|sq)\b", part) else 3 if "cubic" in part else 1
        for name, *powered in re.findall(
            r"([^\W\d_]+|[$\u20ac\u00a3\u00a5\u20b9])(?:\s*\^\s*(-?\d)|(-?\d))?", part
        ):
            name = _singular(name)
            if name in _NO_UNIT:
                continue
            base, size = _KNOWN.get(name, (name, Fraction(1)))
            exponent = int("".join(powered) or shape) * (-1 if place else 1)
            powers[base] = powers.get(base, 0) + exponent
            factor *= size**exponent
    return Unit(tuple(sorted(powers.items())), factor) if powers else _COUNT


_TERM = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)\.?")
_SUM = re.compile(rf"{_TERM.pattern}(?:\s*(?:and\s+)?{_TERM.pattern}){{1,3}}")
_CLOCK = re.compile(r"(\d{1,2})(?::(\d{2}))?(?:\s*([ap])\.?\s?m\.?)?", re.IGNORECASE)


def summed(text: str) -> str:
    """What is given in parts of falling units as one quantity: 1 hour and 30 minutes as 90 min."""
    plain = " ".join(TEXT.sub(r" \1 ", text).split())
    if not _SUM.fullmatch(plain):
        return text
    terms = [(Fraction(size), _SAME.get(unit, unit)) for size, unit in _TERM.findall(plain)]
    known = [_KNOWN.get(unit) or _KNOWN.get(_singular(unit)) for _, unit in terms]
    bases = [(base[0], -base[1]) for base in known if base]
    if len({base for base, _ in bases}) != 1 or bases != sorted(set(bases)):
        return text
    if len(bases) != len(terms):
        return text
    total = sum(size * -factor for (size, _), (_, factor) in zip(terms, bases, strict=True))
    return rf"{total / -bases[-1][1]} \text{{ {terms[-1][1]}}}"


def same_time(gold: str, found: str) -> bool | None:
    """Whether two times of day are the same, None unless both are and one says a.m. or p.m.

    Which half of the day may be left out on the other side.
    """
    (a, half), (b, other) = _minute(gold), _minute(found)
    if a is None or b is None or not (half or other):
        return None
    known = (half or a >= 13 * 60) and (other or b >= 13 * 60)
    return a == b if known else a % (12 * 60) == b % (12 * 60)


def _minute(text: str) -> tuple[int | None, bool]:
    """The minute of the day of a time, and whether it says a.m. or p.m."""
    plain = " ".join(TEXT.sub(r" \1 ", text).split()).replace(" : ", ":")
    found = _CLOCK.fullmatch(plain)
    if found is None or not (found.group(2) or found.group(3)):
        return None, False
    hour, minute, half = int(found.group(1)), int(found.group(2) or 0), found.group(3)
    if hour > 24 or minute > 59:
        return None, False
    if half:
        hour = hour % 12 + 12 * (half in "pP")
    return hour * 60 + minute, bool(half)


def alike(a: Unit, b: Unit) -> bool:
    """Whether two things that are counted may be the same, one named more closely: red apples."""
    names = set(a.dimension), set(b.dimension)
    counted = all(power == 1 and name not in _BASES for name, power in names[0] | names[1])
    closer = names[0] <= names[1] or names[1] <= names[0]
    return bool(names[0] and names[1]) and counted and closer and DEGREE not in (a, b)
