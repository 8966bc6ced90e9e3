"""Plays of anybody's environment: what it raises costs this play, and not the run.

play -> generate, which records -> the engine
  +---- raises ----> a Trajectory that failed, with all that was generated for it
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rollout.environments import Environment, Generate
from rollout.environments.record import Record
from rollout.raised import own_frames
from rollout.types import Completion, Prompt, TokenArray, Trajectory

_PACKAGE = str(Path(__file__).resolve().parents[1])


async def play_guarded(
    environment: Environment, generate: Generate, prompt: Prompt, max_tokens: int
) -> Trajectory:
    """Return what an environment played, or that it failed, with its text and tokens.

    Args:
        environment: Whose `play` may raise anything.
        generate: See `rollout.environments.Environment`; what it raises itself is the engine's
            failure, and is raised on.
        prompt: Likewise.
        max_tokens: Likewise.
    """
    record = Record(prompt.token_ids)
    failures: list[Exception] = []

    async def recorded(token_ids: TokenArray, max_tokens: int) -> Completion:
        try:
            completion = await generate(token_ids, max_tokens)
        except Exception as error:
            failures.append(error)
            raise
        so_far = record.sequence
        if np.array_equal(token_ids[: len(so_far)], so_far):
            record.add_environment(np.asarray(token_ids[len(so_far) :], dtype=np.int32))
        record.add_turn(completion)
        return completion

    try:
        return await environment.play(recorded, prompt, max_tokens)
    except Exception as error:
        if failures:
            raise failures[0] from None
        return record.failed(_told(environment, error))


def _told(environment: Environment, error: Exception) -> str:
    name = getattr(environment, "path", type(environment).__name__)
    raised = f"environment: {name} raised {type(error).__name__}: {error}"
    frames = own_frames(error.__traceback__, _PACKAGE)
    return f"{raised} ({frames[-1].filename}:{frames[-1].lineno})" if frames else raised
