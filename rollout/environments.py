"""Environments: what happens between a prompt and a finished trajectory.

    prompt -> play: generate -> (environment's own tokens -> generate -> ...) -> Trajectory

An environment sees tokens, never text that would have to be tokenised again: what the policy is
trained on is exactly what it sampled.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from rollout.types import Completion, Prompt, TokenArray, Trajectory


class Generate(Protocol):
    """A function that continues a sequence with the policy."""

    async def __call__(self, token_ids: TokenArray, max_tokens: int) -> Completion:
        """Sample up to `max_tokens` tokens after `token_ids` [T] int32."""
        ...


@runtime_checkable
class Environment(Protocol):
    """The plug `environment`: plays one prompt once; plays of a group run at the same time."""

    async def play(self, generate: Generate, prompt: Prompt, max_tokens: int) -> Trajectory:
        """Call `generate` as often as the game asks for, and gather what came after the prompt.

        Args:
            generate: Continues a sequence with the policy. Each call is a turn, with chances of
                its own: the k-th one's depend on run, ticket, response and k, so that a play is
                repeated to the token as long as it calls in the same order.
            prompt: Where the play begins.
            max_tokens: Largest number of tokens in the trajectory, the environment's included.
        """
        ...


@dataclass(frozen=True, slots=True)
class SingleTurn:
    """The environment of one question and one response."""

    async def play(self, generate: Generate, prompt: Prompt, max_tokens: int) -> Trajectory:
        """Generate once; every token is the policy's own."""
        return one_turn(prompt, await generate(prompt.token_ids, max_tokens))


def one_turn(prompt: Prompt, completion: Completion) -> Trajectory:
    """Return the play of a prompt and one completion, all of which the policy wrote."""
    return Trajectory(
        token_ids=completion.token_ids,
        loss_mask=np.ones(len(completion.token_ids), dtype=np.bool_),
        rollout_logprobs=completion.rollout_logprobs,
        version_spans=completion.version_spans,
        truncated=completion.finish_reason == "length",
        prefill_tokens=len(prompt.token_ids) - completion.cached_tokens,
    )
