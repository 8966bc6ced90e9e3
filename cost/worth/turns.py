"""What the turns of a response are expected to add to its cost, prompt by prompt.

visits -> TurnCounts.update -> expected prefill, environment tokens and tool seconds -> price

Means per prompt shrunk to the pool's, as of lengths. A run of single turns keeps nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cost.prompts import ExpectedTurns, PromptPool, Visit, visit_means
from cost.worth.predictors import PoolMeanPredictor
from cost.worth.shrinkage import Readings, ShrunkMean, ShrunkMeanState

COUNTS = ("turn_prefill_tokens", "environment_tokens", "tool_seconds")
_MEAN = ShrunkMean(prior=PoolMeanPredictor(), prior_count=0.5, decay=0.7, follow_drift=True)


@dataclass(frozen=True, slots=True)
class TurnState:
    """What is known of turns."""

    num_seen: int
    """Visits taken in since the first with several turns."""
    prefill: ShrunkMeanState
    environment: ShrunkMeanState
    tool: ShrunkMeanState


@dataclass(frozen=True, slots=True)
class TurnCounts:
    """Learns what turns add."""

    def initial_state(self, prompts: PromptPool) -> TurnState:
        """Return the state that knows of single turns only."""
        return TurnState(0, *(_MEAN.initial_state(prompts, 0.0) for _ in COUNTS))

    def update(self, state: TurnState, prompts: PromptPool, visits: Sequence[Visit]) -> TurnState:
        """Take in visits, oldest first."""
        if not visits:
            return state
        single = all((visit.report.num_turns == 1).all() for visit in visits)
        if single and not state.num_seen:
            return state
        indices = np.array([visit.report.prompt_index for visit in visits], dtype=np.int64)
        weights = np.array([visit.weight for visit in visits], dtype=np.float64)
        means = []
        for before, name in zip(
            (state.prefill, state.environment, state.tool), COUNTS, strict=True
        ):
            every = np.concatenate([getattr(visit.report, name) for visit in visits])
            values = visit_means(visits, every)[1]
            readings = Readings(indices, values, np.ones(len(visits)), weights)
            means.append(_MEAN.update(before, prompts, readings))
        return TurnState(state.num_seen + len(visits), *means)

    def estimate(self, state: TurnState, prompts: PromptPool) -> ExpectedTurns | None:
        """Return what is expected; None while no response had more than one turn."""
        if not state.num_seen:
            return None
        means = (state.prefill, state.environment, state.tool)
        return ExpectedTurns(*(np.maximum(_MEAN.estimate(m, prompts), 0.0) for m in means))
