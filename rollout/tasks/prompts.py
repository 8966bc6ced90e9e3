"""From questions to prompts: tokenise, then refuse or set aside what cannot be used.

    task's questions -> Item -> make_prompts -> Prompt

Every task ends here, so that duplicates and prompts that are too long are treated alike. What is
left out is counted and logged, never dropped in silence.
"""

import logging
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from cost.ranges import count
from rollout.types import Prompt

_log = logging.getLogger(__name__)

MOST_PROMPTS = 1_000_000
"""Prompts that a generator makes: all are made and kept before a run starts."""
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
    messages: tuple[dict[str, str], ...] | None = None
    """The conversation, when it is more than the user's message alone."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """What else the row has, by name, for rewards that ask for it: plain values."""


def make_prompts(
    items: Iterable[Item],
    tokenizer: Any,
    *,
    max_tokens: int | None = None,
    long_prompts: str = "refuse",
    duplicates: str = "refuse",
    check: Check | None = None,
    chat: bool = True,
) -> list[Prompt]:
    """Tokenise questions and number the ones that can be used.

    Args:
        items: The task's questions, in order.
        tokenizer: The policy's Hugging Face tokenizer.
        max_tokens: Longest prompt in tokens, template included; None sets no limit.
        long_prompts: "refuse" stops at the first prompt that is too long, "skip" leaves it out.
        duplicates: "refuse" stops at the first repeated prompt, "skip" keeps the first of its kind.
        check: Raises ValueError for an answer that the reward cannot use.
        chat: Wrap the question in the chat template; False tokenises the bare text.

    Raises:
        ValueError: If a prompt is refused or comes again with another answer, if an answer fails
            the check, if the tokenizer has no chat template, or if nothing is left.
    """
    require_policy("task.long_prompts", long_prompts)
    require_policy("task.duplicates", duplicates)
    prompts: list[Prompt] = []
    first_place: dict[bytes, str] = {}
    first_answer: dict[bytes, str] = {}
    num_long = num_repeated = num_contradicting = 0
    for item in items:
        if check is not None:
            _check_answer(item, check)
        token_ids = np.asarray(_encode(item, tokenizer, chat=chat), dtype=np.int32)
        key = token_ids.tobytes()
        if max_tokens is not None and len(token_ids) > max_tokens:
            if long_prompts == "refuse":
                raise _too_long(item, len(token_ids), max_tokens)
            num_long += 1
        elif key in first_place:
            if duplicates == "refuse":
                raise _repeated(item, first_place[key], first_answer[key])
            num_repeated += 1
            num_contradicting += not _same(item.answer, first_answer[key])
        else:
            first_place[key], first_answer[key] = item.place, item.answer
            own = (item.answer, item.source, item.text, item.columns)
            prompts.append(Prompt(len(prompts), token_ids, *own))
    if num_long or num_repeated:
        _warn(num_long, max_tokens, num_repeated, num_contradicting, len(prompts))
    if not prompts:
        raise ValueError(
            f"the task has no prompts: {num_long} were over {max_tokens} tokens and {num_repeated} "
            "were repeated; raise model.max_model_len, choose another split or add prompts, got 0"
        )
    return prompts


def _warn(
    num_long: int, max_tokens: int | None, num_repeated: int, num_contradicting: int, remain: int
) -> None:
    _log.warning(
        "left out %d prompts over %s tokens and %d repeated ones; %d remain",
        num_long,
        max_tokens,
        num_repeated,
        remain,
    )
    if num_contradicting:
        _log.warning(
            "%d of the repeated prompts had another answer than the first of their kind, which "
            "counts: one of the two must be wrong",
            num_contradicting,
        )


def _too_long(item: Item, num_tokens: int, max_tokens: int) -> ValueError:
    return ValueError(
        f"{item.place} is longer than the {max_tokens} tokens left for a prompt; raise "
        "model.max_model_len, lower rollout.max_tokens or set task.long_prompts=skip, "
        f"got {num_tokens} tokens"
    )


def _repeated(item: Item, first_place: str, first_answer: str) -> ValueError:
    if _same(item.answer, first_answer):
        return ValueError(
            f"{item.place} repeats the prompt of {first_place}; remove one or set "
            f"task.duplicates=skip, got {item.text[:80]!r}"
        )
    return ValueError(
        f"{item.place} repeats the prompt of {first_place} with another answer, so that one of the "
        "two must be wrong; remove it or set task.duplicates=skip to keep the first, got "
        f"{item.answer[:80]!r} and {first_answer[:80]!r} for {item.text[:80]!r}"
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


def is_held_out(text: str, one_in: int) -> bool:
    """Whether a question belongs to the held-out split, by its own text.

    The text decides, so that no seed and no size of either split can make the two overlap.

    Args:
        text: The question.
        one_in: How many questions share one place in the held-out split, at least 1.
    """
    return zlib.crc32(text.encode()) % one_in == 0


def _check_answer(item: Item, check: Check) -> None:
    try:
        check(item.answer)
    except ValueError as error:
        raise ValueError(f"{item.place} has an answer that the reward refuses: {error}") from error


def _encode(item: Item, tokenizer: Any, *, chat: bool) -> list[int]:
    if not chat:
        return _encode_plain(item.text, tokenizer)
    if not tokenizer.chat_template:
        raise ValueError(
            f"the tokenizer in {tokenizer.name_or_path or 'memory'} has no chat template; choose a "
            "model with one, save one with its tokenizer, or set task.chat=false in a jsonl task "
            f"of plain prompts, got chat_template={tokenizer.chat_template!r}"
        )
    messages = item.messages or ({"role": "user", "content": item.text},)
    text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
    # The template writes the special tokens itself; adding them again would double the first.
    return _begun_once(list(tokenizer.encode(text, add_special_tokens=False)), tokenizer)


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
