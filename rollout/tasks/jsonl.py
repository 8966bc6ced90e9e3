"""A user's own questions: a file with one JSON object a line.

    {"prompt": "What is 2 + 2?", "answer": "4"}
    {"messages": [{"role": "system", ...}, {"role": "user", ...}], "answer": "4", "source": "mine"}

An answer that is a number, a boolean or an object is taken as JSON writes it: 4 is "4", true is
"true"; objects are the tests of `reward=code`.
The file is data and nothing else: it is parsed as JSON, never executed. Every complaint names the
line.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rollout.tasks.prompts import (
    Check,
    Item,
    is_held_out,
    make_prompts,
    require_policy,
    require_split,
)
from rollout.types import Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonlTask:
    """The prompts of a file, or of one split of it."""

    path: str
    """The file, UTF-8. Keys other than prompt, messages, answer and source are ignored."""
    split: str = "all"
    """"all" for a file of its own, or "train" or "held_out" to divide one file."""
    held_out_one_in: int = 50
    """One question in this many is held out, by its text, at least 2."""
    chat: bool = True
    """Wrap prompts in the chat template; False sends the bare text, for base models."""
    long_prompts: str = "refuse"
    """What to do about prompts that are too long: "refuse" or "skip"."""
    duplicates: str = "refuse"
    """What to do about repeated prompts: "refuse" or "skip"."""

    def __post_init__(self) -> None:
        """Refuse settings that name no split."""
        require_split(self.split, "all")
        require_policy("task.long_prompts", self.long_prompts)
        require_policy("task.duplicates", self.duplicates)
        if self.held_out_one_in < 2:
            raise ValueError(
                f"task.held_out_one_in must be at least 2, got {self.held_out_one_in!r}"
            )

    def prompts(
        self, tokenizer: Any, *, max_tokens: int | None = None, check: Check | None = None
    ) -> list[Prompt]:
        """Read the file and tokenise it; see `rollout.tasks.prompts.Task`."""
        return make_prompts(
            self._items(),
            tokenizer,
            max_tokens=max_tokens,
            long_prompts=self.long_prompts,
            duplicates=self.duplicates,
            check=check,
            chat=self.chat,
        )

    def _items(self) -> Iterator[Item]:
        num_lines = 0
        for item in read_items(Path(self.path)):
            num_lines += 1
            if item.messages is not None and not self.chat:
                raise ValueError(
                    f"{item.place} holds messages, which need the chat template; write a prompt "
                    f"instead or set task.chat=true, got chat={self.chat!r}"
                )
            held_out = is_held_out(item.text, self.held_out_one_in)
            if self.split == "all" or held_out == (self.split == "held_out"):
                yield item
        if not num_lines:
            raise ValueError(f"task.path names an empty file; add a line, got {self.path!r}")


def read_items(path: Path) -> Iterator[Item]:
    """Read a file of questions; blank lines are passed over.

    Raises:
        ValueError: If the file is missing or a line is not what the module describes.
    """
    try:
        # A pipe would wait for a writer, and a device has no end.
        if path.exists() and not path.is_file():
            raise ValueError(f"task.path must be a regular file, got {str(path)!r}")
        file = path.open("rb")
    except OSError as error:
        raise ValueError(
            f"task.path cannot be read ({error.strerror}), got {str(path)!r}"
        ) from error
    with file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield _parse(line, f"{path}:{number}", default_source=path.stem)


def _parse(line: bytes, place: str, default_source: str) -> Item:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{place} is not UTF-8; convert the file, got {line[:80]!r}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{place} is not JSON ({error}); write one object a line, got {line[:80]!r}"
        ) from error
    if not isinstance(row, dict):
        raise ValueError(f"{place} must be a JSON object, got {row!r:.80}")
    if ("prompt" in row) == ("messages" in row):
        raise ValueError(f"{place} needs either prompt or messages, got keys {sorted(row)!r}")
    answer = _text(row, "answer", place)
    source = _text(row, "source", place) if "source" in row else default_source
    if "prompt" in row:
        return Item(_text(row, "prompt", place), answer, source, place)
    messages = _messages(row["messages"], place)
    return Item(messages[-1]["content"], answer, source, place, messages)


def _text(row: dict[str, Any], key: str, place: str) -> str:
    if key not in row:
        raise ValueError(f"{place} has no {key}; add it as a string, got keys {sorted(row)!r}")
    value = row[key]
    if key == "answer" and isinstance(value, bool | int | float) and math.isfinite(value):
        return json.dumps(value)
    if key == "answer" and isinstance(value, dict) and value:
        return json.dumps(value)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{place} needs {key} as a string that is not blank, got {value!r:.80}")
    return value


def _messages(value: object, place: str) -> tuple[dict[str, str], ...]:
    fits = (
        isinstance(value, list)
        and value
        and all(
            isinstance(m, dict)
            and isinstance(m.get("role"), str)
            and isinstance(m.get("content"), str)
            for m in value
        )
    )
    if not fits:
        raise ValueError(
            f"{place} needs messages as a list of objects with role and content, got {value!r:.80}"
        )
    assert isinstance(value, list)
    messages = tuple({"role": m["role"], "content": m["content"]} for m in value)
    if messages[-1]["role"] != "user":
        raise ValueError(f"{place} must end with a user message, got role {messages[-1]['role']!r}")
    return messages
