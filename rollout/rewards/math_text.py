"""Answers in one way of writing: plain LaTeX of bounded size.

Everything here takes time linear in the text, whatever the text is.
"""

import re
import unicodedata

MAX_CHARS = 500
"""Characters of the longest answer that is compared."""
MAX_DEPTH = 8
"""Brackets inside each other in an answer that is compared."""
TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
"""Words between formulas."""
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

_SIGNS = {
    **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212\ufe63\uff0d", "-"),
    **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\u202f", ""),
    **dict.fromkeys("\u22c5\u00b7\u2219", r"\cdot "),
    **{"\u00d7": r"\times ", "\u00f7": "/", "\u2215": "/", "\u2044": "/", "\u03c0": r"\pi "},
    **{"\u221e": r"\infty ", "\u2264": r"\le ", "\u2265": r"\ge ", "\u2260": r"\ne "},
    **{"\u2248": r"\approx ", "\u00b1": r"\pm ", "\u222a": r"\cup ", "\u2229": r"\cap "},
    **{"\u2208": r"\in ", "\u2205": r"\emptyset ", "\u211d": r"\mathbb{R}"},
    **{
        "\u00a2": r"\text{ cents}",
        "\u00b0": r"^\circ ",
        "\u03b8": r"\theta ",
        "\uff0c": ",",
        "\u3002": ".",
    },
}
_SIGNS["\u202f"] = " "

_SPACES = re.compile(r"(?<!\\)\\(?:[,;: ]|q?quad(?![a-zA-Z])|thinspace)|~")
_NOTHING = re.compile(
    r"\\!|\\[hv]?(?:phantom|space)\*?\s*\{[^{}]*\}"
    r"|\\(?:displaystyle|textstyle|limits|left|right|[bB]igg?[lrm]?|bf|rm|it|centering"
    r"|(?:normal|small|[lL]arge|LARGE|[hH]uge)(?:size)?)(?![a-zA-Z])\.?"
)
_GROUPED = re.compile(r"(?<=\d)(?:\{,\}|,\\! ?|\\,|\\ |\\;|')(?=\d{3}(?!\d))")
_RENAMED = tuple(
    (re.compile(rf"\\(?:{names})(?![a-zA-Z])"), to)
    for names, to in (
        ("[dtc]frac|nicefrac|sfrac", r"\\frac"),
        ("textminus|minus", "-"),
        ("lg", r"\\log"),
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
        ("boxed|fbox|therefore", ""),
        ("[lr]Vert", r"\\|"),
        ("Longrightarrow|Rightarrow", r"\\implies"),
        ("mathbf|boldsymbol|bm|mathit|mathsf", ""),
        ("text(?:bf|it|rm|sf|tt|up|sl|sc|normal|md)|mathrm|mbox|hbox|emph|underline", r"\\text"),
    )
)
NAMELY = r"(?:or|which is|that is|i\.e\.),?"
NEARLY = r"approximately|approx\.?|about|roughly|around"
_PLAIN = (
    (re.compile(r"\*\*(?=\s*[\d({\\a-z-])(?<=[\d)}a-z]\*\*)"), "^"),
    (re.compile(r"\*\*|`"), ""),
    (re.compile(r"\\(?:text)?color\s*\{[^{}]*\}"), ""),
    (re.compile(r"\{([^{}]{1,40})\\choose([^{}]{1,40})\}"), r"\\binom{\1}{\2}"),
    (
        re.compile(
            r"(?<=\d)\s*(?:\^\s*\{\s*\\text\s*\{\s*(?:st|nd|rd|th)\s*\}\s*\}"
            r"|\^?\s*\\text\s*\{\s*(?:st|nd|rd|th)\s*\}|\^\s*\{\s*(?:st|nd|rd|th)\s*\}"
            r"|(?:st|nd|rd|th)(?![a-zA-Z]))"
        ),
        "",
    ),
    (re.compile(r"(?<=\d)\s+x\s+(?=\d)"), r"\\times "),
    (re.compile(r"(?<=\d)\{:\}(?=\d)"), ":"),
    (re.compile(r"<="), r"\\le "),
    (re.compile(r">="), r"\\ge "),
    (re.compile(r"(?<![\d)])!="), r"\\ne "),
    (re.compile(r"\^\{\s*\\circ\s*\}"), r"^\\circ "),
    (re.compile(r"\\text\s*\{\s*(\\text\s*\{[^{}]*\})\s*\}"), r"\1"),
    (re.compile(r"\\text\s*\{\s*([eid-])\s*\}"), r"\1"),
    (re.compile(r"\\text\s*\{\s*((?:[A-Z]\s*(?:,|and|or)\s*)+[A-Z])\s*\}"), r"\1"),
    (re.compile(r"(?<=\d)\s*\\text\s*\{\s*to\s*\}\s*(?=\d)"), ":"),
    (
        re.compile(rf"\\text\s*\{{\s*\(?(?:{NEARLY})\s*(-?[\d.,]+)\s*\)?\s*\}}"),
        r"\\approx \1",
    ),
    (re.compile(rf"\\text\s*\{{\s*,?\s*(?:{NAMELY}\s*)?(?:{NEARLY})\s*\}}"), r"\\approx "),
    (re.compile(r"\\hat\s*\{\s*\\?([ijk])(?:math)?\s*\}"), r"\1"),
    (re.compile(r"\\(max|min)\s*\\\{([^{}]{0,80})\\\}"), r"\\\1(\2)"),
    (re.compile(r"\\dot\s*\{?(\d)\}?(\d{0,9})\\dot\s*\{?(\d)\}?"), r"\\overline{\1\2\3}"),
    (
        re.compile(
            r"[\[(]\s*\\begin\s*\{array\}(?:\s*\{[lcr| ]*\})?"
            r"((?:[^\\]|\\(?!begin|end))*)\\end\s*\{array\}\s*[\])]"
        ),
        r"\\begin{pmatrix}\1\\end{pmatrix}",
    ),
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
    (
        re.compile(
            r"^\\text\s*\{\s*all real(?: number)?s(?: [a-z])? except(?: for)?\s*\}\s*"
            r"(?:[a-z]\s*=)?([^=]+)$"
        ),
        r"\\mathbb{R}\\setminus\\{\1\\}",
    ),
    (
        re.compile(
            r"^\s*\\text\s*\{[^{}]{1,40}(?:\bis|\bare|\bof|:)\s*\}|^\s*\\(?:approx|sim)(?![a-z])"
        ),
        "",
    ),
    *(
        (re.compile(rf"(?<=\d)\s*(?:{word}\b|\\text\s*\{{\s*{word}\s*\}})"), power)
        for word, power in (
            ("hundred", r"\\times 10^{2}"),
            ("thousand", r"\\times 10^{3}"),
            ("million", r"\\times 10^{6}"),
            ("billion", r"\\times 10^{9}"),
            ("trillion", r"\\times 10^{12}"),
        )
    ),
    (re.compile(r"\s+"), " "),
)


def clean(text: str) -> str:
    r"""Write an answer in one way: ASCII and LaTeX, without delimiters, layout and last full stop.

    A dollar sign that is money stays, as `\$`.
    """
    text = _GROUPED.sub("", in_ascii(text))
    text = _SPACES.sub(" ", text)
    text = _NOTHING.sub("", text)
    for pattern, to in (*_RENAMED, *_PLAIN):
        text = pattern.sub(to, text)
    text = _REVERSED.sub(_turned, _in_digits(text))
    text = _without_delimiters(_of_no_domain(_concluded(_in_a_row(text))).strip())
    before = None
    while before != text:
        before = text
        text = text.strip()
        if text.endswith((".", ",", ";", ":")) and not text.endswith("..."):
            text = text[:-1]
        if text.startswith("{") and closing(text, 0) == len(text) - 1:
            text = text[1:-1]
    return text


_ONES = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen"),
    "nineteen",
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SPELLED = {
    **{name: str(value) for value, name in enumerate(_ONES)},
    **{name: str(20 + 10 * place) for place, name in enumerate(_TENS)},
    **{
        f"{ten} {one}": str(20 + 10 * place + digit + 1)
        for place, ten in enumerate(_TENS)
        for digit, one in enumerate(_ONES[1:10])
    },
    **{"one hundred": "100", "one half": "1/2", "half": "1/2", "one third": "1/3"},
    **{"one quarter": "1/4", "one fourth": "1/4", "two thirds": "2/3", "three quarters": "3/4"},
    "three fourths": "3/4",
}
_WORDS = re.compile(
    r"^\s*(?:\\text\s*\{)?\s*((?:minus|negative)\s)?\s*([a-z -]{3,20}?)\s*\}?$", re.I
)


def _in_digits(text: str) -> str:
    """Write a number that is spelled out in digits."""
    found = _WORDS.match(text)
    value = _SPELLED.get(" ".join(re.split(r"[ -]+", found.group(2).lower()))) if found else None
    return text if found is None or value is None else f"{'-' if found.group(1) else ''}{value}"


_REVERSED = re.compile(
    r"(^|\\cup|\\in|=)\s*([\[\](])([^\[\]()]{1,80}[,;][^\[\]()]{1,80})([\[\])])(?=\s*(?:$|\\cup))"
)


def _turned(found: re.Match[str]) -> str:
    """Write an interval whose open end is a bracket turned away, as in ]0, 1], with round ones."""
    start, left, ends, right = found.groups()
    return f"{start} {left.replace(']', '(')}{ends}{right.replace('[', ')')}"


_SYSTEM = re.compile(
    r"(?:\\\{\s*)?\\(?:begin|end)\s*\{(?:cases|array|(?:align|gather)(?:ed)?\*?)\}(?:\{[lcr| ]*\})?"
)
_DOMAIN = (
    r"[a-zA-Z]\s*\\in\s*(?:\\mathbb\s*\{?[CNQRZ]\}?|[NRZ](?![a-zA-Z]))"
    r"(?:\s*[\^_]\s*\{?\s*[+*0]\s*\}?)?"
)
_PART = r"(?:,|\\text\s*\{[^{}]{0,40}\})"
_ANY = (
    r"(?:,\s*)?\\text\s*\{\s*,?\s*(?:for|where)\s+(?:(?:all|any|every|each|some|an|reals?|integers?"
    r"|numbers?|values? of)\s+)*(?:[a-zA-Z]\s*\}|\}\s*[a-zA-Z])"
    r"(?:\s*\\text\s*\{\s*(?:is |are |any |an |integers? ?)+\})?"
)
_OF_A_DOMAIN = re.compile(
    rf"{_PART}\s*{_DOMAIN}\s*$|(?:{_PART}\s*)?\(\s*{_DOMAIN}\s*\)\s*$|^\s*{_DOMAIN}\s*{_PART}"
    rf"|{_ANY}\s*$"
)
_ALIGNED = re.compile(r"&\s*(?=[=<>]|\\(?:le|ge|ne)(?![a-zA-Z]))|(?<=[=<>])\s*&")


def _in_a_row(text: str) -> str:
    """Write equations below each other, as in a system of them, as a list."""
    if "matrix" in text or r"\\" not in text:
        return text
    rows = _ALIGNED.sub("", _SYSTEM.sub("", text)).strip().removesuffix(r"\\").split(r"\\")
    if not all(_RELATES.search(row) and "&" not in row for row in rows):
        return text
    return ", ".join(row.strip(" ,;") for row in rows)


def _of_no_domain(text: str) -> str:
    """Leave out of which numbers a letter is one, where anything else is said."""
    rest = _OF_A_DOMAIN.sub("", text)
    return rest if rest.strip() else text


_RELATES = re.compile(r"[=<>]|\\(?:le|ge|ne)(?![a-zA-Z])")


def _concluded(text: str) -> str:
    """Leave out the equations from which the last one is said to follow."""
    given, implies, conclusion = text.rpartition(r"\implies")
    follows = implies and _RELATES.search(given) and _RELATES.search(conclusion)
    return conclusion if follows else text


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


def in_ascii(text: str) -> str:
    """Write signs of Unicode as LaTeX does, and digits of all scripts as Latin ones."""
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
