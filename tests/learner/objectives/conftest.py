"""Losses and gradients of an objective on a row of given ratios."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from learner.objectives.types import LossInputs, Objective, ObjectiveOutput

RATIOS = (0.01, 0.05, 0.5, 0.79, 0.81, 1.0, 1.19, 1.21, 1.27, 1.29, 2.0, 4.9, 5.1, 9.0, 11.0, 40.0)
GRID = [(r, a) for r in RATIOS for a in (-1.5, 0.0, 2.0)]


@pytest.fixture(scope="session")
def grid() -> list[tuple[float, float]]:
    """Pairs of a ratio and an advantage, of both signs and zero."""
    return GRID


@pytest.fixture(scope="session")
def run() -> Callable[..., tuple[ObjectiveOutput, Tensor]]:
    """run(objective, ratios, advantages, ...) -> output, d sum of losses / d learner_logprobs."""

    def run_objective(
        objective: Objective,
        ratios: Sequence[float],
        advantages: Sequence[float],
        *,
        probabilities: Sequence[float] | None = None,
        segment_ids: Sequence[int] | None = None,
        loss_mask: Sequence[bool] | None = None,
    ) -> tuple[ObjectiveOutput, Tensor]:
        size = len(ratios)
        rollout = torch.tensor(probabilities or [0.3] * size, dtype=torch.float64).log()
        learner = rollout + torch.tensor(ratios, dtype=torch.float64).log()
        learner.requires_grad_()
        inputs = LossInputs(
            learner_logprobs=learner,
            rollout_logprobs=rollout,
            advantages=torch.tensor(advantages, dtype=torch.float64),
            segment_ids=torch.tensor(segment_ids or range(size)),
            loss_mask=torch.tensor(loss_mask or [True] * size),
        )
        output = objective.token_losses(inputs)
        (gradient,) = torch.autograd.grad(output.token_losses.sum(), learner)
        return output, gradient

    return run_objective


@pytest.fixture(scope="session")
def gradient_factors(run: Callable[..., tuple[ObjectiveOutput, Tensor]]) -> Callable[..., None]:
    """gradient_factors(objective, closed_form): compare F(r, A) on the grid, by autograd."""

    def compare(objective: Objective, closed_form: Callable[[float, float], float]) -> None:
        ratios, advantages = zip(*GRID, strict=True)
        _, gradient = run(objective, ratios, advantages)
        for (r, a), got in zip(GRID, gradient.tolist(), strict=True):
            expected = -a * closed_form(r, a) if a else 0.0
            assert got == pytest.approx(expected, rel=1e-9, abs=1e-12), (r, a)

    return compare
