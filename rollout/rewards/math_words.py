"""Answers that are words or the letter of a multiple choice."""

import re

from rollout.rewards.math_response import names_another, without_option
from rollout.rewards.math_text import TEXT

_SYNONYMS = {"dne": "does not exist", "y": "yes", "n": "no", "infinite": "infinity"}
_LETTER = re.compile(
    r"\(\s*([A-Ja-j])\s*\)\s*(?![-+*/^=<>\\(])|([A-J])\s*(?:[).:]\s*(?![-+*/^=(])|$)"
)
_FUNCTIONS = frozenset(
    (
        *("sin", "cos", "tan", "cot", "sec", "csc", "log", "ln", "exp"),
        *("max", "min", "gcd", "lcm", "det"),
    )
)


def in_words(text: str) -> tuple[str, ...] | None:
    """The words of an answer that is text, None of one that is mathematics."""
    plain = TEXT.sub(r" \1 ", text)
    spelled = plain != text
    if not re.fullmatch(r"[^\W\d_]['\w\s,.;:!?-]*", plain.strip()) or "\\" in plain:
        return None
    words = tuple(re.findall(r"[^\W_]+", plain.casefold()))
    if not words or any(word in _FUNCTIONS for word in words):
        return None
    longest = max(map(len, words))
    if not (longest >= 4 or (spelled and longest >= 2) or words[0] in ("yes", "no", "odd", "dne")):
        return None
    words = tuple(" ".join(_SYNONYMS.get(word, word) for word in words).split())
    words = tuple(re.sub(r"(?<=\w{3}[^s])s$", "", word) for word in words)
    return words[1:] if len(words) > 1 and words[0] in ("the", "a", "an") else words


def choice(text: str) -> str | None:
    """The letter of a multiple choice, capital, as in "B", "(b)", "B. 12" or "option B".

    None of several, which are a list.
    """
    plain = TEXT.sub(r"\1", text).replace("{", "").replace("}", "").strip()
    plain = without_option(plain)
    found = _LETTER.match(plain)
    if found is None or names_another(plain[found.end() :]):
        return None
    return (found.group(1) or found.group(2)).upper()
