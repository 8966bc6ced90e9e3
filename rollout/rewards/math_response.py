"""The answer inside a response.

    response -> answer_text -> rollout.rewards.math_text.clean -> rollout.rewards.math_kinds

Everything here takes time linear in the text, whatever the text is.
"""

import re
from itertools import pairwise

from rollout.rewards.math_text import closing, in_ascii

_SEEN_CHARS = 100_000
_PROSE_CHARS = 4_000


def answer_text(response: str) -> str | None:
    """The answer that a response states, not cleaned; None if it states none.

    Only what follows the last </think> is looked at, if there is one: before it a model tries
    answers out. The last complete box counts, with the boxes that only commas, "and" or "or" part
    from it. A box that never closes was cut off and does not count. Without a box: what follows the
    last ####, the last "answer" (as a key of JSON too), or else the last formula or number.
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
    r"(?:\s|[$,;&]|\\[()\[\]]|\\text\s*\{|\}|\band\b|\bor\b|\\q?quad|[a-z]\s*=|\\)*"
)


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
            if len(between) > 40 or not _BETWEEN_BOXES.fullmatch(between):
                break
        if content not in contents:
            contents.insert(0, content)
    return contents, cut_at


_HASHES = re.compile(r"####[ \t]*([^\n]+)")
_JSON = re.compile(r'"(?:final_?)?answer"\s*:\s*(?:"((?:[^"\\]|\\.)*)"|([^,}\s"]+))', re.IGNORECASE)
_ANSWER = re.compile(
    r"\banswers?\b\*{0,2}(?:\s+(?:is|are)\b|\s*[:=])\s*:?\s*([^\n]+)", re.IGNORECASE
)
_FORMULA = re.compile(
    r"\$\$([^$]+)\$\$|(?<![\\\d$])\$([^$\n]+)(?<!\\)\$(?!\d)|\\\[(.+?)\\\]|\\\((.+?)\\\)", re.DOTALL
)
_NUMBER = re.compile(
    r"(?<![\w.])(?:-\s?)?[$\u20ac\u00a3]?(?:-?\\frac\{[^{}]{1,40}\}\{[^{}]{1,40}\}"
    r"|(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?(?:\s?/\s?\d+)?|\.\d+)"
    r"(?:\s?\\?%| percent\b)?"
)
_LETTER = re.compile(r"\(?([A-J])\)(?=[\s.,:;]|$)|([A-J])(?=[.,:;]|\s+because|\s*$)")
_OPTION = re.compile(r"(?:the\s+)?(?:correct\s+)?(?:option|choice)\s+", re.IGNORECASE)
_ANOTHER_LETTER = re.compile(
    r" ?(?:(?:[,;/&]|and\b|or\b) ?)+"
    r"(?:\([A-J]\)|[A-J] ?(?:[).:,;/&]|and\b|or\b|because\b|$))"
)
_ANOTHER_LABEL = re.compile(
    r"(?:[,;/& ]|\band|\bor)(?:\([A-J]\)|[A-J] ?\))|[,;/&] ?[A-J] ?[.:](?= ?\S)"
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
        if several := _joined(sentence):
            return several
        if last := _last_value(sentence):
            whole = sentence.strip("* ")
            plain = re.match(r"[-+\d($\\.\[\u20ac\u00a3]|[a-z](?:\([a-z]\))?\s*=", whole)
            return whole if plain and "$" not in last[1:] and "$" not in whole[1:] else last
        return sentence if 0 < len(sentence.split()) <= 4 else None
    return _last_value(text)


def _joined(sentence: str) -> str | None:
    """Formulas of a sentence that only "and", "or" or commas part."""
    formulas = list(_FORMULA.finditer(sentence))
    between = [sentence[a.end() : b.start()] for a, b in pairwise(formulas)]
    if not between or not all(re.fullmatch(r"\s*,?\s*(?:and|or)?\s*", part) for part in between):
        return None
    return ", ".join(next(filter(None, formula.groups())) for formula in formulas)


def _last_value(text: str) -> str | None:
    formulas = list(_FORMULA.finditer(text))
    numbers = list(_NUMBER.finditer(text))
    if formulas and (not numbers or numbers[-1].end() <= formulas[-1].end()):
        return next(group for group in formulas[-1].groups() if group)
    return numbers[-1].group() if numbers else None
