r"""A user's own questions: rows of a file, a saved folder or the hub, as prompts.

    path -> rows.Rows -> row -> columns.Columns -> Item -> prompts.make_prompts -> Prompt

    task=dataset task.path=questions.jsonl                # {"prompt": "2 + 2?", "answer": "4"}
    task=gsm8k                                            # from the hub
    task=dataset task.path=solved.parquet task.prompt=problem task.extract=boxed

What a row must have to be used is in `Columns`; what is left out is counted and told.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cost.ranges import count
from rollout.tasks.columns import Columns
from rollout.tasks.left_out import LeftOut
from rollout.tasks.prompts import (
    Check,
    EmptySplitError,
    Item,
    is_held_out,
    make_prompts,
    require_policy,
    require_split,
)
from rollout.tasks.rows import Rows
from rollout.types import Prompt

_OF_ITS_OWN = "hold out a file of its own (task.split=all held_out.split=all held_out.path=FILE)"


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetTask:
    """The prompts of a data set, or of a part of it."""

    path: str
    """A file (JSONL, JSON, CSV, TSV, Parquet, the first four also as .gz), a pattern for several
    files, a folder that `datasets` saved, or a hub id."""
    subset: str | None = None
    """Configuration of the data set on the hub; null where it has one only."""
    hub_split: str | None = None
    """Split in the data set's own words, which may be a slice such as "test[:200]"; null is "train"
    of several, and all of a lone file."""
    revision: str | None = None
    """Commit, tag or branch on the hub; a commit makes a run repeatable."""
    split: str = "all"
    """"all" of these rows, or "train" or "held_out" to divide them by the text of the question."""
    held_out_one_in: int = 50
    """One question in this many is held out, by its text, at least 2."""
    prompt: str | None = None
    """Column of the question, a text or a conversation; null takes prompt, messages, problem or
    question, whichever there is. Dots lead into objects."""
    answer: str | None = None
    """Column of the answer; null takes the first of answer, ground_truth, solution, target and
    reward_model.ground_truth. A list in it is of answers that are all right; "a,b" makes one JSON
    object of two columns."""
    source: str | None = None
    """Column that names a row's source, by which metrics are grouped where a set has at most 64;
    null takes "source", or the data set's name for all."""
    columns: list[str] | None = None
    """Further columns that rewards may ask for; null keeps all that are plain values."""
    extract: str = "plain"
    r"""How the answer is found in its column: "plain", "after:####" or another text, "boxed" for
    the last \boxed and those that belong to it, "json" for a value or list of accepted ones written
    as JSON."""
    system: str = ""
    """System message before conversations that have none; "" for none."""
    template: str = ""
    """The user's message, with {{prompt}} or {{COLUMN}} in it; "" for the column as it is."""
    where: dict[str, Any] = field(default_factory=dict)
    """Rows to keep, by column: a value, a list of values, or {min: A, max: B}."""
    max_prompt_tokens: int | None = None
    """Leave out longer prompts, tokens with the chat template; null for no limit but the room."""
    max_prompts: int | None = None
    """Keep so many prompts, chosen by chance with `seed`, in their order; null keeps all."""
    seed: int = 0
    """Which prompts `max_prompts` keeps."""
    chat: bool = True
    """Wrap prompts in the chat template; false sends the bare text, for base models."""
    long_prompts: str = "refuse"
    """What to do about prompts that leave no room for a response: "refuse" or "skip"."""
    duplicates: str = "refuse"
    """What to do about repeated prompts: "refuse" or "skip"."""
    bad_rows: str = "refuse"
    """What to do about rows without a usable question or answer: "refuse" or "skip"."""

    def __post_init__(self) -> None:
        """Refuse settings that name no rows."""
        if not self.path.strip():
            raise ValueError(f"task.path must not be empty, got {self.path!r}")
        require_split(self.split, "all")
        for key in ("long_prompts", "duplicates", "bad_rows"):
            require_policy(f"task.{key}", getattr(self, key))
        if self.held_out_one_in < 2:
            raise ValueError(
                f"task.held_out_one_in must be at least 2, got {self.held_out_one_in!r}"
            )
        for key in ("max_prompt_tokens", "max_prompts"):
            value = getattr(self, key)
            fault = None if value is None else count(1e9).fault(value)
            if fault is not None:
                raise ValueError(f"task.{key} {fault}, got {value!r}")
        self._columns()

    def prompts(
        self, tokenizer: Any, *, max_tokens: int | None = None, check: Check | None = None
    ) -> list[Prompt]:
        """Read the rows and tokenise them; see `rollout.tasks.prompts.Task`."""
        left_out = LeftOut()
        room, policy = max_tokens, self.long_prompts
        if self.max_prompt_tokens is not None and self.max_prompt_tokens <= (room or np.inf):
            room, policy = self.max_prompt_tokens, "skip"
        found = make_prompts(
            self._items(left_out),
            tokenizer,
            max_tokens=room,
            long_prompts=policy,
            duplicates=self.duplicates,
            bad_rows=self.bad_rows,
            check=check,
            chat=self.chat,
            left_out=left_out,
        )
        if self.max_prompts is not None:
            kept = some_of(found, self.max_prompts, self.seed)
            left_out.add_several("beyond task.max_prompts", len(found) - len(kept))
            found = kept
        left_out.tell(f"task.path={self.path}", len(found))
        return found

    def _columns(self) -> Columns:
        return Columns(
            prompt=self.prompt,
            answer=self.answer,
            source=self.source,
            keep=None if self.columns is None else tuple(self.columns),
            extract=self.extract,
            system=self.system,
            template=self.template,
            where=self.where,
        )

    def _items(self, left_out: LeftOut) -> Iterator[Item]:
        rows = Rows(self.path, self.subset, self.hub_split, self.revision)
        # The name asks the disk, which a large file's rows need not do each.
        columns, source, empty, num_whole, num_used = self._columns(), rows.name, True, 0, 0
        for place, row in rows.read():
            empty = False
            item = self._item(columns, row, place, source, left_out)
            if item is None:
                continue
            if item.messages is not None and not self.chat:
                raise ValueError(
                    f"{item.place} holds messages, or task.system is set, which need the chat "
                    f"template; write a prompt instead or set task.chat=true, got {self.chat!r}"
                )
            held_out = is_held_out(item.text, self.held_out_one_in)
            num_whole += 1
            if self.split == "all" or held_out == (self.split == "held_out"):
                num_used += 1
                yield item
        if empty:
            raise ValueError(f"task.path has no rows; add some, got {self.path!r}")
        if num_whole and not num_used:
            others = f" (left out: {left_out.text()})" if left_out.counts else ""
            origin = f"{self.path!r}{others}"
            raise EmptySplitError(self.split, num_whole, origin, self.held_out_one_in, _OF_ITS_OWN)

    def _item(
        self, columns: Columns, row: Mapping[str, Any], place: str, source: str, left_out: LeftOut
    ) -> Item | None:
        """A row's question; None if it is left out."""
        try:
            if not columns.wants(row, place):
                left_out.add("outside task.where", place)
                return None
            return columns.item(row, place, source)
        except ValueError as error:
            if self.bad_rows == "refuse":
                raise
            left_out.add("without a usable question or answer", str(error))
            return None


def some_of(prompts: list[Prompt], number: int, seed: int) -> list[Prompt]:
    """Choose prompts by chance, keep their order, and number them anew."""
    if number >= len(prompts):
        return prompts
    chosen = np.sort(np.random.default_rng(seed).permutation(len(prompts))[:number])
    return numbered([prompts[index] for index in chosen])


def numbered(prompts: list[Prompt]) -> list[Prompt]:
    """Give prompts the indices of their places."""
    return [dataclasses.replace(prompt, index=index) for index, prompt in enumerate(prompts)]
