r"""From a row to a question: which column is what, and the answer inside a longer text.

    row -> Columns.item -> Item

A name may lead into objects, `reward_model.ground_truth`, and into a text that is JSON.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rollout.rewards.accepted import joined
from rollout.rewards.math_response import boxed
from rollout.tasks.filters import meets, require_where
from rollout.tasks.prompts import Item

PROMPTS = ("prompt", "messages", "problem", "question")
"""Where a question is looked for, when no column is named; a row may have one of them."""
ANSWERS = ("answer", "ground_truth", "solution", "target", "reward_model.ground_truth")
"""Where an answer is looked for, when no column is named; the first that a row has counts."""
_PLACEHOLDER = re.compile(r"\{\{\s*([\w.-]+(?: +[\w.-]+)*)\s*\}\}")
_ABSENT = object()

Message = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    r"""Which column of a row is what.

    Example: Columns(prompt="question", extract="after:####") reads a row of GSM8K.
    """

    prompt: str | None = None
    """Of the user's message, or of a conversation; None takes the one of `PROMPTS` there is."""
    answer: str | None = None
    """Of the answer; None takes the first of `ANSWERS`. Several names with commas between them make
    a JSON object of their values."""
    source: str | None = None
    """Of the name of the row's source; None takes "source" where there is one."""
    keep: tuple[str, ...] | None = None
    """Of further columns that rewards may ask for; None keeps all."""
    extract: str = "plain"
    r"""How the answer is found in its column: "plain" takes all of it, "boxed" what the last \boxed
    holds and those that only commas, "and" or "or" part from it, "json" the value that the text is
    as JSON, "after:TEXT" what follows the last TEXT."""
    system: str = ""
    """System message for conversations without one of their own; "" for none."""
    template: str = ""
    """Text of the user's message, with {{prompt}} and {{COLUMN}} in the place of values; "" for the
    prompt's column as it is."""
    where: Mapping[str, Any] = field(default_factory=dict)
    """Rows to keep, by column: a value, a list of values, or {min: A, max: B}."""

    def __post_init__(self) -> None:
        """Refuse a way to extract that there is not, and what no template or filter can be."""
        known = self.extract in ("plain", "boxed", "json") or (
            self.extract.startswith("after:") and self.extract.removeprefix("after:").strip()
        )
        if not known:
            raise ValueError(
                "task.extract must be plain, boxed, json, or after: and a text, such as 'after:"
                f"####', got {self.extract!r}"
            )
        if self.template and not _PLACEHOLDER.search(self.template):
            raise ValueError(
                "task.template must say where the prompt goes with {{prompt}} or a column's name "
                f"in double braces, got {self.template!r:.80}"
            )
        require_where(self.where)

    def item(self, row: Mapping[str, Any], place: str, source: str) -> Item:
        """Turn a row into a question.

        Args:
            row: Plain values by column.
            place: Where it is, for complaints.
            source: The row's source if no column names one.

        Raises:
            ValueError: If a column is missing, or holds what it may not.
        """
        prompt = self._prompt_column(row, place)
        named = self.source or ("source" if isinstance(row.get("source"), str) else None)
        if named is not None:
            source = _plain(value_at(row, named, place, "source"), named, place)
        messages = self._messages(row, prompt, place)
        answer = self._answer(row, place)
        for text in (*(message["content"] for message in messages), answer, source):
            _require_characters(text, place)
        kept = row if self.keep is None else {name: row[name] for name in self.keep if name in row}
        columns = {
            name: value
            for name, value in kept.items()
            if name not in (prompt, named) and _json(value)
        }
        text = messages[-1]["content"]
        alone = len(messages) == 1 and messages[0]["role"] == "user"
        return Item(text, answer, source, place, None if alone else messages, columns)

    def wants(self, row: Mapping[str, Any], place: str) -> bool:
        """Whether a row is one of those that `where` keeps."""
        return all(
            meets(value_at(row, name, place, "where"), wish) for name, wish in self.where.items()
        )

    def _prompt_column(self, row: Mapping[str, Any], place: str) -> str:
        if self.prompt is not None:
            return self.prompt
        found = [name for name in PROMPTS if row.get(name) is not None]
        if len(found) == 1:
            return found[0]
        if not found and self.template:
            return ""
        raise ValueError(
            f"{place} must have one of the columns {', '.join(PROMPTS)}, or task.prompt must name "
            f"another, got {sorted(map(str, row))!r}"
        )

    def _messages(self, row: Mapping[str, Any], column: str, place: str) -> tuple[Message, ...]:
        value: Any = value_at(row, column, place, "prompt") if column else ""
        if column == "messages" and isinstance(value, str):
            # CSV has nothing but texts.
            found = _read_json(value)
            value = found if isinstance(found, list) else value
        if isinstance(value, str):
            if column and not value.strip():
                raise ValueError(
                    f"{place} needs a text that is not blank in {column}, got {value!r}"
                )
            messages = [{"role": "user", "content": value}]
        else:
            messages = _conversation(value, column, place)
        if self.template:
            last = messages[-1]["content"]
            messages[-1] = {"role": "user", "content": self._filled(row, last, place)}
        if self.system and messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": self.system})
        return tuple(messages)

    def _filled(self, row: Mapping[str, Any], prompt: str, place: str) -> str:
        def value(found: re.Match[str]) -> str:
            name = found.group(1)
            if name == "prompt":
                return prompt
            given = value_at(row, name, place, "template")
            return given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)

        return _PLACEHOLDER.sub(value, self.template)

    def _answer(self, row: Mapping[str, Any], place: str) -> str:
        if self.answer is not None and "," in self.answer:
            names = [name.strip() for name in self.answer.split(",")]
            values = {name: value_at(row, name, place, "answer") for name in names}
            return json.dumps(values, ensure_ascii=False)
        column = self.answer or next(
            (n for n in ANSWERS if _look(row, n) not in (_ABSENT, None)), None
        )
        if column is None:
            raise ValueError(
                f"{place} has no answer: none of the columns {', '.join(ANSWERS)}; name it in "
                f"task.answer, got {sorted(map(str, row))!r}"
            )
        value = value_at(row, column, place, "answer")
        return joined([self._extracted(one, column, place) for one in _several(value)])

    def _extracted(self, value: Any, column: str, place: str) -> str:
        text = _plain(value, column, place)
        if self.extract == "json":
            try:
                value = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{place} needs JSON in {column}, got {text!r:.80}") from error
            return joined([_plain(one, column, place) for one in _several(value)])
        if self.extract == "boxed":
            found = boxed(text)
        elif self.extract.startswith("after:"):
            mark = self.extract.removeprefix("after:").strip()
            found = text.rpartition(mark)[2] if mark in text else ""
        else:
            found = text
        if not found.strip():
            raise ValueError(
                f"{place} has no answer for task.extract = {self.extract} in {column}, "
                f"got {text[-80:]!r}"
            )
        return found.strip()


def value_at(row: Mapping[str, Any], name: str, place: str, key: str) -> Any:
    """Return a column's value, or the one inside it that a name with dots leads to.

    Raises:
        ValueError: If there is none, naming the setting `key` that named it.
    """
    found = _look(row, name)
    if found is _ABSENT:
        raise ValueError(
            f"{place} has no column {name!r}, which task.{key} names, got {sorted(map(str, row))!r}"
        )
    return found


def item_of(row: dict[str, Any], place: str, default_source: str) -> Item:
    """Turn a row with the usual names into a question; see `Columns`."""
    return Columns().item(row, place, default_source)


def _look(row: Any, name: str) -> Any:
    if isinstance(row, str):
        row = _read_json(row)
    if not isinstance(row, Mapping):
        return _ABSENT
    if name in row:
        return row[name]
    head, dot, rest = name.partition(".")
    return _look(row[head], rest) if dot and head in row else _ABSENT


def _plain(value: Any, column: str, place: str) -> str:
    """A value as a text: numbers and booleans as JSON writes them, and so are objects."""
    if isinstance(value, Mapping) and value:
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, bool | int | float) and math.isfinite(value):
        return json.dumps(value)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(
            f"{place} needs a number, a boolean or a text that is not blank in {column}, "
            f"got {value!r:.80}"
        )
    return value


def _require_characters(text: str, place: str) -> None:
    """Refuse half of a surrogate pair, which JSON can spell and no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{place} must hold characters, and half of a surrogate pair is none, got "
            f"{text[error.start : error.start + 20]!a}"
        ) from error


def _read_json(text: str) -> Any:
    """A text as the JSON that it is, or itself."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _several(value: Any) -> list[Any]:
    """The answers that a value allows: those of a list, or itself."""
    return value if isinstance(value, list) and value else [value]


def _conversation(value: Any, column: str, place: str) -> list[Message]:
    if not (isinstance(value, list) and value and all(map(_is_message, value))):
        raise ValueError(
            f"{place} needs a text, or a list of objects with role and content, in {column}, "
            f"got {value!r:.80}"
        )
    # Chat templates show what else there is, such as calls of tools; Parquet has null for what is
    # not, and a message of calls alone may have no content.
    messages = [{k: v for k, v in m.items() if v is not None} for m in value]
    messages = [{"content": "", **message} for message in messages]
    if messages[-1]["role"] != "user":
        raise ValueError(f"{place} must end with a user message, got role {messages[-1]['role']!r}")
    return messages


def _is_message(value: Any) -> bool:
    if not isinstance(value, Mapping) or not isinstance(value.get("role"), str):
        return False
    content = value.get("content")
    return isinstance(content, str) or (content is None and bool(value.get("tool_calls")))


def _json(value: Any) -> bool:
    """Whether a value is plain, so that it can be sent on: no images, times or bytes."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _json(one) for key, one in value.items())
    if isinstance(value, list):
        return all(map(_json, value))
    return value is None or isinstance(value, str | bool | int | float)
