"""Environments: what happens between a prompt and a finished trajectory.

    prompt -> play: generate -> (environment's own tokens -> generate -> ...) -> Trajectory

An environment sees tokens, never text that would have to be tokenised again: what the policy is
trained on is exactly what it sampled. Those of several turns are played by
`rollout.environments.turns`.
"""

import math
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from rollout.stopping import Stopping
from rollout.types import Completion, Prompt, TokenArray, Trajectory


class Generate(Protocol):
    """A function that continues a sequence with the policy."""

    async def __call__(self, token_ids: TokenArray, max_tokens: int) -> Completion:
        """Sample up to `max_tokens` tokens after `token_ids` [T] int32."""
        ...


@runtime_checkable
class Environment(Protocol):
    """The plug `environment`: plays one prompt once; plays of a group run at the same time.

    One that must know the policy's tokens may have a method
    `for_policy(tokenizer, stopping) -> Environment` as well: what it returns is what plays. It is
    called before anything starts, and again where the engine is, and raises a ValueError for a
    policy that it cannot be played with. One that offers tools may have
    `prompt_tokenizer(tokenizer)`, which returns the tokenizer that prompts are made with.
    """

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
        completion = await generate(prompt.token_ids, max_tokens)
        return Trajectory(
            token_ids=completion.token_ids,
            loss_mask=np.ones(len(completion.token_ids), dtype=np.bool_),
            rollout_logprobs=completion.rollout_logprobs,
            version_spans=completion.version_spans,
            truncated=completion.finish_reason == "length",
            prefill_tokens=len(prompt.token_ids) - completion.cached_tokens,
        )


def for_policy(environment: Any, tokenizer: Any, stopping: Stopping) -> Any:
    """Return what plays an environment with a policy: itself, unless it asks for its tokens.

    Raises:
        ValueError: If it cannot be played with the policy.
    """
    bind = getattr(environment, "for_policy", None)
    return environment if bind is None else bind(tokenizer, stopping)


def prompt_tokenizer(environment: Any, tokenizer: Any) -> Any:
    """Return the tokenizer that an environment wants prompts to be made with.

    Raises:
        ValueError: If the chat template has no place for what it must say.
    """
    make = getattr(environment, "prompt_tokenizer", None)
    return tokenizer if make is None else make(tokenizer)


def checked_play(played: Any) -> Trajectory:
    """Return what an environment played.

    Raises:
        TypeError: If it is no trajectory.
        ValueError: If its arrays do not fit together, or its reward is not finite.
    """
    if not isinstance(played, Trajectory):
        raise TypeError(
            f"environment.play must return a rollout.types.Trajectory, got {type(played).__name__}"
        )
    count = len(played.token_ids)
    for name in ("loss_mask", "rollout_logprobs"):
        if np.shape(getattr(played, name)) != (count,):
            raise ValueError(
                f"environment.play must return {name} for each of its {count} tokens, "
                f"got shape {np.shape(getattr(played, name))}"
            )
    if played.reward is not None and not math.isfinite(played.reward):
        raise ValueError(f"environment.play must return a finite reward, got {played.reward!r}")
    return played
