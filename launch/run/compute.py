"""FLOPs of a batch: what engines generated, learners learned and scored, and probes took.

    reports, rows, probes -> Flops of a batch -> launch.run.budget

They are counted from lengths and the model's shape, so that the same responses give the same count
whatever machine they are made on. Starts, evaluations and saves do not count, nor attempts at
tickets that were given up: `cost/wasted_tokens` has those.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np

from conf.schema import RunConfig
from cost.prices.compute import generating, scoring
from cost.prices.shape import ModelShape
from cost.types import LengthReport
from launch.cli.refusals import UserError
from learner.compute import LearnerCompute


@dataclass(frozen=True, slots=True)
class Flops:
    """FLOPs of some learned batches.

    Example: Flops(generate=4e9, learn=9e9, score=0.0, probe=1e8, pilot=0.0)
    """

    generate: float = 0.0
    """By the engines, pilots and filtered groups included."""
    learn: float = 0.0
    """By the learners, in all passes."""
    score: float = 0.0
    """By the learners, for gradient norms and the reference in rewards."""
    probe: float = 0.0
    """Of parity probes."""
    pilot: float = 0.0
    """Of `generate`, for pilots."""

    def __add__(self, other: "Flops") -> "Flops":
        """Add part by part."""
        return Flops(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @property
    def total(self) -> float:
        """All of it."""
        return self.generate + self.learn + self.score + self.probe

    @property
    def again(self) -> float:
        """What further batches are expected to take: pilots are left out, a profile comes once."""
        return self.total - self.pilot

    def metrics(self) -> dict[str, float]:
        """Return all but the pilots' part under keys of `cost.prices.compute.METRICS`."""
        return {
            "cost/compute_flops": self.total,
            "cost/generate_flops": self.generate,
            "cost/learn_flops": self.learn,
            "cost/score_flops": self.score,
            "cost/probe_flops": self.probe,
        }


def compute_of(config: RunConfig) -> LearnerCompute | None:
    """Return what counts a run's FLOPs; None for a model whose shape its config.json does not say.

    Raises:
        UserError: If it does not say, and the run is to end by FLOPs.
    """
    try:
        return LearnerCompute(ModelShape.of_model(config.model.path), config.learner)
    except ValueError as error:
        if config.loop.max_compute_flops is None:
            return None
        raise UserError(
            "loop.max_compute_flops must be null for a model whose shape its config.json does not "
            f"say, or that has experts: {error}"
        ) from error


def generated(
    compute: LearnerCompute, reports: Sequence[LengthReport], pilots: frozenset[int]
) -> Flops:
    """Return the FLOPs of generating a batch's groups.

    Args:
        compute: What counts them.
        reports: Of all tickets drawn for it.
        pilots: Ids of those that were pilots.
    """
    flops = generating(compute.shape, reports).tolist()
    of_pilots = sum(f for f, r in zip(flops, reports, strict=True) if r.ticket_id in pilots)
    return Flops(generate=sum(flops), pilot=of_pilots)


def probed(shape: ModelShape, responses: Sequence[tuple[Any, Any]], num_scorers: int) -> float:
    """Return FLOPs of one parity check, nothing of whose prompts was cached.

    Args:
        shape: Of the model.
        responses: Prompt [T_prompt] and response [T] of each.
        num_scorers: How many engines and learners score them all.
    """
    total = 0.0
    for prompt, response in responses:
        total += float(scoring(shape, len(prompt), np.asarray([len(response)])).sum())
    return num_scorers * total
