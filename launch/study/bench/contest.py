"""Forward and backward of one optimiser step, laid out in two ways, in turns.

Both sides of a contest compute the same loss, and the gradients of their first turns are compared.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from conf.schema import RunConfig
from launch.study.bench.timing import ratio_of_medians, time_in_turns
from launch.study.bench.workload import Workload
from learner.batch import MicroBatch, Segment, collate
from learner.config import LearnerConfig
from learner.engine import StepOutcome
from learner.logprobs import PackedPolicy
from learner.loss import Loss
from learner.numerics import Numerics
from learner.objectives.types import Objective
from learner.partition import Work, plan_rows
from learner.policy import load_policy
from learner.update import Updater


class GradientEngine:
    """A `learner.engine.Engine` for one process that keeps the gradient instead of applying it."""

    num_ranks = 1

    def __init__(self, policy: PackedPolicy, device: torch.device) -> None:
        self._policy = policy
        self.device = device
        self.gradient: Tensor = torch.zeros(0)
        """The latest step's gradient, all parameters one after the other."""

    def logprobs(self, row: MicroBatch, *, entropy_gradient: bool = False) -> tuple[Tensor, Tensor]:
        """See `learner.engine.Engine`."""
        logprobs, entropies = self._policy(
            row.token_ids, row.position_ids, row.loss_mask, entropy_gradient
        )
        return logprobs, entropies

    def reference_logprobs(self, row: MicroBatch) -> Tensor:
        """See `learner.engine.Engine`; the losses timed here have no reference."""
        raise NotImplementedError

    def agree(self, value: bool) -> bool:
        """See `learner.engine.Engine`."""
        return value

    def gather(self, values: Tensor) -> Tensor:
        """See `learner.engine.Engine`."""
        return values

    def backward(self, loss: Tensor, *, boundary: bool) -> None:
        """See `learner.engine.Engine`."""
        torch.autograd.backward(loss)

    def step(self) -> StepOutcome:
        """Keep the gradient, clear the parameters' and leave the weights alone."""
        gradients = [p.grad.flatten() for p in self._policy.parameters() if p.grad is not None]
        self.gradient = torch.cat(gradients)
        self._policy.zero_grad(set_to_none=True)
        norm = self.gradient.float().norm().item()
        return StepOutcome(applied=True, grad_norm=norm, lr=0.0)


MOST_WORK = 5e11
"""Floating-point operations of a forward pass: about half a minute of learning for one core."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What all contests of a configuration have in common."""

    learner: LearnerConfig
    objective: Objective
    model_path: str
    numerics: Numerics
    seed: int
    work: Work
    """What a token takes of the model."""

    @classmethod
    def of(cls, config: RunConfig) -> Setting:
        """Take it out of a run's configuration."""
        return cls(
            learner=config.learner,
            objective=config.objective,
            model_path=config.model.path,
            numerics=config.numerics,
            seed=config.seed,
            work=Work.of_model(config.model.path),
        )

    def policy(self, device: torch.device) -> PackedPolicy:
        """Load a policy as the learner does."""
        model: Any = load_policy(self.model_path, self.learner, self.numerics)
        return PackedPolicy(
            model.to(device),
            self.numerics.temperature,
            logits_chunk_tokens=self.learner.logits_chunk_tokens,
        )


class Contest:
    """The same responses laid out in several ways, and the same weights for all."""

    def __init__(self, workload: Workload, setting: Setting, *, max_tokens: int) -> None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._setting, self._workload = setting, workload
        policy = setting.policy(device)
        self.engine = GradientEngine(policy, device)
        self._updater = Updater(self.engine, Loss(setting.objective))
        model: Any = policy.model
        segments = workload.segments(
            vocabulary=model.config.vocab_size,
            max_tokens=max_tokens,
            seed=setting.seed,
        )
        self.segments = [self._scored(segment) for segment in segments]
        self.lengths = [len(segment.token_ids) for segment in segments]

    @torch.no_grad()
    def _scored(self, segment: Segment) -> Segment:
        """Give a segment the policy's own log-probabilities, so that every ratio is 1."""
        row = collate([segment]).to(self.engine.device)
        return replace(segment, rollout_logprobs=self.engine.logprobs(row)[0].cpu().numpy())

    def rows(self, row_tokens: int, *, shared_prefix: bool) -> list[MicroBatch]:
        """Pack the responses on one rank."""
        if shared_prefix:
            [plan] = self._workload.plan(self.segments, 1, row_tokens, self._setting.work)
        else:
            [plan] = plan_rows(self.lengths, 1, row_tokens)
        return [
            collate([self.segments[item] for item in row], shared_prefix=shared_prefix)
            for row in plan
        ]

    def packed(self, rows: Sequence[MicroBatch]) -> Tensor:
        """Run the learner's own step over packed rows; returns the gradient."""
        self._updater.step(rows)
        return self.engine.gradient


def compete(
    run: Mapping[str, Callable[[], Tensor]], *, repetitions: int, warm_ups: int
) -> dict[str, Any]:
    """Time two sides in turns, and compare the gradients that they find first.

    Returns:
        Seconds, the second side's over the first side's, the same of the processor's seconds, and
        how far the gradients are apart.
    """
    first, second = run
    timed = time_in_turns(run, repetitions=repetitions, warm_ups=warm_ups)
    one, other = timed.first[first], timed.first[second]
    difference = ((one - other).abs().max() / other.abs().max()).item()
    seconds, processor = timed.seconds, timed.processor_seconds
    return {
        "median_seconds": {name: statistics.median(seconds[name]) for name in run},
        **ratio_of_medians(seconds[second], seconds[first]),
        "processor_ratio": ratio_of_medians(processor[second], processor[first])["ratio"],
        "gradients_agree": difference <= 1e-4,
        "gradient_relative_max_difference": difference,
        "gradient_norm": other.float().norm().item(),
        "repetitions_seconds": seconds,
    }
