"""A task named by where it stands: a function that yields rows, or a class with `prompts`.

    task=my_file.py:rows          # a file, wherever it is
    task._target_=my_module.rows  # a module that can be imported

    def rows():                                    # settings by name, and split if it wants
        yield {"prompt": "2 + 2?", "answer": "4"}  # or messages, see rollout.tasks.columns
        yield {"prompt": "2 + 3?", "answer": 5, "level": 1}  # further columns: for the reward

A function with a parameter `split` gets "train" or "held_out" and answers for the division; the
rows of others are divided by the text of their questions.
"""

import inspect
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from rollout.own_code import OwnCode, accepted
from rollout.tasks.columns import item_of
from rollout.tasks.prompts import (
    Check,
    EmptySplitError,
    Item,
    is_held_out,
    make_prompts,
    require_policy,
    require_split,
)
from rollout.types import Prompt

_OF_ITS_OWN = "give the function a parameter split, by which it divides them itself"


@dataclass(frozen=True, slots=True)
class FunctionTask(OwnCode):
    """The prompts that a function yields, or a class makes, found by its path."""

    kind: ClassVar[str] = "task"
    method: ClassVar[str] = "prompts"

    split: str = "all"
    """"all" for everything, or "train" or "held_out" for a part of it."""
    held_out_one_in: int = 10
    """One question in this many is held out, by its text, at least 2; of no effect on what takes a
    `split` itself."""
    chat: bool = True
    """Wrap prompts in the chat template; False sends the bare text, for base models."""
    long_prompts: str = "refuse"
    """What to do about prompts that are too long: "refuse" or "skip"."""
    duplicates: str = "refuse"
    """What to do about repeated prompts: "refuse" or "skip"."""

    def __post_init__(self) -> None:
        """Refuse what is not there, and settings that name no split."""
        require_split(self.split, "all")
        require_policy("task.long_prompts", self.long_prompts)
        require_policy("task.duplicates", self.duplicates)
        if self.held_out_one_in < 2:
            raise ValueError(
                f"task.held_out_one_in must be at least 2, got {self.held_out_one_in!r}"
            )
        OwnCode.__post_init__(self)

    def own_settings(self, kind: Callable[..., Any]) -> dict[str, Any]:
        """Return the arguments with which a class is made: its split among them."""
        if self.split == "all" or "split" in self.settings:
            return self.settings
        of_split = accepted(kind, {"split": self.split})
        if self.split == "held_out" and not of_split:
            raise ValueError(
                "names a class without the parameter split, so that prompts of training would be "
                "held out too; add it, or choose other prompts with task@held_out"
            )
        return {**self.settings, **of_split}

    def prompts(
        self, tokenizer: Any, *, max_tokens: int | None = None, check: Check | None = None
    ) -> list[Prompt]:
        """Make the prompts; see `rollout.tasks.prompts.Task`."""
        made = self.made()
        limits: dict[str, Any] = {"max_tokens": max_tokens, "check": check}
        if hasattr(made, "prompts"):
            return list(made.prompts(tokenizer, **limits))
        return make_prompts(
            self._items(made),
            tokenizer,
            long_prompts=self.long_prompts,
            duplicates=self.duplicates,
            chat=self.chat,
            **limits,
        )

    def _items(self, function: Callable[..., Any]) -> Iterator[Item]:
        own_split = accepted(function, {"split": self.split})
        name = self.path.rpartition(":")[2]
        number = num_used = 0
        for number, row in enumerate(self._rows(function, own_split), start=1):
            place = f"row {number} of {self.path}"
            item = row if isinstance(row, Item) else item_of(_plain(row, place), place, name)
            held_out = is_held_out(item.text, self.held_out_one_in)
            if self.split == "all" or own_split or held_out == (self.split == "held_out"):
                num_used += 1
                yield item
        if not number:
            raise ValueError(f"task.path must name a function that yields rows, got {self.path!r}")
        if not num_used:
            raise EmptySplitError(
                self.split, number, repr(self.path), self.held_out_one_in, _OF_ITS_OWN
            )

    def _rows(self, function: Callable[..., Any], split: dict[str, Any]) -> Iterable[Any]:
        try:
            inspect.signature(function).bind(**{**split, **self.settings})
        except TypeError as error:
            raise ValueError(
                f"task.path names a function that cannot be called ({error}); name what it needs "
                f"in task.settings, got {self.path!r}"
            ) from error
        rows = function(**{**split, **self.settings})
        if not isinstance(rows, Iterable):
            raise ValueError(
                f"task.path must name a function that yields rows, got {rows!r:.80} from "
                f"{self.path!r}"
            )
        return rows


def _plain(row: Any, place: str) -> dict[str, Any]:
    """Return a row as JSON would read it back: what travels with its prompt is data only."""
    try:
        found = json.loads(json.dumps(row))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{place} must hold plain values, as JSON has ({error})") from error
    if not isinstance(found, dict):
        raise ValueError(f"{place} must be a dict, such as {{'prompt': ..., 'answer': ...}}")
    return found
