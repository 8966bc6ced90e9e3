"""The answer inside a response.

    response -> answer_text -> rollout.rewards.math_text.clean -> rollout.rewards.math_kinds

Everything here takes time linear in the text, whatever the text is.
"""

import re
from itertools import pairwise

from rollout.rewards.math_text import NAMELY, NEARLY, closing, in_ascii

_SEEN_CHARS = 100_000
_PROSE_CHARS = 4_000


def answer_text(response: str) -> str | None:
    """The answer that a response states, not cleaned; None if it states none.

    Only what follows the last </think> is looked at, if there is one: before it a model tries
    answers out. The last complete box counts, with the boxes that a list or "or" joins to it.
    A box that never closes was cut off and does not count. Without a box: what follows the
    last ####, the last "answer" (as a key of JSON too), or else the last formula, tuple or
    number, with those that it is an alternative to: of "4 or 5" neither is the answer alone.
    """
    response = _said(response)[-_SEEN_CHARS:]
    boxes, cut_at = _boxes(response)
    if boxes:
        return ", ".join(boxes)
    return _stated(in_ascii(response[:cut_at][-_PROSE_CHARS:]))


def boxed(text: str) -> str:
    """What the boxes hold that state a text's answer, as in `answer_text`; "" without one."""
    contents = []
    for content in _boxes(_said(text))[0]:
        content = _BOX_COMMAND.sub("", content).strip()
        while content.startswith("{") and closing(content, 0) == len(content) - 1:
            content = content[1:-1].strip()
        contents.append(content)
    return ", ".join(contents)


def _said(text: str) -> str:
    """What follows a thought, or all of a text without one."""
    return text.rpartition("</think>")[2]


_BOX_COMMAND = re.compile(r"\\(?:boxed|fbox)\s*(?=\{)")
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_BETWEEN_BOXES = re.compile(
    r"(?:\s|[$,;&|/*()-]|\\[()\[\]]|\\text\s*\{|\}|\\q?quad|\\|\d\.|[A-J]\)|[a-z](?:_\d)?\s*="
    r"|\b(?:and|or|else|perhaps|maybe|possibly)\b)*"
)
_OR_ELSE = re.compile(r"[.$\s]*(?:Or|Alternatively)\b|(?:[^.!?]|\.\S)*\bor\b(?:[^.!?]|\.\S)*")


def _boxes(text: str) -> tuple[list[str], int]:
    """Contents of the last outermost boxes that belong together, and where a cut-off box begins."""
    opened: list[tuple[int, int] | None] = []
    found: list[tuple[int, int, str]] = []
    for token in _BOX.finditer(text):
        if token.group() == "}":
            box = opened.pop() if opened else None
            if box is not None:
                while found and found[-1][0] > box[0]:
                    found.pop()
                found.append((box[0], token.end(), text[box[1] : token.start()]))
        elif token.group() == "{":
            opened.append(None)
        elif token.group().endswith("{") and len(token.group()) > 2:
            opened.append((token.start(), token.end()))
    cut_at = min((box[0] for box in opened if box is not None), default=len(text))
    found = [box for box in found if box[2].strip()]
    contents: list[str] = []
    for index in range(len(found) - 1, -1, -1):
        _, end, content = found[index]
        if contents:
            between = text[end : found[index + 1][0]]
            if not _belong_together(between):
                break
        if content not in contents:
            contents.insert(0, content)
    return contents, cut_at


def _belong_together(between: str) -> bool:
    """Whether two boxes with this between them are one answer: a list, or one or the other."""
    if len(between) <= 40 and _BETWEEN_BOXES.fullmatch(between):
        return True
    return (
        len(between) <= 80
        and bool(_OR_ELSE.match(between))
        and (between.lstrip(".$ \n")[:1].isupper() or bool(_OR_ELSE.fullmatch(between)))
    )


_HASHES = re.compile(r"####[ \t]*([^\n]+)")
_JSON = re.compile(r'"(?:final_?)?answer"\s*:\s*(?:"((?:[^"\\]|\\.)*)"|([^,}\s"]+))', re.IGNORECASE)
_ANSWER = re.compile(
    r"\b(?:answers?|correct\s+(?:option|choice))\b\*{0,2}"
    r"(?:\s+(?:is|are)\b|\s*[:=])\s*:?\s*([^\n]+)",
    re.IGNORECASE,
)
_FORMULA = re.compile(
    r"\$\$([^$]+)\$\$|(?<![\\\d$])\$([^$\n]+)(?<!\\)\$(?!\d)|\\\[(.+?)\\\]|\\\((.+?)\\\)", re.DOTALL
)
_NUMBER = re.compile(
    r"(?<![\w.^])(?:-\s?)?[$\u20ac\u00a3]?(?:-?\\frac\{[^{}]{1,40}\}\{[^{}]{1,40}\}"
    r"|(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?(?:\s?/\s?\d+|(?::\d+)+)?|\.\d+)"
    r"(?:\s?\\?%| percent\b)?"
)
_IN_TUPLE = r"(?:[-+\d\s./*^{}]|\\[a-z]+|(?<![a-z])[a-z](?![a-z])){1,60}"
_TUPLE = re.compile(rf"(?<!\w)[(\[]{_IN_TUPLE}(?:,(?!\d{{3}}(?!\d)){_IN_TUPLE}){{1,5}}[)\]]")
_LETTER = re.compile(r"\(?([A-J])\)(?=[\s.,:;]|$)|([A-J])(?=[.,:;]|\s+because|\s*$)")
_OPTION = re.compile(r"(?:the\s+)?(?:correct\s+)?(?:option|choice)\s+", re.IGNORECASE)
_ANOTHER_LETTER = re.compile(
    r" ?(?:(?:[,;/&|]|and\b|or\b) ?)+"
    r"(?:\([A-J]\)|[A-J] ?(?:[).:,;/&|]|and\b|or\b|because\b|$))"
    r"|[ ,;(.]*(?:but|though|or|maybe|perhaps|possibly)\b(?: (?!not )[a-z]+){0,4}"
    r" \(?[A-HJ](?![\w'])"
)
_ANOTHER_LABEL = re.compile(
    r"(?:[,;/&| ]|\band|\bor)(?:\([A-J]\)|[A-J] ?\))|[,;/&|] ?[A-J] ?[.:](?= ?\S)"
)
_ABOUT_OTHERS = re.compile(r"\W*(?:both|either|neither|all|none|only)\b", re.IGNORECASE)


def without_option(text: str) -> str:
    """Take the words "option" and "choice" from before the letter of a multiple choice."""
    return text[found.end() :] if (found := _OPTION.match(text)) else text


def names_another(text: str) -> bool:
    """Whether what follows the letter of a multiple choice names a further one as the answer.

    Examples: ", B or C" and " 12, (B) 13", but neither ") both (A) and (B)" nor ") points A and B".
    """
    text = re.sub(r"\s+", " ", text)
    if _ABOUT_OTHERS.match(text):
        return False
    return bool(_ANOTHER_LETTER.match(text) or _ANOTHER_LABEL.search(text))


def _stated(text: str) -> str | None:
    for pattern in (_HASHES, _JSON):
        if found := pattern.findall(text):
            return next(filter(None, (found[-1],) if isinstance(found[-1], str) else found[-1]), "")
    if found := _ANSWER.findall(text):
        sentence = re.split(r"(?<=[^\d\s])\.\s|(?<=\d)\.\s|\.$", found[-1].strip("* "))[0].strip()
        if letter := _LETTER.match(option := without_option(sentence)):
            if names_another(option[letter.end() :]):
                return option
            return letter.group(1) or letter.group(2)
        if sentence.startswith("not "):
            return sentence
        sentence = _REASON.sub("", sentence)
        if several := _alternatives(sentence) or _joined(sentence):
            return several
        if last := _last_value(sentence):
            whole = sentence.strip("* ")
            plain = re.match(r"[-+\d($\\.\[\u20ac\u00a3]|[a-z](?:\([a-z]\))?\s*=", whole)
            return whole if plain and "$" not in last[1:] and "$" not in whole[1:] else last
        return sentence if 0 < len(sentence.split()) <= 4 else None
    if letter := re.fullmatch(r"[\s*]*\(?([A-J])\)?[.:]?[\s*]*", text):
        return letter.group(1)
    return _alternatives(text) or _last_value(text)


_REASON = re.compile(
    r"(?<=\S)(?:(?:\s*[,(]\s*|\s+)(?:since|because)\b(?!.*\bor\b).*"
    rf"|,?\s*\(?(?:{NEARLY})\)?\W*$)",
    re.IGNORECASE,
)
"""Why an answer is right, or that it is rounded, behind it."""
_UNIT = r"(?:\s*[a-z]+\b(?<!\bor)(?<!\band)(?<!\bnot))?"
_UNIT_AFTER = re.compile(_UNIT)
_IS_NEARLY = re.compile(rf"[\s,($]*(?:{NAMELY}\s*)?(?:{NEARLY})[\s$]*", re.IGNORECASE)
_IS_NOT = re.compile(rf"{_UNIT}[\s,(]*(?:and )?(?:not|rather than|instead of)[\s$]*", re.IGNORECASE)
_OR = re.compile(
    rf"{_UNIT}[\s,(/]*\b(?:or|maybe|perhaps|possibly)\b[\s,]*(?:[a-z]+\s){{0,2}}"
    r"(?:[a-z](?:_\d)?\s*[=<>]\s*)?[\s$]*",
    re.IGNORECASE,
)


def _alternatives(text: str) -> str | None:
    """The last values of a text where something is said of them but which one is the answer.

    Of "4 or 5", "between 4 and 5" and "(1, 2) and (3, 4)" both, of "4, not 5" the first,
    "4, about 5" as one chain.
    """
    values = _values(text)
    if len(values) < 2:
        return None
    between = [text[a.end() : b.start()] for a, b in pairwise(values)]
    contents = [_content(value) for value in values]
    if _IS_NEARLY.fullmatch(between[-1]):
        return rf"{contents[-2]} \approx {contents[-1]}"
    if _IS_NOT.fullmatch(between[-1]):
        return contents[-2]
    first = len(values) - 1
    while first and (_OR.fullmatch(between[first - 1]) or between[first - 1].strip() == ","):
        first -= 1
    before = text[: values[-2].start()][-20:]
    tuples = all(content[0] in "([" for content in contents[-2:])
    if between[-1].strip(" ,") == "and" and (tuples or re.search(r"\bbetween\s+$", before)):
        return f"{contents[-2]}, {contents[-1]}"
    if not any(map(_OR.fullmatch, between[first:])):
        return None
    rests = [*between[first:], text[values[-1].end() :]]
    units = [found.group() if (found := _UNIT_AFTER.match(rest)) else "" for rest in rests]
    return ", ".join(content + unit for content, unit in zip(contents[first:], units, strict=True))


def _values(text: str) -> list[re.Match[str]]:
    """The formulas of a text, the tuples outside of them and the other numbers, in turn."""
    values: list[re.Match[str]] = []
    inside = [False] * len(text)
    for pattern in (_FORMULA, _TUPLE, _NUMBER):
        for found in pattern.finditer(text):
            if not (inside[found.start()] or inside[found.end() - 1]):
                values.append(found)
                inside[found.start() : found.end()] = [True] * len(found.group())
    return sorted(values, key=lambda found: found.start())


def _content(value: re.Match[str]) -> str:
    return next(filter(None, value.groups()), value.group())


def _joined(sentence: str) -> str | None:
    """Formulas of a sentence that only "and", "or" or commas part."""
    formulas = list(_FORMULA.finditer(sentence))
    between = [sentence[a.end() : b.start()] for a, b in pairwise(formulas)]
    if not between or not all(re.fullmatch(r"\s*,?\s*(?:and|or)?\s*", part) for part in between):
        return None
    return ", ".join(next(filter(None, formula.groups())) for formula in formulas)


def _last_value(text: str) -> str | None:
    values = _values(text)
    return _content(values[-1]) if values else None
