"""What the learner's benches learn from: responses to prompts, in groups, of random tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from conf.schema import RunConfig
from learner.batch import Segment
from learner.partition import Work, plan_rows
from learner.policy import load_policy

MOST_WORK = 5e11
"""Floating-point operations of a forward pass: about half a minute of learning for one core."""


@dataclass(frozen=True, slots=True)
class Workload:
    """Responses of lognormal length to prompts of uniform length, in groups."""

    num_responses: int = 64
    group_size: int = 8
    """Responses that follow each other and share a prompt."""
    mean_tokens: float = 74.0
    """Mean response length before the cut at the response limit."""
    sigma: float = 0.6
    """Standard deviation of the logarithm of the response length."""
    prompt_tokens: tuple[int, int] = (20, 40)
    """Shortest and longest prompt."""

    def segments(self, *, vocabulary: int, max_tokens: int, seed: int) -> list[Segment]:
        """Draw the responses: random tokens and sequence-mean weights."""
        rng = np.random.default_rng([seed, self.num_responses])
        centre = np.log(self.mean_tokens) - self.sigma**2 / 2
        drawn = rng.lognormal(centre, self.sigma, self.num_responses)
        lengths = np.clip(np.rint(drawn).astype(int), 1, max_tokens)
        shortest, longest = self.prompt_tokens
        num_groups = -(-self.num_responses // self.group_size)
        sizes = rng.integers(shortest, longest + 1, num_groups)
        prompts = [rng.integers(0, vocabulary, size) for size in sizes]
        segments = []
        for item, length in enumerate(lengths):
            prompt = prompts[item // self.group_size]
            total = len(prompt) + length
            segments.append(
                Segment(
                    token_ids=np.concatenate([prompt, rng.integers(0, vocabulary, length)]),
                    loss_mask=np.arange(total) >= len(prompt),
                    rollout_logprobs=np.zeros(total, np.float32),
                    advantage=1.0,
                    loss_weight=1.0 / (self.num_responses * length),
                    num_prompt_tokens=len(prompt),
                )
            )
        return segments

    def within(self, work: Work, most: float = MOST_WORK) -> Workload:
        """Leave out groups, all but one if need be, until a step takes at most `most`.

        Args:
            work: What a token takes.
            most: Work of one forward pass, prompts repeated, in the unit of `work`.
        """
        prompt = sum(self.prompt_tokens) // 2
        of_response = work.of_prompt(prompt) + work.of_response(prompt, round(self.mean_tokens))
        num_groups = max(1, int(most / (self.group_size * of_response)))
        return replace(self, num_responses=min(self.num_responses, num_groups * self.group_size))

    def prompts(self, segments: Sequence[Segment]) -> list[tuple[int, int]]:
        """Return the number and the tokens of each segment's prompt."""
        return [
            (item // self.group_size, segment.num_prompt_tokens)
            for item, segment in enumerate(segments)
        ]

    def plan(
        self, segments: Sequence[Segment], num_ranks: int, row_tokens: int, work: Work
    ) -> list[list[list[int]]]:
        """Plan the rows of segments whose groups share their prompts."""
        lengths = [len(segment.token_ids) for segment in segments]
        return plan_rows(lengths, num_ranks, row_tokens, prompts=self.prompts(segments), work=work)


def load_model(config: RunConfig, device: torch.device) -> Any:
    """Load the run's model as its learner does."""
    model: Any = load_policy(config.model.path, config.learner, config.numerics)
    return model.to(device)


def best_device() -> torch.device:
    """Return the GPU, or the CPU without one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def wait_for(model: nn.Module) -> None:
    """Wait until a GPU has done what it was given; a CPU has."""
    if next(model.parameters()).is_cuda:
        torch.cuda.synchronize()
