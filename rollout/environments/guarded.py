"""Plays of anybody's environment: what it raises costs this play, and not the run.

play -> generate, which is noted -> the engine
  +---- raises ----> a Trajectory that failed, with all that was generated for it
"""

from __future__ import annotations

import numpy as np

from rollout.environments import Environment, Generate
from rollout.environments.record import Record
from rollout.raised import PACKAGE, told
from rollout.types import Completion, Prompt, TokenArray, Trajectory


async def play_guarded(
    environment: Environment, generate: Generate, prompt: Prompt, max_tokens: int
) -> Trajectory:
    """Return what an environment played, or that it failed, with its text and tokens.

    Args:
        environment: Whose `play` may raise anything.
        generate: See `rollout.environments.Environment`; what it raises itself is the engine's
            failure, and is raised on. A ValueError is not: it refuses what it was asked for.
        prompt: Likewise.
        max_tokens: Likewise.
    """
    calls: list[tuple[TokenArray, Completion]] = []
    failures: list[Exception] = []

    async def noted(token_ids: TokenArray, max_tokens: int) -> Completion:
        try:
            completion = await generate(token_ids, max_tokens)
        except ValueError:
            # Such as for no tokens more, or after a text that is longer than the context.
            raise
        except Exception as error:
            failures.append(error)
            raise
        calls.append((token_ids, completion))
        return completion

    try:
        return await environment.play(noted, prompt, max_tokens)
    except Exception as error:
        if failures:
            raise failures[0] from None
        name = getattr(environment, "path", type(environment).__name__)
        record = _recorded(prompt, calls)
        return record.failed(f"environment: {name} {told(error, PACKAGE)}")


def _recorded(prompt: Prompt, calls: list[tuple[TokenArray, Completion]]) -> Record:
    """Put the turns one behind the other, with what the environment said in between."""
    record = Record(prompt.token_ids)
    for token_ids, completion in calls:
        so_far = record.sequence
        if np.array_equal(token_ids[: len(so_far)], so_far):
            record.add_environment(np.asarray(token_ids[len(so_far) :], dtype=np.int32))
        record.add_turn(completion)
    return record
