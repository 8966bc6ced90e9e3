"""What the turns of a response add to its cost: as they were, and as expected prompt by prompt.

visits -> TurnCounts.update -> expected prefill, environment tokens and tool seconds -> price

Means per prompt shrunk to the pool's, as of lengths. A run of single turns keeps nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cost.prompts import PromptPool, TurnsTaken, Visit, visit_means
from cost.types import LengthReport
from cost.worth.predictors import PoolMeanPredictor
from cost.worth.shrinkage import Readings, ShrunkMean, ShrunkMeanState

COUNTS = ("turn_prefill_tokens", "environment_tokens", "inherited_tokens", "tool_seconds")
_MEAN = ShrunkMean(prior=PoolMeanPredictor(), prior_count=0.5, decay=0.7, follow_drift=True)


def turns_taken(reports: Sequence[LengthReport]) -> TurnsTaken | None:
    """Return what the turns of all responses of a batch took, end to end; None for single turns."""
    if all((report.num_turns == 1).all() for report in reports):
        return None
    taken = (np.concatenate([getattr(report, name) for report in reports]) for name in COUNTS)
    return TurnsTaken(*(values.astype(np.float64) for values in taken))


@dataclass(frozen=True, slots=True)
class TurnState:
    """What is known of turns."""

    num_seen: int
    """Visits taken in since the first with several turns."""
    prefill: ShrunkMeanState
    environment: ShrunkMeanState
    inherited: ShrunkMeanState
    tool: ShrunkMeanState

    @property
    def means(self) -> tuple[ShrunkMeanState, ...]:
        """Of `COUNTS`."""
        return self.prefill, self.environment, self.inherited, self.tool


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
        for before, name in zip(state.means, COUNTS, strict=True):
            every = np.concatenate([getattr(visit.report, name) for visit in visits])
            values = visit_means(visits, every)[1]
            readings = Readings(indices, values, np.ones(len(visits)), weights)
            means.append(_MEAN.update(before, prompts, readings))
        return TurnState(state.num_seen + len(visits), *means)

    def estimate(self, state: TurnState, prompts: PromptPool) -> TurnsTaken | None:
        """Return what is expected; None while no response had more than one turn."""
        if not state.num_seen:
            return None
        return TurnsTaken(*(np.maximum(_MEAN.estimate(m, prompts), 0.0) for m in state.means))
