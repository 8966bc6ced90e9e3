"""What a play of several turns has come to so far, token by token."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np

from cost.types import PlayEnd
from rollout.types import Completion, MaskArray, TokenArray, Trajectory, Turn, VersionSpan


class Record:
    """What a play has come to so far."""

    def __init__(self, prompt_ids: TokenArray) -> None:
        self._num_prompt = len(prompt_ids)
        self._parts: list[TokenArray] = [prompt_ids]
        self._masks: list[MaskArray] = []
        self._logprobs: list[np.ndarray] = []
        self._spans: list[VersionSpan] = []
        self._prefilled = 0
        self.length = 0
        """Tokens after the prompt."""
        self.turns: list[Turn] = []
        self._inherited = 0

    def taken_over(self) -> Record:
        """Return a copy for another play, which the engine and the game did nothing for so far."""
        other = copy.deepcopy(self)
        other._prefilled = 0
        other._inherited = sum(turn.end - turn.start for turn in self.turns)
        other.turns = [replace(turn, prefill_tokens=0, seconds=0.0) for turn in self.turns]
        return other

    @property
    def sequence(self) -> TokenArray:
        """[T] int32 prompt and everything after it."""
        self._parts = [np.concatenate(self._parts).astype(np.int32)]
        return self._parts[0]

    def add_turn(self, completion: Completion) -> None:
        """Add what the policy sampled after `sequence`."""
        size = len(completion.token_ids)
        start = self.length
        prefilled = self._num_prompt + start - completion.cached_tokens
        self._prefilled += prefilled
        self._add(completion.token_ids, completion.rollout_logprobs, own=True)
        self._spans += [
            replace(span, start=span.start + start, end=span.end + start)
            for span in completion.version_spans
        ]
        self.turns.append(Turn(start, start + size, prefilled))

    def step_took(self, seconds: float, calls: int = 0, failed: int = 0) -> None:
        """Enter how long the environment's step after the last turn took, and its calls."""
        self.turns[-1] = replace(self.turns[-1], seconds=seconds, calls=calls, failed_calls=failed)

    def add_environment(self, token_ids: TokenArray) -> None:
        """Add what the environment says after the last turn."""
        self._add(token_ids, np.zeros(len(token_ids), np.float32), own=False)

    def ended(self, ending: PlayEnd, reward: float | None = None) -> Trajectory:
        """Return the play as it ended."""
        return Trajectory(
            token_ids=self.sequence[self._num_prompt :],
            loss_mask=np.concatenate([np.zeros(0, np.bool_), *self._masks]),
            rollout_logprobs=np.concatenate([np.zeros(0, np.float32), *self._logprobs]),
            version_spans=tuple(self._spans),
            truncated=ending == PlayEnd.TOKENS,
            prefill_tokens=self._prefilled,
            turns=tuple(self.turns),
            inherited_tokens=self._inherited,
            ending=ending,
            reward=None if reward is None else float(reward),
        )

    def failed(self, failure: str) -> Trajectory:
        """Return the play as it failed."""
        return replace(self.ended(PlayEnd.FAILURE), failure=failure)

    def _add(self, token_ids: TokenArray, logprobs: np.ndarray, *, own: bool) -> None:
        self._parts.append(token_ids)
        self._masks.append(np.full(len(token_ids), own, dtype=np.bool_))
        self._logprobs.append(logprobs)
        self.length += len(token_ids)
