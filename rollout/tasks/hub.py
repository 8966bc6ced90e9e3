"""Questions from a data set of the Hugging Face hub, or from a local folder of one.

    load_dataset -> rows -> question and answer columns -> Item

Only data is read: current versions of `datasets` run no code of a data set's author.
"""

import importlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rollout.tasks.prompts import Check, Item, make_prompts, require_policy
from rollout.types import Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class HubTask:
    """The rows of one split, as prompts.

    Example: HubTask(dataset="openai/gsm8k", subset="main", answer_after="####") asks the questions
    of GSM8K's test split; the answer is what stands after the last "####" of a solution.
    """

    dataset: str
    """Id on the hub ("owner/name"), or a local folder that `datasets.load_dataset` reads."""
    subset: str | None = None
    """Configuration of the data set; None where it has one only."""
    split: str = "test"
    """Split, which may be a slice such as "test[:200]"."""
    revision: str | None = None
    """Commit, tag or branch on the hub; a commit makes an evaluation repeatable."""
    question: str = "question"
    """Column of the user's message."""
    answer: str = "answer"
    """Column of what the reward compares with; numbers are taken as written."""
    answer_after: str = ""
    """Keep only what follows the last occurrence of this text in the answer; "" keeps all."""
    instruction: str = ""
    """Sentence added after the question; "" adds none."""
    source: str | None = None
    """Column that names each row's source; None takes the data set's name for all."""
    chat: bool = True
    """Wrap prompts in the chat template; False sends the bare text, for base models."""
    long_prompts: str = "refuse"
    """What to do about prompts that are too long: "refuse" or "skip"."""
    duplicates: str = "refuse"
    """What to do about repeated prompts: "refuse" or "skip"."""

    def __post_init__(self) -> None:
        """Refuse settings that name no data set."""
        for key in ("dataset", "split", "question", "answer"):
            if not getattr(self, key):
                raise ValueError(f"task.{key} must not be empty, got {getattr(self, key)!r}")
        require_policy("task.long_prompts", self.long_prompts)
        require_policy("task.duplicates", self.duplicates)

    def prompts(
        self, tokenizer: Any, *, max_tokens: int | None = None, check: Check | None = None
    ) -> list[Prompt]:
        """Load the split and tokenise it; see `rollout.tasks.prompts.Task`."""
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
        columns = [self.question, self.answer, *([self.source] if self.source else [])]
        for number, row in enumerate(self._rows()):
            place = f"{self.dataset}:{self.split}:{number}"
            for column in columns:
                if column not in row:
                    raise ValueError(
                        f"{place} has no column {column!r}; set task.question, task.answer and "
                        f"task.source to columns of the data set, got {sorted(row)!r}"
                    )
            text = _text(row, self.question, place)
            if self.instruction:
                text = f"{text}\n{self.instruction}"
            source = _text(row, self.source, place) if self.source else self.dataset
            yield Item(text, self._answer(row, place), source, place)

    def _answer(self, row: dict[str, Any], place: str) -> str:
        text = _text(row, self.answer, place)
        if not self.answer_after:
            return text
        _, found, after = text.rpartition(self.answer_after)
        if not found or not after.strip():
            raise ValueError(
                f"{place} has nothing after task.answer_after = {self.answer_after!r}; set it to "
                f"what precedes the final answer, got {text[-80:]!r}"
            )
        return after.strip()

    def _rows(self) -> Any:
        try:
            # An optional package, which takes seconds to import.
            datasets = importlib.import_module("datasets")
        except ModuleNotFoundError as error:
            if error.name != "datasets":
                raise
            raise ValueError(
                "task.dataset needs the package datasets, which is not installed; install it with "
                f'`pip install -e ".[hub]"`, got {self.dataset!r}'
            ) from error
        try:
            return datasets.load_dataset(
                self.dataset, self.subset, split=self.split, revision=self.revision
            )
        except Exception as error:
            # Hub, network, parser and cache each fail with errors of their own.
            reason = " ".join(str(error).split())
            raise ValueError(
                f"task.dataset cannot be loaded ({type(error).__name__}: {reason:.200}); check "
                "task.dataset, task.subset, task.split and task.revision, "
                f"got {self.dataset!r}"
            ) from error


def _text(row: dict[str, Any], column: str, place: str) -> str:
    value = row[column]
    if isinstance(value, bool | int | float) and math.isfinite(value):
        return json.dumps(value)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(
            f"{place} needs a number, a boolean or a text that is not blank in column {column!r}, "
            f"got {value!r:.80}"
        )
    return value
