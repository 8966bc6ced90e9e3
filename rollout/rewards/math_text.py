"""Answers of a task and answers inside responses, as plain LaTeX of bounded size.

    response -> answer_text -> clean -> rollout.rewards.math_kinds

Everything here takes time linear in the text, whatever the text is.
"""

import re
import unicodedata
from itertools import pairwise

MAX_CHARS = 500
"""Characters of the longest answer that is compared."""
MAX_DEPTH = 8
"""Brackets inside each other in an answer that is compared."""
_BOUNDS = (
    # The time in which math-verify reads these multiplies with each one more.
    (re.compile(r"\^"), 24, "has more than 24 powers"),
    (re.compile(r"(?:\^[\s{(]*-?\\?\w+\s*){5}"), 0, "towers powers"),
    (re.compile(r"_"), 24, "has more than 24 subscripts"),
    (re.compile(r"(?:_[\s{]*\\?\w\s*){4}"), 0, "towers subscripts"),
    (re.compile(r"\\(?:int|lim|sum|prod|frac\s*\{\s*d)(?![a-zA-Z])"), 3, "has more than 3 limits"),
    (re.compile(r"\\[a-zA-Z]"), 100, "has more than 100 commands"),
    (re.compile(r"(?:\\[a-zA-Z]+\s*){10}"), 0, "repeats commands"),
    (re.compile(r"(?:[-+!]\s*){12}"), 0, "repeats operators"),
)
"""Patterns, how often an answer may have them, and what one that has more is said to do."""
_SEEN_CHARS = 100_000
_PROSE_CHARS = 4_000

_SIGNS = {
    **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212\ufe63\uff0d", "-"),
    **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\u202f", ""),
    **dict.fromkeys("\u22c5\u00b7\u2219", r"\cdot "),
    **{"\u00d7": r"\times ", "\u00f7": "/", "\u2215": "/", "\u2044": "/", "\u03c0": r"\pi "},
    **{"\u221e": r"\infty ", "\u2264": r"\le ", "\u2265": r"\ge ", "\u2260": r"\ne "},
    **{"\u2248": r"\approx ", "\u00b1": r"\pm ", "\u222a": r"\cup ", "\u2229": r"\cap "},
    **{"\u2208": r"\in ", "\u2205": r"\emptyset ", "\u211d": r"\mathbb{R}"},
    **{"\u00b0": r"^\circ ", "\u03b8": r"\theta ", "\uff0c": ",", "\u3002": "."},
}
_SIGNS["\u202f"] = " "

_SPACES = re.compile(r"(?<!\\)\\(?:[,;: ]|q?quad(?![a-zA-Z])|thinspace)|~")
_NOTHING = re.compile(
    r"\\!|\\(?:displaystyle|textstyle|limits|left|right|[bB]igg?[lrm]?|bf|rm|it|centering)"
    r"(?![a-zA-Z])\.?"
)
_GROUPED = re.compile(r"(?<=\d)(?:\{,\}|,\\!|\\,|\\ |\\;|')(?=\d{3}(?!\d))")
_RENAMED = tuple(
    (re.compile(rf"\\(?:{names})(?![a-zA-Z])"), to)
    for names, to in (
        ("[dtc]frac", r"\\frac"),
        ("leqslant|leq", r"\\le"),
        ("geqslant|geq", r"\\ge"),
        ("neq", r"\\ne"),
        ("lt", "<"),
        ("gt", ">"),
        ("lbrace", r"\\{"),
        ("rbrace", r"\\}"),
        ("[lr]?vert", "|"),
        ("varnothing", r"\\emptyset"),
        ("infin", r"\\infty"),
        ("langle", "("),
        ("rangle", ")"),
        ("degree|textdegree", r"^\\circ "),
        ("land|wedge", ","),
        ("lor|vee", ","),
        ("simeq|thickapprox|doteq", r"\\approx"),
        ("pounds", "\u00a3"),
        ("euro", "\u20ac"),
        ("ldots|cdots|dots", "..."),
        ("boxed|fbox", ""),
        ("mathbf|boldsymbol|bm|mathit", ""),
        ("textbf|textit|textrm|mathrm|mbox|hbox|textsf|emph|underline", r"\\text"),
    )
)
_PLAIN = (
    (re.compile(r"\*\*(?=\s*[\d({\\a-z-])(?<=[\d)}a-z]\*\*)"), "^"),
    (re.compile(r"\*\*|`"), ""),
    (re.compile(r"<="), r"\\le "),
    (re.compile(r">="), r"\\ge "),
    (re.compile(r"(?<![\d)])!="), r"\\ne "),
    (re.compile(r"\^\{\s*\\circ\s*\}"), r"^\\circ "),
    (re.compile(r"\\text\s*\{\s*([eid])\s*\}"), r"\1"),
    (re.compile(r"\\\{\s*\\\}"), r"\\emptyset "),
    (re.compile(r"\\frac\s*(\d)\s*(\d)"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\frac\s*(\d)\s*\{"), r"\\frac{\1}{"),
    (re.compile(r"(\\frac\{[^{}]{0,40}\})\s*(\d)"), r"\1{\2}"),
    (re.compile(r"(?<![\\a-zA-Z])sqrt\s*\(([^()]{0,80})\)"), r"\\sqrt{\1}"),
    (re.compile(r"\u221a\s*\(([^()]{0,80})\)"), r"\\sqrt{\1}"),
    (re.compile(r"\u221a\s*([0-9.]+|[a-z])"), r"\\sqrt{\1}"),
    (re.compile(r"\^\s*\(([^()]{0,80})\)"), r"^{\1}"),
    (re.compile(r"(?<![\\a-zA-Z])pi(?![a-zA-Z])"), r"\\pi "),
    (re.compile(r"(?<![\\a-zA-Z])(?:infinity|inf|oo)(?![a-zA-Z])", re.IGNORECASE), r"\\infty "),
    (re.compile(r"(?<=[\d)a-z])\s*\*\s*(?=[\d(\\a-z])"), r"\\cdot "),
    (re.compile(r"\\text\s*\{\s*(\\\$|\\infty)\s*\}"), r"\1 "),
    (re.compile(r"^(?:\\text\s*\{)?\s*all real(?: number)?s\s*\}?$"), r"\\mathbb{R}"),
    (re.compile(r"^\s*\\text\s*\{[^{}]{1,40}(?:\bis|:)\s*\}|^\s*\\(?:approx|sim)(?![a-z])"), ""),
    *(
        (re.compile(rf"(?<=\d)\s*(?:{word}\b|\\text\s*\{{\s*{word}\s*\}})"), power)
        for word, power in (
            ("thousand", r"\\times 10^{3}"),
            ("million", r"\\times 10^{6}"),
            ("billion", r"\\times 10^{9}"),
        )
    ),
    *(
        (re.compile(rf"^(?:\\text\s*\{{)?\s*{word}\s*\}}?$", re.IGNORECASE), str(digit))
        for digit, word in enumerate(
            ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
        )
    ),
    (re.compile(r"\s+"), " "),
)


def clean(text: str) -> str:
    r"""Write an answer in one way: ASCII and LaTeX, without delimiters, layout and last full stop.

    A dollar sign that is money stays, as `\$`.
    """
    text = _GROUPED.sub("", _ascii(text))
    text = _SPACES.sub(" ", text)
    text = _NOTHING.sub("", text)
    for pattern, to in (*_RENAMED, *_PLAIN):
        text = pattern.sub(to, text)
    text = _without_delimiters(text.strip())
    before = None
    while before != text:
        before = text
        text = text.strip()
        if text.endswith((".", ",", ";", ":")) and not text.endswith("..."):
            text = text[:-1]
        if text.startswith("{") and closing(text, 0) == len(text) - 1:
            text = text[1:-1]
    return text


def closing(text: str, start: int) -> int:
    """Index of the last character of the bracket that closes the one at `start`, or -1.

    `text[start]` opens; square and round brackets may close each other, as in intervals.
    """
    depth = 0
    index = start
    while index < len(text):
        if text[index] == "\\":
            index += 1
            if text[index : index + 1] not in ("{", "}"):
                continue
        if text[index] in "([{":
            depth += 1
        elif text[index] in ")]}":
            depth -= 1
            if depth == 0:
                return index
        index += 1
    return -1


def too_large(text: str) -> str:
    """Why a cleaned answer is too large to be compared, "" if it is not."""
    if len(text) > MAX_CHARS:
        return f"has more than {MAX_CHARS} characters"
    depth = deepest = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    if deepest > MAX_DEPTH or text.count("|") > 2 * MAX_DEPTH:
        return f"nests more than {MAX_DEPTH} brackets"
    for pattern, most, reason in _BOUNDS:
        if sum(1 for _ in pattern.finditer(text)) > most:
            return reason
    return ""


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
    return _stated(_ascii(response[:cut_at][-_PROSE_CHARS:]))


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


def _ascii(text: str) -> str:
    out: list[str] = []
    script = ""
    for character in text:
        shape = unicodedata.decomposition(character) if character > "\x7f" else ""
        kind = {"<super>": "^", "<sub>": "_"}.get(shape.split(" ")[0], "")
        if script and script != kind:
            out.append("}")
        if kind and script != kind:
            out.append(kind + "{")
        script = kind
        out.append(_one_ascii(character, shape))
    return "".join(out) + ("}" if script else "")


def _one_ascii(character: str, shape: str) -> str:
    if character <= "\x7f":
        return character
    if character in _SIGNS:
        return _SIGNS[character]
    if shape.startswith("<fraction>"):
        above, _, below = unicodedata.normalize("NFKC", character).partition("\u2044")
        return rf"\frac{{{above}}}{{{below}}}"
    if unicodedata.decimal(character, None) is not None:
        return str(unicodedata.decimal(character))
    plain = unicodedata.normalize("NFKC", character)
    return _SIGNS.get(plain, plain)


def _without_delimiters(text: str) -> str:
    text = re.sub(r"(?<!\\)\\[()\[\]]", "", text) if not text.startswith(r"\\") else text
    bare = len(re.findall(r"(?<!\\)\$", text))
    if bare % 2:
        return re.sub(r"(?<!\\)\$(?=\s*-?[\d.])|(?<=\d)(?<!\\)\$", r"\\$", text, count=1)
    return re.sub(r"(?<!\\)\$", "", text)
