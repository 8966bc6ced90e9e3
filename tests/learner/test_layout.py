"""Rows are laid out as the plan says, and know how old their tokens are."""

from dataclasses import replace

import numpy as np
import torch

from learner.batch_plan import MinibatchPlan
from learner.layout import lay_out, token_staleness
from rollout.types import VersionSpan


def with_spans(trajectory, *spans):
    return replace(trajectory, version_spans=tuple(VersionSpan(*span) for span in spans))


def test_a_token_is_as_old_as_the_version_that_made_it(batch):
    trajectory = with_spans(batch[0][0].trajectories[0], (0, 2, 3), (2, 5, 4))
    assert token_staleness(trajectory, 7).tolist() == [4, 4, 3, 3, 3]
    # What the environment wrote is no token of the loss.
    mask = np.array([True, False, True, True, False])
    assert token_staleness(replace(trajectory, loss_mask=mask), 4).tolist() == [1, 0, 0]


def test_rows_have_the_responses_of_the_plan_in_its_order(batch):
    groups, selections = list(batch[0]), list(batch[1])
    groups[4] = replace(
        groups[4],
        trajectories=tuple(with_spans(one, (0, 99, 6)) for one in groups[4].trajectories),
    )
    selections[4] = replace(selections[4], exploring=True)
    plan = MinibatchPlan(4, rows=(((4, 0), (1, 2)), ((0, 1),), ()))
    rows, origins = lay_out(dict(enumerate(groups)), selections, plan, 8, shared_prefix=False)
    sizes = [6, 2]
    assert origins[0].staleness.tolist() == [2] * 6 + [8] * 2
    assert origins[0].exploring.tolist() == [True, False]
    assert origins[1].staleness.tolist() == [8] * 17 and origins[1].exploring is None
    assert origins[2].staleness is None and origins[2].exploring is None
    assert [int(row.loss_mask.sum()) for row in rows[:2]] == [sum(sizes), 17]
    advantages = [float(selections[k].advantages[j]) for k, j in plan.rows[0]]
    expected = torch.tensor(np.repeat(advantages, sizes), dtype=torch.float32)
    torch.testing.assert_close(rows[0].advantages[rows[0].loss_mask], expected)
