"""Plays of several turns: what the policy says, what the game answers, and so on to the end.

    prompt -> [generate -> game.step(text) -> Reply -> tokens in between] x turns -> Trajectory

Token in, token out: what was sampled goes back to the engine as it was, and into the trajectory;
the chat template adds only what stands between two turns (`rollout.environments.bridge`). While
one play waits for its game the engine generates for the others.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from cost.ranges import SECONDS, count, require_ranges
from cost.types import PlayEnd
from rollout.clocks import LateError, limited
from rollout.environments import Generate
from rollout.environments.bridge import ROLES, Bridge
from rollout.environments.record import Record
from rollout.raised import PACKAGE, told
from rollout.stopping import Stopping
from rollout.threads import in_thread
from rollout.types import Prompt, TokenArray, Trajectory


@dataclass(frozen=True, slots=True)
class Reply:
    """What the policy reads next; a text alone does as well.

    Example: Reply(texts=("42", "Error: there is no tool 'add'"), calls=2, failed_calls=1).
    """

    texts: Sequence[str] = ()
    """One message each, by the environment's role."""
    token_ids: Sequence[int] | None = None
    """In place of texts: the very tokens up to the policy's next, template and all."""
    calls: int = 0
    """Calls of tools that the policy's turn made."""
    failed_calls: int = 0
    """Of these, bad ones and those that the tool refused."""


@dataclass(frozen=True, slots=True)
class End:
    """The play is over.

    Example: End(reward=1.0).
    """

    reward: float | None = None
    """What the play is worth, finite; None to have the reward plug score the policy's last turn."""


@runtime_checkable
class Game(Protocol):
    """What a policy plays in turns; each play has a copy of its own, to keep its state in.

    Either method may be a plain function, which then runs in a thread. An exception ends the play
    as a failure: it is counted, left out of its group, and told with its text. It may have a method
    `close` as well, which is called at the end of each play, whatever ended it, and an attribute
    `reads_special_tokens`; where that is true, the text of a turn has them.
    """

    def reset(self, prompt: Prompt) -> Any:
        """Begin; what it returns is of no meaning."""
        ...

    def step(self, response: str) -> Any:
        """Return a Reply or its text, or End, to one turn of the policy.

        Args:
            response: The turn, decoded, without what ended it and without special tokens.
        """
        ...


@dataclass(frozen=True)
class TurnEnvironment:
    """The environment of several turns: plays a game.

    Raises:
        ValueError: If a setting is out of range, or the game lacks `reset` or `step`.
    """

    game: Any
    """The `Game`, an object that can be copied."""
    max_turns: int = 8
    """Turns after which a play ends, whatever the game says."""
    role: str = "tool"
    """Whose messages the game's texts are in the chat template: "tool" or "user"."""
    step_timeout_seconds: float = 60.0
    """Longest time of one `reset` or `step`, without what it waits for a thread or a sandbox;
    beyond it the play has failed."""

    def __post_init__(self) -> None:
        """Refuse settings that are out of range, and games that are none."""
        ranges = {"max_turns": count(10_000), "step_timeout_seconds": SECONDS}
        require_ranges("environment.", self, ranges)
        if self.role not in ROLES:
            raise ValueError(f"environment.role must be tool or user, got {self.role!r}")
        if not isinstance(self.game, Game):
            raise ValueError(
                f"environment.game must be an object with the methods reset and step, "
                f"got {self.game!r}"
            )
        try:
            copy.deepcopy(self.game)
        except Exception as error:
            raise ValueError(
                "environment.game must be an object that can be copied for each play; open what "
                "cannot, such as a client or a lock, in reset, or give the class a __deepcopy__, "
                f"got {type(self.game).__name__} ({error})"
            ) from error

    def for_policy(self, tokenizer: Any, stopping: Stopping) -> TurnPlayer:
        """Return what plays it with a policy.

        Raises:
            ValueError: If its chat template cannot render what the game says.
        """
        bridge = Bridge(tokenizer, self.role)
        bridge.check()
        return TurnPlayer(self, bridge, stopping)

    async def play(self, generate: Generate, prompt: Prompt, max_tokens: int) -> Trajectory:
        """Refuse: only what `for_policy` returns knows the policy's tokens."""
        raise RuntimeError("TurnEnvironment.play needs the policy's tokens: call for_policy first")


@dataclass(frozen=True, slots=True)
class Node:
    """Where a play stood before a turn of the policy, to be played on from more than once."""

    game: Any
    record: Record


@dataclass(frozen=True)
class TurnPlayer:
    """A `TurnEnvironment` with the policy that plays it."""

    settings: TurnEnvironment
    bridge: Bridge
    stopping: Stopping

    async def play(self, generate: Generate, prompt: Prompt, max_tokens: int) -> Trajectory:
        """Play one game to its end; see `rollout.environments.Environment`."""
        return await self.play_on(generate, prompt, max_tokens, None, None)

    async def play_on(
        self,
        generate: Generate,
        prompt: Prompt,
        max_tokens: int,
        start: Node | None,
        nodes: list[Node | None] | None,
    ) -> Trajectory:
        """Play from a node, or from the prompt, to the end.

        Args:
            generate: See `rollout.environments.Environment`.
            prompt: Likewise.
            max_tokens: Likewise; those before the node count.
            start: A node of another play; None for the prompt.
            nodes: Gets one for each turn of this play, None where the game cannot be copied; None
                to make none.
        """
        game = copy.deepcopy(self.settings.game if start is None else start.game)
        try:
            if start is not None:
                return await self._go_on(
                    game, start.record.taken_over(), generate, max_tokens, nodes
                )
            record = Record(prompt.token_ids)
            try:
                await self._call(game.reset, prompt)
            except Exception as error:
                return record.failed(self._told("reset", error))
            return await self._go_on(game, record, generate, max_tokens, nodes)
        finally:
            if hasattr(game, "close"):
                with contextlib.suppress(Exception):
                    await self._call(game.close)

    async def _go_on(
        self,
        game: Any,
        record: Record,
        generate: Generate,
        max_tokens: int,
        nodes: list[Node | None] | None,
    ) -> Trajectory:
        while True:
            if nodes is not None:
                nodes.append(_node(game, record))
            completion = await generate(record.sequence, max_tokens - record.length)
            record.add_turn(completion)
            if completion.finish_reason == "length":
                return record.ended(PlayEnd.TOKENS)
            own = completion.token_ids.tolist()
            began = time.monotonic()
            try:
                answer = await self._call(game.step, self._said(own))
                found = as_answer(answer)
                between = None if isinstance(found, End) else self._between(found, own)
            except Exception as error:
                record.step_took(time.monotonic() - began)
                return record.failed(self._told("step", error))
            calls = (found.calls, found.failed_calls) if isinstance(found, Reply) else ()
            record.step_took(time.monotonic() - began, *calls)
            if isinstance(found, End):
                return record.ended(PlayEnd.ANSWER, found.reward)
            if len(record.turns) == self.settings.max_turns:
                return record.ended(PlayEnd.MAX_TURNS)
            assert between is not None
            if record.length + len(between) >= max_tokens:
                return record.ended(PlayEnd.TOKENS)
            record.add_environment(between)

    def _said(self, own: Sequence[int]) -> str:
        special = getattr(self.settings.game, "reads_special_tokens", False)
        return self.stopping.text(self.bridge.tokenizer, own, special_tokens=special)

    def _between(self, reply: Reply, own: Sequence[int]) -> TokenArray:
        if reply.token_ids is not None:
            return np.asarray(reply.token_ids, dtype=np.int32)
        return self.bridge.tokens(reply.texts, own[-1] if own else -1, self.stopping)

    async def _call(self, method: Callable[..., Any], *arguments: Any) -> Any:
        async with limited(self.settings.step_timeout_seconds):
            if inspect.iscoroutinefunction(method):
                return await method(*arguments)
            return await in_thread(method, *arguments)

    def _told(self, name: str, error: Exception) -> str:
        game = type(self.settings.game).__name__
        if isinstance(error, LateError):
            limit = self.settings.step_timeout_seconds
            return (
                f"environment.game: {game}.{name} took longer than "
                f"environment.step_timeout_seconds = {limit:g}"
            )
        return f"environment.game: {game}.{name} {told(error, PACKAGE)}"


def _node(game: Any, record: Record) -> Node | None:
    try:
        return Node(copy.deepcopy(game), copy.deepcopy(record))
    except Exception:
        # A game that holds what cannot be copied once it is played.
        return None


def as_answer(answer: Any) -> Reply | End:
    """Return what a game answered as a Reply or an End.

    Raises:
        TypeError: If it is neither, nor a text.
        ValueError: If a reply says nothing, or a reward is not finite.
    """
    if isinstance(answer, str):
        answer = Reply((answer,))
    if isinstance(answer, End):
        if answer.reward is not None and not math.isfinite(answer.reward):
            raise ValueError(f"End.reward must be finite, got {answer.reward!r}")
        return answer
    if not isinstance(answer, Reply):
        raise TypeError(f"step must return a text, a Reply or an End, got {answer!r:.100}")
    if answer.token_ids is None:
        # The letters of a text are texts too.
        texts = () if isinstance(answer.texts, str) else answer.texts
        if not texts or not all(isinstance(text, str) for text in texts):
            raise ValueError(
                f"Reply.texts must be a list of one text or more, got {answer.texts!r:.100}"
            )
    elif len(answer.token_ids) == 0:
        raise ValueError("Reply.token_ids must not be empty, got none")
    return answer
