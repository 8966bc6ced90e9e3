"""The tokens between two turns of the policy, from the chat template alone.

    sampled tokens | end of turn, observation, start of the next turn | sampled tokens

A made-up conversation is rendered with what the environment says at its end; what follows the
made-up answer is the text in between. What was sampled is never decoded and tokenised again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rollout.stopping import Stopping, end_of_turn
from rollout.types import TokenArray

_QUESTION, _ANSWER = "question", "xanswerx"
_PROBE = "xobservationx"
ROLES = ("tool", "user")


@dataclass(frozen=True)
class Bridge:
    """Writes what stands between two turns.

    Args:
        tokenizer: The policy's, with a chat template.
        role: Whose message an observation is: "tool" or "user".
    """

    tokenizer: Any
    role: str = "tool"

    def check(self) -> None:
        """Refuse a template that cannot render what the environment says.

        Raises:
            ValueError: In one sentence with the remedy.
        """
        other = (
            "set environment.role=user"
            if self.role == "tool"
            else "choose a model whose template takes a user's message after the assistant's"
        )
        try:
            shown = self._between([_PROBE])
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                f"environment.role must be one that the chat template of model.path renders after "
                f"the assistant's turn; {other}, got {self.role!r} ({reason})"
            ) from error
        if _PROBE not in shown:
            raise ValueError(
                f"environment.role must be one that the chat template of model.path shows, which "
                f"leaves such messages out; {other}, got {self.role!r}"
            )

    def tokens(self, texts: Sequence[str], last_token: int, stopping: Stopping) -> TokenArray:
        """Return [T] int32 tokens from the end of a turn to the beginning of the next.

        Args:
            texts: What the environment says, one message each, at least one.
            last_token: The turn's last token as it was sampled.
            stopping: What ends a response.
        """
        between = self._between([self._plain(text) for text in texts])
        token_ids = list(self.tokenizer.encode(between, add_special_tokens=False))
        end = end_of_turn(self.tokenizer)
        # The end of a turn is the policy's own token, where it sampled one of its ends.
        if end is not None and last_token in {end, *stopping.token_ids} and end in token_ids:
            token_ids = token_ids[token_ids.index(end) + 1 :]
        elif last_token in stopping.token_ids and token_ids[:1] == [last_token]:
            # Nor is the token there twice that ends a turn because the next message begins with it.
            token_ids = token_ids[1:]
        return np.asarray(token_ids, dtype=np.int32)

    def _between(self, texts: Sequence[str]) -> str:
        messages = [
            {"role": "user", "content": _QUESTION},
            {"role": "assistant", "content": _ANSWER},
            *({"role": self.role, "content": text} for text in texts),
        ]
        text: str = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        _, found, between = text.partition(_ANSWER)
        if not found:
            raise ValueError("it leaves the assistant's message out")
        return between

    def _plain(self, text: str) -> str:
        """Break special tokens in an observation: it must not end a turn or begin another.

        Half of a surrogate pair, which JSON can spell and no tokenizer takes, becomes a "?".
        """
        text = text.encode(errors="replace").decode()
        for added in self.tokenizer.added_tokens_decoder.values():
            token = added.content
            if added.special and len(token) > 1:
                text = text.replace(token, f"{token[0]} {token[1:]}")
        return text
