"""From questions to prompts: tokenise, then refuse or set aside what cannot be used.

    task's questions -> Item -> make_prompts -> Prompt

Every task ends here, so that duplicates and prompts that are too long are treated alike. What is
left out is counted and logged, never dropped in silence.
"""

import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol, runtime_checkable

import numpy as np

from cost.ranges import count
from rollout.tasks.left_out import LeftOut
from rollout.types import Prompt, TokenArray

MOST_PROMPTS = 1_000_000
"""Prompts that a generator makes: all are made and kept before a run starts."""
DAY = datetime(2024, 7, 26)
"""What chat templates write that write the day: the one that Llama 3's have where they know none.
"""
Check = Callable[[str], None]
"""Raises ValueError for an answer that a reward cannot use; see `rollout.rewards.types.Reward`."""


@runtime_checkable
class Task(Protocol):
    """The plug `task`: where prompts come from."""

    def prompts(
        self, tokenizer: Any, *, max_tokens: int | None = None, check: Check | None = None
    ) -> list[Prompt]:
        """Make the prompts of the split that the task's settings name.

        Args:
            tokenizer: The policy's Hugging Face tokenizer.
            max_tokens: Longest prompt that leaves room for a response; None sets no limit.
            check: The reward's check of an answer; None accepts every answer.

        Raises:
            ValueError: If a prompt or an answer cannot be used.
        """
        ...


@dataclass(frozen=True, slots=True)
class Item:
    """One question before it is tokenised."""

    text: str
    """The user's message."""
    answer: str
    """What the reward compares a response with."""
    source: str
    """Name of the data set or generator."""
    place: str
    """Where it comes from, for error messages, such as "data.jsonl:12"."""
    messages: tuple[dict[str, Any], ...] | None = None
    """The conversation as chat templates take it, when it is more than the user's message alone."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """What else the row has, by name, for rewards that ask for it: plain values."""
    features: tuple[float, ...] = ()
    """See `rollout.types.Prompt`."""


def make_prompts(
    items: Iterable[Item],
    tokenizer: Any,
    *,
    max_tokens: int | None = None,
    long_prompts: str = "refuse",
    duplicates: str = "refuse",
    bad_rows: str = "refuse",
    check: Check | None = None,
    chat: bool = True,
    left_out: LeftOut | None = None,
) -> list[Prompt]:
    """Tokenise questions and number the ones that can be used.

    Args:
        items: The task's questions, in order.
        tokenizer: The policy's Hugging Face tokenizer.
        max_tokens: Longest prompt in tokens, template included; None sets no limit.
        long_prompts: "refuse" stops at the first prompt that is too long, "skip" leaves it out.
        duplicates: "refuse" stops at the first repeated prompt, "skip" keeps the first of its kind.
        bad_rows: "refuse" stops at the first answer that the check refuses, "skip" leaves it out.
        check: Raises ValueError for an answer that the reward cannot use.
        chat: Wrap the question in the chat template; False tokenises the bare text.
        left_out: Where to count what is left out, for a caller who tells of it; None tells here.

    Raises:
        ValueError: If a prompt is refused or comes again with another answer, if an answer fails
            the check, if the tokenizer has no chat template, or if nothing is left.
    """
    chosen = {"long_prompts": long_prompts, "duplicates": duplicates, "bad_rows": bad_rows}
    for key, value in chosen.items():
        require_policy(f"task.{key}", value)
    counted = LeftOut() if left_out is None else left_out
    prompts: list[Prompt] = []
    seen = _Seen(tokenizer, chat=chat)
    for item in items:
        if check is not None and (fault := _fault(item, check)) is not None:
            if bad_rows == "refuse":
                raise fault
            counted.add("with an answer that the reward refuses", str(fault))
            continue
        token_ids, first = seen.look(item)
        if max_tokens is not None and len(token_ids) > max_tokens:
            if long_prompts == "refuse":
                raise _too_long(item, len(token_ids), max_tokens)
            counted.add(f"over {max_tokens} tokens", item.place)
        elif first is not None:
            if duplicates == "refuse":
                raise _repeated(item, first)
            same = "repeated" if _same(item.answer, first.answer) else CONTRADICTED
            counted.add(same, item.place)
        else:
            own = (item.answer, item.source, item.text, item.columns, item.features)
            prompts.append(Prompt(len(prompts), token_ids, *own))
    if left_out is None:
        counted.tell("task", len(prompts))
    if not prompts:
        raise _none_left(counted)
    return prompts


CONTRADICTED = "repeated with another answer, of which one must be wrong"


class _Seen:
    """The prompts there were so far, by their tokens; the same text is tokenised once."""

    def __init__(self, tokenizer: Any, *, chat: bool) -> None:
        self._tokenizer, self._chat = tokenizer, chat
        self._tokens: dict[str, TokenArray] = {}
        self._first: dict[bytes, Item] = {}

    def look(self, item: Item) -> tuple[TokenArray, Item | None]:
        """Return an item's tokens, and the first item that had the same."""
        key = repr(item.messages or item.text)
        token_ids = self._tokens.get(key)
        if token_ids is None:
            encoded = _encode(item, self._tokenizer, chat=self._chat)
            token_ids = self._tokens[key] = np.asarray(encoded, dtype=np.int32)
        first = self._first.setdefault(token_ids.tobytes(), item)
        return token_ids, None if first is item else first


def _none_left(left_out: LeftOut) -> ValueError:
    reasons = left_out.counts
    remedies = ["raise model.max_model_len"] if any(r.startswith("over ") for r in reasons) else []
    remedies += ["change task.where"] if "outside task.where" in reasons else []
    remedies += ["choose another split", "or add prompts"]
    return ValueError(
        f"the task has no prompts, left out: {left_out.text()}; {', '.join(remedies)}, got 0"
    )


def _too_long(item: Item, num_tokens: int, max_tokens: int) -> ValueError:
    return ValueError(
        f"{item.place} is longer than the {max_tokens} tokens left for a prompt; raise "
        "model.max_model_len, lower rollout.max_tokens or set task.long_prompts=skip, "
        f"got {num_tokens} tokens"
    )


def _repeated(item: Item, first: Item) -> ValueError:
    if _same(item.answer, first.answer):
        return ValueError(
            f"{item.place} repeats the prompt of {first.place}; remove one or set "
            f"task.duplicates=skip, got {item.text[:80]!r}"
        )
    return ValueError(
        f"{item.place} repeats the prompt of {first.place} with another answer, so that one of the "
        "two must be wrong; remove it or set task.duplicates=skip to keep the first, got "
        f"{item.answer[:80]!r} and {first.answer[:80]!r} for {item.text[:80]!r}"
    )


def _same(answer: str, other: str) -> bool:
    return answer.strip() == other.strip()


def require_num_prompts(value: int) -> None:
    """Refuse a number of generated prompts that is none, or that no memory holds."""
    fault = count(MOST_PROMPTS).fault(value)
    if fault is not None:
        raise ValueError(f"task.num_prompts {fault}, got {value!r}")


def require_policy(key: str, value: str) -> None:
    """Refuse anything but "refuse" and "skip" as what to do about a prompt."""
    if value not in ("refuse", "skip"):
        raise ValueError(f"{key} must be refuse or skip, got {value!r}")


def require_split(value: str, *others: str) -> None:
    """Refuse anything but the splits there are: "train", "held_out" and `others`."""
    names = ("train", "held_out", *others)
    if value not in names:
        raise ValueError(f"task.split must be one of {', '.join(names)}, got {value!r}")


class EmptySplitError(ValueError):
    """By their text all questions of a task belong to the other split.

    Its sentence speaks of the task of training and of what is held out of it by their keys.

    Args:
        split: The one without a question, "train" or "held_out".
        number: Questions that could be used.
        origin: Where they come from, and what was left out there.
        one_in: One question in this many is held out.
        instead: What else can be done where none is held out, such as "hold out another file".
    """

    def __init__(self, split: str, number: int, origin: str, one_in: int, instead: str) -> None:
        other, remedy = "the held-out part", "raise task.held_out_one_in or add questions"
        if split == "held_out":
            other = "training"
            remedy = f"lower task.held_out_one_in, add questions or {instead}"
        super().__init__(
            f"all of the {number} questions of {origin} fall into {other}, by their text; "
            f"{remedy}, got task.held_out_one_in={one_in}"
        )


def is_held_out(text: str, one_in: int) -> bool:
    """Whether a question belongs to the held-out split, by its own text.

    The text decides, so that no seed and no size of either split can make the two overlap.

    Args:
        text: The question.
        one_in: How many questions share one place in the held-out split, at least 1.
    """
    return part_of(text, one_in) == 0


def part_of(text: str, num_parts: int) -> int:
    """Return which of equally large parts a question belongs to, by its own text; 0 is held out."""
    return zlib.crc32(text.encode()) % num_parts


def _fault(item: Item, check: Check) -> ValueError | None:
    try:
        check(item.answer)
    except ValueError as error:
        return ValueError(f"{item.place} has an answer that the reward refuses: {error}")
    return None


def _encode(item: Item, tokenizer: Any, *, chat: bool) -> list[int]:
    if not chat:
        return _encode_plain(item.text, tokenizer)
    if not tokenizer.chat_template:
        raise ValueError(
            f"the tokenizer in {tokenizer.name_or_path or 'memory'} has no chat template; choose a "
            "model with one, save one with its tokenizer, or set task.chat=false in a dataset task "
            f"of plain prompts, got chat_template={tokenizer.chat_template!r}"
        )
    messages = item.messages or ({"role": "user", "content": item.text},)
    asked = {"tokenize": False, "add_generation_prompt": True} | _day_of(tokenizer)
    text = tokenizer.apply_chat_template(list(messages), **asked)
    # The template writes the special tokens itself; adding them again would double the first.
    return _begun_once(list(tokenizer.encode(text, add_special_tokens=False)), tokenizer)


def _day_of(tokenizer: Any) -> dict[str, Any]:
    """What a template that writes the day is told: else a run had other prompts the day after."""
    return {"strftime_now": DAY.strftime} if "strftime_now" in str(tokenizer.chat_template) else {}


def _encode_plain(text: str, tokenizer: Any) -> list[int]:
    """Tokenise a text that the policy continues: with what the tokenizer puts before it only."""
    token_ids = list(tokenizer.encode(text))
    bare = list(tokenizer.encode(text, add_special_tokens=False))
    added = len(token_ids) - len(bare)
    # What is put behind it, such as an end-of-sequence token, would end it before it is continued.
    for num_before in range(added, -1, -1):
        if token_ids[num_before : num_before + len(bare)] == bare:
            token_ids = token_ids[: num_before + len(bare)]
            break
    return _begun_once(token_ids, tokenizer)


def _begun_once(token_ids: list[int], tokenizer: Any) -> list[int]:
    """Leave out all but one of the beginning-of-sequence tokens that a prompt begins with."""
    num_begins = 0
    while num_begins < len(token_ids) and token_ids[num_begins] == tokenizer.bos_token_id:
        num_begins += 1
    return token_ids[max(num_begins - 1, 0) :]
