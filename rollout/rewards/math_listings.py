"""Answers of several items: bare lists, sets, tuples, intervals, unions, matrices."""

import re
from dataclasses import dataclass

from rollout.rewards.math_numbers import number
from rollout.rewards.math_text import closing

_COMMA = re.compile(r"([,;])")
_JOINED = r"\\text\s*\{\s*,?\s*(?:and|or)\s*\}|(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z])"
_SEPARATOR = re.compile(rf"(;|(?<!\d),|(?<=\d{{4}}),|,(?!\d{{3}}(?!\d))|{_JOINED})")
_CUP = re.compile(r"(\\cup(?![a-zA-Z]))")
_MATRIX = re.compile(
    r"([^=&<>]{0,40}?)\s*\\begin\{(?:[pbB]|small)?matrix\}(.*)\\end\{(?:[pbB]|small)?matrix\}"
)


@dataclass(frozen=True, slots=True)
class Listing:
    """Items between brackets; `left` and `right` are "" for a bare list, "{" and "}" for a set."""

    items: tuple[str, ...]
    left: str = ""
    right: str = ""


def split(text: str, separator: re.Pattern[str]) -> list[str]:
    """Parts outside of brackets and the separators between them, in turn."""
    parts, start, depth, index = [], 0, 0, 0
    while index < len(text):
        found = separator.match(text, index) if depth == 0 else None
        if found is not None:
            parts += [text[start:index], found.group(1)]
            start = index = found.end()
            continue
        if text[index] == "\\":
            index += 1
        if index < len(text) and not text[index - 1 : index + 1].startswith(("\\(", "\\[")):
            depth += (text[index] in "([{") - (text[index] in ")]}")
        index += 1
    return [*parts, text[start:]]


def listed(text: str) -> Listing | None:
    """The items of a bare list, a set, a tuple or an interval."""
    text = text.strip()
    start = 1 if text.startswith("\\{") else 0
    if text[start : start + 1] in ("(", "[", "{") and closing(text, 0) == len(text) - 1:
        inner = text[2:-2] if start else text[1:-1]
        items = tuple(item.strip() for item in split(inner, _COMMA)[::2])
        left, right = text[start], text[-1]
        if (len(items) == 1 and left != "{") or not all(items):
            return None
        if len(items) != 2 and left != "{":
            left, right = "(", ")"
        return Listing(items, left, right)
    if number(text) is not None:
        return None
    items = tuple(item.strip() for item in split(text, _SEPARATOR)[::2] if item.strip())
    return Listing(items) if len(items) > 1 else None


def union(text: str) -> Listing | None:
    """The sets of a union."""
    parts = tuple(part.strip() for part in split(text, _CUP)[::2])
    return Listing(parts, "U", "U") if len(parts) > 1 and all(parts) else None


def plus_minus(text: str) -> Listing | None:
    """Both values of a formula with one plus-minus."""
    if len(re.findall(r"\\(?:pm|mp)(?![a-zA-Z])", text)) != 1:
        return None
    plus = re.sub(r"^\s*\\(?:pm|mp)(?![a-zA-Z])", "", text)
    plus = re.sub(r"\\(?:pm|mp)(?![a-zA-Z])", "+", plus)
    return Listing((plus.strip(), re.sub(r"\\(?:pm|mp)(?![a-zA-Z])", "-", text).strip()))


def matrix(text: str) -> Listing | None:
    """The cells of a matrix, times what stands before it, its shape as its brackets."""
    found = _MATRIX.fullmatch(text.strip())
    if found is None or "\\begin" in found.group(2):
        return None
    factor = found.group(1).removesuffix(r"\cdot").strip()
    rows = [row for row in re.split(r"\\\\", found.group(2)) if row.strip()]
    cells = [[cell.strip() for cell in row.split("&")] for row in rows]
    if factor:
        factor += "" if factor.endswith(("-", "+")) else r"\cdot"
        cells = [[f"{factor}({cell})" for cell in row] for row in cells]
    shape = f"matrix {[len(row) for row in cells]}"
    return Listing(tuple(cell for row in cells for cell in row), shape, shape)


_RATIO = re.compile(r"(:)")


def ratio(text: str) -> Listing | None:
    """The terms of a ratio of three or more, each divided by the first."""
    terms = [term.strip() for term in split(text, _RATIO)[::2]]
    if len(terms) < 3 or not all(terms) or re.search(r"[=<>]", text):
        return None
    return Listing(tuple(rf"\frac{{{term}}}{{{terms[0]}}}" for term in terms[1:]), ":", ":")


def is_tuple(listing: Listing) -> bool:
    """Whether it stands between round brackets."""
    return (listing.left, listing.right) == ("(", ")")


def is_vector(listing: Listing) -> bool:
    """Whether it is a matrix of one column or one row."""
    return bool(re.fullmatch(r"matrix \[(?:\d+|1(?:, 1)*)\]", listing.left))
