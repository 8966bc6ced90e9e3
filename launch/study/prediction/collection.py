"""What is sampled once and judged often: responses to every prompt, and products of gradients."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from conf.prediction import PredictConfig
from cost.state_file import load_state, save_state
from cost.types import FloatArray, IntArray
from launch.cli.refusals import UserError
from launch.record.counter import Counter

if TYPE_CHECKING:
    from learner.probe_policy import ProbePolicy, Tokens

DAMPING = 0.01
"""Of Adam's divisor, as a share of its mean: what a parameter that no gradient moved is given."""
ROWS = 384
"""Responses sampled at a time."""
SETTINGS, PROMPTS = "settings", "prompts"
"""Entries of the file beside those of `Collected`: what it was sampled with, and from."""


@dataclass(frozen=True, slots=True)
class Collected:
    """Everything of N prompts with m responses each that the study looks at."""

    prompt_tokens: IntArray
    """[N]"""
    rewards: FloatArray
    """[N, m]"""
    lengths: IntArray
    """[N, m] tokens."""
    surprise: FloatArray
    """[N, m] sums over tokens of (1 - probability)^2."""
    products: FloatArray
    """[N, m, m] inner products of the gradients of the responses' mean log-probabilities, 0 for
    prompts all of whose rewards are equal; the root of surprise over length on the diagonal, and 0
    beside it, where no gradients were taken."""
    adam_products: FloatArray
    """[N, m, m] the same of gradients divided by the root of their second moment over groups."""
    states: FloatArray
    """[N, H] of the prompts; see `ProbePolicy.prompt_state`."""
    entropies: FloatArray
    """[N] of the first token."""

    @property
    def num_prompts(self) -> int:
        """N."""
        return len(self.prompt_tokens)


def collected(
    config: PredictConfig,
    prompts: Sequence[Any],
    policy: Callable[[], ProbePolicy],
    rewards_of: Callable[[Sequence[Sequence[Tokens]]], FloatArray],
) -> Collected:
    """Read what was sampled before, or sample it and write it.

    Args:
        config: What to sample, and the file.
        prompts: N prompts.
        policy: Loads the model.
        rewards_of: Scores all responses: [N, m].

    Raises:
        UserError: If the file is of other prompts or settings, or another number of responses.
    """
    path = None if config.data is None else Path(config.data)
    if path is None or not path.exists():
        found = _collect(config, [prompt.token_ids for prompt in prompts], policy(), rewards_of)
        if path is not None:
            columns = {each.name: getattr(found, each.name) for each in fields(found)}
            save_state(path, {SETTINGS: sampled_with(config), PROMPTS: digest(prompts)} | columns)
        return found
    try:
        state = load_state(path)
        there, of_prompts = state.pop(SETTINGS), state.pop(PROMPTS)
        found = Collected(**state)
        if not all(isinstance(each, np.ndarray) for each in state.values()):
            raise TypeError
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise UserError(
            f"data must be a file that launch.predict of this version wrote, got {config.data!r}"
        ) from error
    for key, asked in sampled_with(config).items():
        if (before := there.get(key) if isinstance(there, dict) else None) != asked:
            raise UserError(
                f"data must be of responses sampled with {key}={asked}; choose another file to "
                f"sample anew, got {config.data!r} with {before!r:.200}"
            )
    shape = (len(prompts), config.num_responses)
    if found.rewards.shape != shape:
        raise UserError(
            f"data must hold {shape[1]} responses to each of the {shape[0]} prompts of the task; "
            f"choose another file to sample anew, got {found.rewards.shape} in {config.data!r}"
        )
    if of_prompts != digest(prompts):
        raise UserError(
            "data must hold responses to the prompts of the task; choose another file to sample "
            f"anew, got those to others in {config.data!r}"
        )
    return found


def digest(prompts: Sequence[Any]) -> str:
    """Return what differs where tokens or answers of the prompts do."""
    told = [(np.asarray(prompt.token_ids).tolist(), prompt.answer) for prompt in prompts]
    return hashlib.sha256(repr(told).encode()).hexdigest()


def sampled_with(config: PredictConfig) -> dict[str, Any]:
    """Return by key the settings that what is sampled and its gradients depend on."""
    return {
        "model.path": config.model.path,
        "reward": re.sub(r" at 0x[0-9a-f]+", "", repr(config.reward)),
        "group_size": config.group_size,
        "max_tokens": config.max_tokens,
        "temperature": config.temperature,
        "seed": config.seed,
        "gradients": config.gradients,
    }


def _collect(
    config: PredictConfig,
    token_ids: Sequence[Any],
    policy: ProbePolicy,
    rewards_of: Callable[[Sequence[Sequence[Tokens]]], FloatArray],
) -> Collected:
    sampled = _sample(config, token_ids, policy)
    rewards = rewards_of(sampled)
    lengths = np.array([[len(response) for response in group] for group in sampled])
    surprise = np.zeros(rewards.shape)
    with Counter("surprise", len(sampled), "prompts") as counter:
        for i, (prompt, group) in enumerate(zip(token_ids, sampled, strict=True)):
            for j, response in enumerate(group):
                logprobs = policy.token_scores(prompt, response).logprobs
                surprise[i, j] = float(((1 - np.exp(logprobs)) ** 2).sum())
            counter.to(i + 1)
    if config.gradients:
        products, adam_products = _products(config, token_ids, sampled, rewards, policy)
    else:
        squares = surprise / np.maximum(lengths, 1) ** 2
        products = adam_products = squares[:, :, None] * np.eye(rewards.shape[1])
    states, entropies = zip(*(policy.prompt_state(prompt) for prompt in token_ids), strict=True)
    return Collected(
        prompt_tokens=np.array([len(prompt) for prompt in token_ids]),
        rewards=rewards,
        lengths=lengths,
        surprise=surprise,
        products=products,
        adam_products=adam_products,
        states=np.stack(states).astype(np.float64),
        entropies=np.array(entropies),
    )


def _sample(
    config: PredictConfig, token_ids: Sequence[Any], policy: ProbePolicy
) -> list[list[Tokens]]:
    """Sample m responses to every prompt; those of about one length go together."""
    sampled: list[list[Tokens]] = [[] for _ in token_ids]
    order = np.argsort([len(prompt) for prompt in token_ids], kind="stable")
    rng = np.random.default_rng(config.seed)
    num_prompts = max(ROWS // config.group_size, 1)
    num_groups, done = config.num_responses // config.group_size, 0
    with Counter("sampling responses", len(order) * num_groups, "groups") as counter:
        for start in range(0, len(order), num_prompts):
            part = order[start : start + num_prompts]
            for _ in range(num_groups):
                answers = policy.sample(
                    [token_ids[i] for i in part],
                    num_samples=config.group_size,
                    max_tokens=config.max_tokens,
                    seed=int(rng.integers(2**31)),
                )
                for i, group in zip(part, answers, strict=True):
                    sampled[i] += group
                done += len(part)
                counter.to(done)
    return sampled


def _products(
    config: PredictConfig,
    token_ids: Sequence[Any],
    sampled: Sequence[Sequence[Tokens]],
    rewards: FloatArray,
    policy: ProbePolicy,
) -> tuple[FloatArray, FloatArray]:
    """Return the products of gradients, plain and in Adam's metric."""
    import torch

    def gradients(i: int, count: int) -> Any:
        rows = [policy.gradient(token_ids[i], one) / len(one) for one in sampled[i][:count]]
        return torch.stack(rows)

    moment = policy.zeros()
    size = config.group_size
    with Counter("second moment of gradients", len(rewards), "prompts") as counter:
        for i, group in enumerate(standardised(rewards[:, :size])):
            if group.any():
                advantages = torch.from_numpy(group / size).float()
                moment += (advantages @ gradients(i, size)).square()
            counter.to(i + 1)
    divisor = (moment / len(rewards)).sqrt()
    divisor += DAMPING * divisor.mean()
    num_prompts, num_responses = rewards.shape
    plain = np.zeros((num_prompts, num_responses, num_responses))
    adam = np.zeros_like(plain)
    mixed = np.flatnonzero(np.ptp(rewards, axis=1) > 0).tolist()
    with Counter("gradients", len(mixed), "prompts") as counter:
        for done, i in enumerate(mixed, 1):
            rows = gradients(i, num_responses)
            plain[i] = (rows @ rows.T).numpy()
            rows /= divisor
            adam[i] = (rows @ rows.T).numpy()
            counter.to(done)
    return plain, adam


def standardised(rewards: FloatArray) -> FloatArray:
    """Return the advantages of groups of n, [..., n]; 0 where all rewards are equal."""
    deviations = rewards.std(axis=-1, keepdims=True)
    centred = rewards - rewards.mean(axis=-1, keepdims=True)
    zero: FloatArray = np.zeros_like(centred)
    np.divide(centred, deviations, out=zero, where=deviations > 0)
    return zero
