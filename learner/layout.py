"""Rows to train on, laid out from the groups as a plan says."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from cost.types import Selection
from learner.batch import MicroBatch, collate, segment_of
from learner.batch_plan import MinibatchPlan, Row
from learner.loss import RowOrigin
from rollout.types import Group, Trajectory


def lay_out(
    groups: Mapping[int, Group],
    selections: Sequence[Selection],
    plan: MinibatchPlan,
    version: int,
    *,
    shared_prefix: bool,
) -> tuple[list[MicroBatch], list[RowOrigin]]:
    """Lay out the rows of one optimiser step.

    Args:
        groups: Those that the plan names, by their positions in the batch.
        selections: One per group of the batch.
        plan: A rank's rows.
        version: The learner's version before the pass.
        shared_prefix: Whether responses side by side share one copy of their prompt.

    Returns:
        The rows, on the CPU, and where the tokens of each come from.
    """

    def pack(row: Row) -> MicroBatch:
        return collate(
            [segment_of(groups[k], selections[k], j, num_groups=plan.num_groups) for k, j in row],
            shared_prefix=shared_prefix,
        )

    def origin(row: Row) -> RowOrigin:
        parts = [token_staleness(groups[k].trajectories[j], version) for k, j in row]
        exploring = [selections[k].exploring for k, _ in row]
        return RowOrigin(
            staleness=torch.from_numpy(np.concatenate(parts)) if parts else None,
            exploring=torch.tensor(exploring) if any(exploring) else None,
        )

    return [pack(row) for row in plan.rows], [origin(row) for row in plan.rows]


def token_staleness(trajectory: Trajectory, version: int) -> npt.NDArray[np.int64]:
    """Return [K] a version minus those that made a trajectory's loss tokens."""
    staleness = np.zeros(len(trajectory.token_ids), np.int64)
    for span in trajectory.version_spans:
        staleness[span.start : span.end] = version - span.version
    return staleness[trajectory.loss_mask]
