"""What ends a response: whatever the model folder says, read once for everyone who asks.

    config.json, generation_config.json, tokenizer, chat template -> Stopping
    Stopping -> engine (stops there), loss (the stop token is the response's last), rewards (do not
                see it)

A response includes the stop token that was sampled: it is a decision of the policy like any other,
and trained like any other.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_QUESTION, _ANSWER = "question", "answer"
"""A conversation that no template strips or rewrites."""


@dataclass(frozen=True, slots=True)
class Stopping:
    """Tokens and texts that end a response."""

    token_ids: tuple[int, ...]
    """Tokens that end it, each of them sampled and part of it, ascending."""
    strings: tuple[str, ...] = ()
    """Texts that end it, with the token that completes one."""

    def without_stop(self, token_ids: Iterable[int]) -> list[int]:
        """Leave out the stop token that ends a response; a response cut at its limit has none."""
        kept = [int(token) for token in token_ids]
        return kept[:-1] if kept and kept[-1] in self.token_ids else kept

    def text(
        self, tokenizer: Any, token_ids: Iterable[int], *, special_tokens: bool = False
    ) -> str:
        """Decode what a response says, without what ended it.

        Args:
            tokenizer: The policy's Hugging Face tokenizer.
            token_ids: [T] the policy's own tokens.
            special_tokens: Whether others that are special are part of it.
        """
        sampled = list(token_ids)
        kept = self.without_stop(sampled)
        text: str = tokenizer.decode(kept, skip_special_tokens=not special_tokens)
        if self.strings and len(kept) == len(sampled):
            # A text ends a response only with its last token.
            before: str = tokenizer.decode(kept[:-1], skip_special_tokens=not special_tokens)
            starts = [
                start
                for string in self.strings
                if (start := text.rfind(string)) >= 0 and start + len(string) > len(before)
            ]
            return text[: min(starts, default=len(text))]
        return text


def stopping_of(model_path: str, tokenizer: Any, stop_strings: Sequence[str] = ()) -> Stopping:
    """Read what ends a response.

    It is every end-of-sequence token of config.json (a nested text_config's included),
    generation_config.json and the tokenizer, the token with which the chat template ends the
    assistant's turn, and generation_config.json's `stop_strings` and those given; one that is a
    single token of its own counts as that token.

    Args:
        model_path: Local Hugging Face folder.
        tokenizer: Its tokenizer.
        stop_strings: Further texts.
    """
    config, generation = (
        _settings(Path(model_path) / name) for name in ("config.json", "generation_config.json")
    )
    found = {
        *_tokens_of(config.get("eos_token_id")),
        *_tokens_of((config.get("text_config") or {}).get("eos_token_id")),
        *_tokens_of(generation.get("eos_token_id")),
        *_tokens_of(tokenizer.eos_token_id),
        *_tokens_of(end_of_turn(tokenizer)),
    }
    strings = generation.get("stop_strings") or []
    texts: list[str] = []
    for string in [*([strings] if isinstance(strings, str) else strings), *stop_strings]:
        token = tokenizer.get_added_vocab().get(string)
        if token is not None:
            found.add(token)
        elif string and string not in texts:
            texts.append(string)
    return Stopping(tuple(sorted(found)), tuple(texts))


def end_of_turn(tokenizer: Any) -> int | None:
    """Find the token with which the chat template ends the assistant's turn.

    Returns:
        The added token that follows the assistant's text, behind white space at most; None where
        there is no template, none for the assistant, or where another text follows.
    """
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        return None
    messages = [
        {"role": "user", "content": _QUESTION},
        {"role": "assistant", "content": _ANSWER},
    ]
    try:
        text: str = tokenizer.apply_chat_template(messages, tokenize=False)
    except (TemplateError, TypeError, ValueError):
        return None
    _, found, rest = text.rpartition(_ANSWER)
    if not found:
        return None
    added: dict[str, int] = tokenizer.get_added_vocab()
    rest = rest.lstrip()
    # The longest, where one is the beginning of another.
    ends = sorted((token for token in added if token and rest.startswith(token)), key=len)
    return added[ends[-1]] if ends else None


def _settings(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _tokens_of(value: int | Iterable[int] | None) -> set[int]:
    if value is None:
        return set()
    return {value} if isinstance(value, int) else set(value)
