r"""Which answers are the same: choices, words, sets, intervals, equations, units, values.

Each kind is decided here by what a mathematician would say; only formulas go on to
`rollout.rewards.math_values`. The rules that are decisions:

- `50%` is 0.5. A bare 50 answers a gold answer of `50%`, and `50%` one of 50, as with any unit left
  out; a gold answer between -1 and 1 without a percent sign is no number of percents.
- A unit or currency left out on one side is no error; two that measure different things are.
  Centimetres and metres are converted, `90^\circ` is pi/2.
- `1=2=3=4` is false, hence wrong whatever the gold answer. Any other chain gives its last member:
  what `A = \pi r^2 = 9\pi` says of r, or `P(X=2) = 1/6` of X, is not for us to judge.
- A name on the left (`x=5`, `f(x)=x^2`) is dropped unless both sides name a different letter. So is
  what a number was asked of (`a+b=5`, `x^2=9`), but `2x=8` says that x is 4, and is no 8.
- Of `a \approx b` the exact a counts, if b is a rounding of it; 18 is not about 19.
- `x>1 and x<3` is (1,3), as are two such bounds with a comma between; `x>1, x \ne 2` is without 2.
- A bare list has no order and neither have sets; tuples have. A list answers a tuple in order, and
  a tuple a column or row of a matrix. Values of different names are in the order of the names.
- The letter of a function's argument and that of the whole number in a family of angles are free.
- `1,234` is one number outside brackets and two inside.
- A formula rounded to at least `precision` digits is right, see `math_numbers.near`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from rollout.rewards.math_listings import (
    Listing,
    is_tuple,
    is_vector,
    listed,
    matrix,
    plus_minus,
    ratio,
    split,
    union,
)
from rollout.rewards.math_numbers import number
from rollout.rewards.math_rounding import rounds_to
from rollout.rewards.math_text import too_large
from rollout.rewards.math_units import DEGREE, PERCENT, alike, quantity, same_time, summed
from rollout.rewards.math_values import (
    below,
    has_value,
    is_linear,
    letters,
    proportional,
    readable,
    same_set,
    same_value,
)
from rollout.rewards.math_words import choice, in_words

_MAX_ITEMS = 24
_MAX_NESTED = 6


@dataclass(frozen=True, slots=True)
class _Claim:
    """What an equation or inequality says: a value, perhaps of a name, or a relation."""

    value: str = ""
    name: str = ""
    sides: tuple[str, str] | None = None
    """Of a relation that gives no value."""
    relation: str = "="
    """One of = < <= !=, as sides[0] relation sides[1]; of an interval as value, <."""
    false: bool = False


def refusal(text: str) -> str:
    """Why no response could be compared with a cleaned gold answer, "" if one could."""
    if reason := too_large(text):
        return f"the answer {reason}; shorten it"
    if in_words(text) is not None or choice(text) is not None:
        return ""
    text = _built(text)
    claim, listing = _claim(text), _items(text)
    if claim is not None and claim.false:
        return "the answer states an equality that does not hold"
    parts: tuple[str, ...] = ()
    if claim is not None:
        parts = claim.sides or (claim.value,)
    elif listing is not None:
        parts = listing.items
    if len(parts) > _MAX_ITEMS:
        return f"the answer has more than {_MAX_ITEMS} items; shorten it"
    if parts and text not in parts:
        return next(filter(None, map(refusal, parts)), "")
    if not text or not readable(quantity(text)[0]):
        return "math-verify finds no expression in the answer"
    return ""


def same(gold: str, found: str, precision: int, nested: int = 0) -> bool:
    """Whether a cleaned answer equals the cleaned gold answer.

    Args:
        gold: The task's answer.
        found: The response's.
        precision: Decimals to which rounded numbers must agree.
        nested: How deep inside sets, tuples and matrices the two stand.
    """
    if nested > _MAX_NESTED or too_large(gold) or too_large(found):
        return False
    words = in_words(gold), in_words(found)
    letter = choice(gold)
    if letter is not None:
        return choice(found) == letter or (words[0] is None and gold == found)
    if words[0] is not None or words[1] is not None:
        return words[0] == words[1]
    if (time := same_time(gold, found)) is not None:
        return time
    gold, found = _built(gold), _built(found)
    claims = _claim(gold), _claim(found)
    if claims != (None, None):
        return _same_claims(gold, found, claims, precision, nested)
    if same_set(gold, found):
        return True
    listings = _items(gold), _items(found)
    if listings != (None, None):
        return _same_listings(gold, found, listings, precision, nested)
    if gold == found and not refusal(gold):
        return True
    return _same_quantity(gold, found, precision)


# --- equations and inequalities ---

_RELATIONS = {
    **{"=": "=", ":=": "=", r"\equiv": "=", "<": "<", ">": ">", r"\le": "<=", r"\ge": ">="},
    **{r"\ne": "!=", r"\in": "in", r"\approx": "~"},
}
_RELATION = re.compile(r"(:=|\\(?:le|ge|ne|in|approx|equiv)(?![a-zA-Z])|[=<>])")
_NAME = re.compile(
    r"(?:\\[a-zA-Z]+\s*(?:\{[a-zA-Z ]*\})?|[a-zA-Z]+'?|\|[A-Z]{2}\|)\s*(?:_\s*(?:\{[^{}]*\}|\w))?"
    r"\s*(?:\(\s*[\w\s,]*\s*\))?(?:\s+[A-Z]{1,4})?"
)


def _claim(text: str) -> _Claim | None:
    if listed(text) is not None:
        return None
    parts = split(text, _RELATION)
    members, relations = parts[::2], [_RELATIONS[part] for part in parts[1::2]]
    members = [member.strip() for member in members]
    if not relations or not all(members):
        return None
    if "~" in relations:
        return _approximate(members, relations)
    if relations == ["in"]:
        return _Claim(members[1], members[0]) if _is_name(members[0]) else None
    if set(relations) == {"="}:
        return _equation(members)
    return _inequality(members, relations)


def _built(text: str) -> str:
    """The condition of a set that is built by one, as in { x : x > 3 }; the sum of 5 ft 6 in."""
    found = _BUILDER.fullmatch(text.strip())
    if found and _RELATION.search(found.group(1)):
        text = found.group(1).strip()
    return _but_for(text) or summed(text)


_BUT_FOR = re.compile(r"\(-\\infty,(.*)\)\\cup\(\1,\\infty\)")


def _but_for(text: str) -> str | None:
    """The set of the numbers with x >= 1, x != 2; None of other conditions."""
    if r"\ne" not in text or re.search(r"\bor\b", text):
        return None
    items = listed(text)
    claims = [_claim(item) for item in items.items] if items and not items.left else []
    values = [claim.value for claim in claims if claim and claim.relation == "<"]
    without = [found.group(1) for value in values if (found := _BUT_FOR.fullmatch(value))]
    rest = [value for value in values if not _BUT_FOR.fullmatch(value)]
    if len(values) != len(claims) or len(rest) > 1 or not 1 <= len(without) <= 4:
        return None
    whole = rest[0] if rest else r"\mathbb{R}"
    return rf"{whole}\setminus\{{{','.join(without)}\}}"


def _is_name(text: str) -> bool:
    return bool(_NAME.fullmatch(text)) and text.strip() not in (r"\pi", r"\infty", "e", "i")


def _equation(members: list[str]) -> _Claim:
    name = ""
    if _is_name(members[-1]) and not _is_name(members[0]):
        members = [members[-1], *members[:-1]]
    if _is_name(members[0]):
        name = members[0]
        members = [m for m in members[1:-1] if not _is_name(m)] + members[-1:]
    if len(members) > _MAX_ITEMS:
        return _Claim(false=True)
    if all(same(a, b, 6, 1) for a, b in pairwise(members)):
        return _Claim(members[-1], name)
    if not name and len(members) == 2 and any(letters(member) for member in members):
        # What stands alone is the value, on whichever side it is.
        return _Claim(
            sides=(members[0], members[1]) if letters(members[0]) else (members[1], members[0])
        )
    if not _may_hold(members):
        return _Claim(false=True)
    return _Claim(members[-1], name) if name else _Claim(sides=(members[0], members[-1]))


def _may_hold(members: Sequence[str]) -> bool:
    """Whether no two members that can be compared, as they have the same letters, differ."""
    of_letters: dict[frozenset[str], str] = {}
    for member in members:
        value = quantity(member)[0]
        if has_value(value):
            first = of_letters.setdefault(letters(value), member)
            if first is not member and not same(first, member, 6, 1):
                return False
    return True


def _approximate(members: list[str], relations: list[str]) -> _Claim:
    """Of x = a ~ b the exact a, or b when nothing but a name stands before it."""
    at = relations.index("~")
    before = members[: at + 1]
    if not all(_rounds_to(a, b) for a, b in pairwise(members[at:])):
        return _Claim(false=True)
    if len(before) == 1 and _is_name(before[0]):
        return _Claim(members[-1], before[0])
    if len(before) == 1:
        return _Claim(before[0])
    return _equation(before) if set(relations[:at]) == {"="} else _Claim(false=True)


def _rounds_to(exact: str, rounded: str) -> bool:
    (a, unit), (b, other) = quantity(exact), quantity(rounded)
    if other == PERCENT and unit is None:
        return rounds_to(rf"({a})\cdot 100", b)
    return unit != other or _is_name(a) or rounds_to(a, b)


def _inequality(members: list[str], relations: list[str]) -> _Claim | None:
    if len(members) == 3 and all(r in ("<", "<=") for r in relations) and _is_name(members[1]):
        brackets = ("[" if relations[0] == "<=" else "(", "]" if relations[1] == "<=" else ")")
        value = f"{brackets[0]}{members[0]},{members[2]}{brackets[1]}"
        return _Claim(value, members[1], relation="<")
    if len(members) == 3 and all(r in (">", ">=") for r in relations):
        turned = [relation.replace(">", "<") for relation in reversed(relations)]
        return _inequality(members[::-1], turned)
    if len(members) != 2 or relations[0] == "in":
        return None
    left, right, relation = *members, relations[0]
    if relation.startswith(">"):
        left, right, relation = right, left, relation.replace(">", "<")
    if relation == "!=" and _is_name(left) and not letters(right):
        return _Claim(rf"(-\infty,{right})\cup({right},\infty)", left, relation="<")
    if relation != "!=" and _is_name(left) and not letters(right):
        return _Claim(rf"(-\infty,{right}{']' if relation == '<=' else ')'}", left, relation="<")
    if relation != "!=" and _is_name(right) and not letters(left):
        return _Claim(rf"{'[' if relation == '<=' else '('}{left},\infty)", right, relation="<")
    return _Claim(sides=(left, right), relation=relation)


def _same_claims(
    gold: str,
    found: str,
    claims: tuple[_Claim | None, _Claim | None],
    precision: int,
    nested: int,
) -> bool:
    a, b = claims[0] or _Claim(gold), claims[1] or _Claim(found)
    if a.false or b.false:
        return False
    if a.sides and not (b.sides or a.relation != "=" or letters(b.value)) and b.name:
        b = replace(b, value="", sides=(b.name, b.value))
    if a.sides is None and b.sides is None:
        b = _of_the_same_letter(a, b)
        if b.false:
            return False
        return not _other_name(a.name, b.name) and same(a.value, b.value, precision, nested + 1)
    if claims[0] is None and b.sides is not None and b.relation == "=":
        return not is_linear(b.sides[0]) and same(gold, b.sides[1], precision, nested + 1)
    sides = _sides(a), _sides(b)
    if sides[0] is None or sides[1] is None or a.relation != b.relation:
        return False
    sign = proportional(sides[0], sides[1], precision)
    return sign > 0 if a.relation in ("<", "<=") else sign != 0


_FUNCTION = re.compile(r"[a-zA-Z]\s*\(\s*([a-zA-Z])\s*\)")


def _of_the_same_letter(gold: _Claim, found: _Claim) -> _Claim:
    """Call what a function is taken of as the gold answer does: f(n) = n is f(x) = x."""
    a, b = _FUNCTION.fullmatch(gold.name), _FUNCTION.fullmatch(found.name)
    if not a or not b or a.group(1) == b.group(1):
        return found
    if a.group(1) in letters(found.value):
        return _Claim(false=True)
    return replace(found, value=_renamed(found.value, b.group(1), a.group(1)))


def _renamed(text: str, letter: str, to: str) -> str:
    return re.sub(rf"(?<![a-zA-Z\\]){letter}(?![a-zA-Z])", to, text)


def _sides(claim: _Claim) -> tuple[str, str] | None:
    """Both sides of a relation; a name with a constant is a solution and no relation."""
    if claim.sides is None and claim.name and letters(claim.value):
        return claim.name, claim.value
    return claim.sides


def _other_name(a: str, b: str) -> bool:
    plain = r"[a-zA-Z](?:\s*_\s*\{?\w+\}?)?"
    a, b = (re.sub(r"[{}\s]", "", name) for name in (a, b))
    return bool(a != b and re.fullmatch(plain, a) and re.fullmatch(plain, b))


# --- lists, sets, tuples, intervals, matrices ---

_BUILDER = re.compile(r"\\\{\s*[a-zA-Z]\s*(?:\\in\s*\\mathbb\{?R\}?\s*)?(?:\||:|\\mid)(.*)\\\}")


def _items(text: str) -> Listing | None:
    """The items of an answer that has several, with those of a plus-minus spelled out."""
    listing = union(text) or matrix(text) or listed(text) or plus_minus(text) or ratio(text)
    if listing is not None and listing.left == "":
        claims = [_claim(item) for item in listing.items]
        pieces = tuple(claim.value for claim in claims if claim and claim.relation == "<")
        if len(pieces) == len(claims) and all(pieces):
            both = None if re.search(r"\bor\b", text) else _in_both(pieces)
            return listed(both) if both else Listing(pieces, "U", "U")
        names = [claim.name for claim in claims if claim and re.fullmatch("[a-z]", claim.name)]
        if len(set(names)) == len(claims):
            named = sorted(zip(names, listing.items, strict=True))
            listing = Listing(tuple(item for _, item in named))
        elif len(names) == len(claims):
            # Several values of one name are no tuple.
            listing = replace(listing, left="{", right="}")
    if listing is not None and listing.left in ("", "{"):
        spelled = [plus_minus(item) for item in listing.items]
        pairs = zip(listing.items, spelled, strict=True)
        items = [item for one, two in pairs for item in (two.items if two else (one,))]
        return Listing(tuple(items), listing.left, listing.right)
    return listing


_UP = re.compile(r"([\[(])(.*),\\infty\)")
_DOWN = re.compile(r"\(-\\infty,(.*)([\])])")


def _in_both(pieces: Sequence[str]) -> str | None:
    """The interval of the numbers above one bound and below a larger one."""
    for up, down in (pieces, reversed(pieces)) if len(pieces) == 2 else ():
        above, under = _UP.fullmatch(up), _DOWN.fullmatch(down)
        if above and under and below(above.group(2), under.group(1)):
            return f"{above.group(1)}{above.group(2)},{under.group(1)}{under.group(2)}"
    return None


def _same_listings(
    gold: str,
    found: str,
    listings: tuple[Listing | None, Listing | None],
    precision: int,
    nested: int,
) -> bool:
    a, b = (
        listing or Listing((text,)) for listing, text in zip(listings, (gold, found), strict=True)
    )
    if max(len(a.items), len(b.items)) > _MAX_ITEMS:
        return False
    loose = ("", "{")
    if (a.left in loose and b.left in loose) or a.left == b.left == "U":
        return _same_sets(a.items, b.items, precision, nested)
    if (is_vector(a) and is_tuple(b)) or (is_tuple(a) and is_vector(b)):
        b = replace(b, left=a.left, right=a.right)
    brackets = (a.left, a.right), (b.left, b.right)
    if brackets[0] != brackets[1] and ("", "") not in brackets:
        return False
    if len(a.items) != len(b.items) or {"U", "{"} & {a.left, b.left} or len(a.items) == 1:
        return (
            brackets[0] == brackets[1]
            and len(a.items) == len(b.items) == 1
            and same(a.items[0], b.items[0], precision, nested + 1)
        )
    if ("", "") in brackets and {a.right, b.right} - {"", ")"}:
        return False
    pairs = zip(a.items, b.items, strict=True)
    return all(same(x, y, precision, nested + 1) for x, y in pairs)


def _same_sets(gold: Sequence[str], found: Sequence[str], precision: int, nested: int) -> bool:
    def unique(items: Sequence[str]) -> list[str]:
        kept: list[str] = []
        for item in items:
            if not any(same(other, item, precision, nested + 1) for other in kept):
                kept.append(item)
        return kept

    a, b = unique(gold), unique(found)
    for item in a:
        match = next(
            (i for i, other in enumerate(b) if same(item, other, precision, nested + 1)), -1
        )
        if match < 0:
            return False
        del b[match]
    return not b


# --- units and values ---

_COUNTS = frozenset("klmn")


def _of_the_same_count(gold: str, found: str) -> str:
    """Call the whole number of a family of angles as the gold answer does: k in pi/2 + k pi."""
    if r"\pi" not in gold or r"\pi" not in found:
        return found
    a, b = letters(gold), letters(found)
    if len(a) != 1 or len(b) != 1 or not (a | b) <= _COUNTS:
        return found
    return _renamed(found, *b, *a)


def _same_quantity(gold: str, found: str, precision: int) -> bool:
    (a, unit), (b, other) = quantity(gold), quantity(found)
    if unit is None and other is None:
        return same_value(a, _of_the_same_count(a, b), precision)
    if unit is not None and other is not None:
        if unit.dimension == other.dimension:
            return same_value(a, b, precision, other.factor / unit.factor)
        return alike(unit, other) and same_value(a, b, precision)
    only = unit or other
    assert only is not None
    if only == PERCENT:
        factor = 1 / PERCENT.factor if unit else PERCENT.factor
        size = number(a)
        fraction = other is not None and size is not None and abs(size.value) <= 1
        plain = not fraction and same_value(a, b, precision)
        return plain or same_value(a, b, precision, factor)
    if only == DEGREE:
        radians = r"\frac{180}{\pi}" if unit else r"\frac{\pi}{180}"
        if same_value(a, rf"({b})\cdot{radians}", precision):
            return True
    return same_value(a, b, precision)
