"""How a batch is cut up: groups into optimiser steps, their responses into rows of each rank.

    P groups --split_groups--> one part per optimiser step --plan_rows--> rows per rank

The cut into optimiser steps is random and looks at nothing but the number of groups, so it is
independent of the thinning; each part divides its loss by its own number of groups, empty groups
included. Exploring groups join the parts and do not count in them. How a part's responses become
rows is `learner.partition`'s.
"""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cost.types import Selection
from learner.config import LearnerConfig
from learner.partition import Work, plan_rows, work_of_rows
from rollout.types import GroupRef

Row = tuple[tuple[int, int], ...]
"""The responses of one packed row, each as (position of its group in the batch, response index)."""


@dataclass(frozen=True, slots=True)
class MinibatchPlan:
    """Says what one rank does in one optimiser step."""

    num_groups: int
    """Groups of this optimiser step over all ranks, empty groups included and exploring ones not:
    the estimator's P."""
    rows: tuple[Row, ...]
    """Rows of this rank; every rank has the same number, an empty row is padding."""
    work: float = 0.0
    """What the rows take, in the unit of `Work`."""


def split_groups(
    num_groups: int, num_minibatches: int, rng: np.random.Generator
) -> list[npt.NDArray[np.int64]]:
    """Partition a batch's groups at random into one part per optimiser step.

    Args:
        num_groups: Groups in the batch, empty ones included.
        num_minibatches: Parts; their sizes differ by at most one.
        rng: It must not depend on anything the groups contain.

    Returns:
        One sorted [P_m] int64 array of group positions per part; together every position once.

    Raises:
        ValueError: If there are fewer groups than parts.
    """
    if not 1 <= num_minibatches <= num_groups:
        raise ValueError(
            f"learner.num_minibatches must be between 1 and the {num_groups} groups of a batch, "
            f"got {num_minibatches!r}"
        )
    order = rng.permutation(num_groups)
    return [np.sort(part).astype(np.int64) for part in np.array_split(order, num_minibatches)]


def join_groups(
    parts: Sequence[npt.NDArray[np.int64]],
    exploring: npt.NDArray[np.int64],
    rng: np.random.Generator,
) -> list[npt.NDArray[np.int64]]:
    """Let exploring groups join the parts, each that of another plain group picked at random.

    A part has an exploring group with the same probability as any plain one, its share of the plain
    groups: dividing both by the part's number of plain groups makes both means, over the cuts,
    those of the whole batch, however few exploring groups there are.

    Args:
        parts: Positions of plain groups, one array a part.
        exploring: [E] positions of exploring groups, at most as many as plain ones.
        rng: It must not depend on anything the groups contain.

    Returns:
        The parts with the exploring groups behind their own.
    """
    sizes = np.array([len(part) for part in parts], dtype=np.int64)
    hosts = rng.permutation(np.repeat(np.arange(len(parts)), sizes))[: len(exploring)]
    return [np.concatenate([part, exploring[hosts == m]]) for m, part in enumerate(parts)]


@dataclass(frozen=True, slots=True)
class BatchPlanner:
    """Plans the passes of a run; the same arguments give the same plan."""

    config: LearnerConfig
    num_ranks: int
    seed: int
    """It decides the random cut into optimiser steps."""
    work: Work
    """What the ranks get equal shares of."""

    def plan(
        self, groups: Sequence[GroupRef], selections: Sequence[Selection], *, step: int, epoch: int
    ) -> list[list[MinibatchPlan]]:
        """Plan one pass over a batch.

        Args:
            groups: The batch, empty groups included.
            selections: One per group, in the same order.
            step: Number of the batch in the run.
            epoch: Number of the pass over this batch.

        Returns:
            Per optimiser step, the plan of every rank; no rank has rows where nothing was kept.

        Raises:
            ValueError: If groups and selections do not match.
        """
        tickets = [group.report.ticket_id for group in groups]
        if tickets != [selection.ticket_id for selection in selections]:
            raise ValueError(
                "selections must be the groups' own, in the same order, "
                f"got {[selection.ticket_id for selection in selections]!r}"
            )
        stream = zlib.crc32(b"learner.partition")
        rng = np.random.default_rng([self.seed, stream, step, epoch])
        exploring = np.array([selection.exploring for selection in selections], dtype=np.bool_)
        plain = np.flatnonzero(~exploring)
        # A batch that was filtered may have fewer groups than there are optimiser steps, or none.
        num_parts = min(self.config.num_minibatches, len(plain))
        parts = split_groups(len(plain), num_parts, rng) if num_parts else []
        joined = join_groups([plain[part] for part in parts], np.flatnonzero(exploring), rng)
        return [
            self._plan_step(groups, selections, part, num_groups)
            for part, num_groups in zip(joined, map(len, parts), strict=True)
        ]

    def _plan_step(
        self,
        groups: Sequence[GroupRef],
        selections: Sequence[Selection],
        part: npt.NDArray[np.int64],
        num_groups: int,
    ) -> list[MinibatchPlan]:
        """Share out what was kept of an optimiser step's groups; the plan of every rank."""
        kept = [
            (int(k), int(j))
            for k in part
            for j in np.flatnonzero(selections[k].keep & (selections[k].weight > 0))
        ]
        lengths = tokens_of(groups, kept)
        prompts = [
            (k if self.config.shares_prefixes else item, groups[k].report.prompt_tokens)
            for item, (k, _) in enumerate(kept)
        ]
        per_rank = plan_rows(
            lengths, self.num_ranks, self.config.row_tokens, prompts=prompts, work=self.work
        )
        return [
            MinibatchPlan(
                num_groups=num_groups,
                rows=tuple(tuple(kept[item] for item in row) for row in rows),
                work=work_of_rows(rows, lengths, prompts=prompts, work=self.work),
            )
            for rows in per_rank
        ]

    def plan_all(self, groups: Sequence[GroupRef]) -> list[list[Row]]:
        """Share out all responses of any groups, prompts repeated; the rows of every rank."""
        responses = [
            (k, j) for k, group in enumerate(groups) for j in range(group.report.num_responses)
        ]
        per_rank = plan_rows(tokens_of(groups, responses), self.num_ranks, self.config.row_tokens)
        return [[tuple(responses[item] for item in row) for row in rows] for rows in per_rank]


def tokens_of(groups: Sequence[GroupRef], responses: Sequence[tuple[int, int]]) -> list[int]:
    """Count the tokens of responses, each with its prompt."""
    return [groups[k].report.prompt_tokens + int(groups[k].report.lengths[j]) for k, j in responses]


def rank_balance(steps: Sequence[Sequence[MinibatchPlan]]) -> float:
    """Mean over largest work of a rank, in (0, 1], over the plans of all ranks in each step.

    1 is even; NaN without work.
    """
    total = sum(plan.work for ranks in steps for plan in ranks)
    largest = sum(max(plan.work for plan in ranks) * len(ranks) for ranks in steps)
    return total / largest if largest else math.nan
