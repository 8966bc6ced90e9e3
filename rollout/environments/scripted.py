"""Plays whose policy follows a script: what a warm start teaches, made by the environment itself.

    prompt -> [script's turn -> environment -> tokens in between] x turns -> Trajectory

The environment plays as it does with an engine; only the tokens of the policy's turns come from
texts. What is learned from such a play is what training would have gathered, masks included.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cost.types import PlayEnd
from rollout.environments import checked_play
from rollout.stopping import end_of_turn
from rollout.types import Completion, Prompt, TokenArray, Trajectory, VersionSpan

Script = Callable[[str, str], Sequence[str]]
"""(question, answer) -> the policy's turns, in their order; what they are answered is not its
business."""


def scripted_play(
    player: Any, tokenizer: Any, prompt: Prompt, script: Script, max_tokens: int
) -> Trajectory:
    """Play a prompt with the turns of a script.

    Args:
        player: What plays the environment with the policy, see `rollout.environments.for_policy`.
        tokenizer: The policy's.
        prompt: Where the play begins.
        script: Writes the turns.
        max_tokens: Largest number of tokens in the trajectory, the environment's included.

    Raises:
        ValueError: If the script is no list of texts, or the play does not end with its last turn.
    """
    turns = script(prompt.text, prompt.answer)
    if isinstance(turns, str) or not turns or not all(isinstance(each, str) for each in turns):
        raise ValueError(f"script must return a list of texts, got {turns!r:.100}")
    end = end_of_turn(tokenizer)
    tail = [tokenizer.eos_token_id if end is None else end]
    said = [[*tokenizer.encode(text, add_special_tokens=False), *tail] for text in turns]
    used = 0

    async def generate(token_ids: TokenArray, max_tokens: int) -> Completion:
        nonlocal used
        if used == len(said):
            raise ValueError(_fault(prompt, "goes on after it"))
        own = np.asarray(said[used], dtype=np.int32)[:max_tokens]
        reason = "stop" if len(own) == len(said[used]) else "length"
        used += 1
        spans = (VersionSpan(0, len(own), 0),)
        return Completion(own, np.zeros(len(own), np.float32), reason, spans, 0)

    played = checked_play(asyncio.run(player.play(generate, prompt, max_tokens)))
    if played.end == PlayEnd.FAILURE:
        raise ValueError(f"{played.failure}, for the question {prompt.text[:80]!r}")
    if played.end != PlayEnd.ANSWER or used < len(said):
        why = f"ended by {played.end.name.lower()} after {used} of {len(said)} turns"
        raise ValueError(_fault(prompt, why))
    return played


def _fault(prompt: Prompt, why: str) -> str:
    return (
        "script must end the play with its last turn, within the limits of environment and tokens; "
        f"change its turns, got one for {prompt.text[:80]!r} that {why}"
    )
