"""Packing of responses into rows."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from learner.batch import collate, segment_of


def test_a_row_carries_every_segment_in_its_place(batch):
    groups, selections = batch
    chosen = [(0, 1), (3, 0), (1, 2)]
    row = collate([segment_of(groups[k], selections[k], j, num_groups=5) for k, j in chosen])
    start = 0
    for index, (k, j) in enumerate(chosen):
        prompt, trajectory = groups[k].prompt.token_ids, groups[k].trajectories[j]
        end = start + len(prompt) + len(trajectory.token_ids)
        here, response = slice(start, end), slice(start + len(prompt), end)
        assert row.token_ids[here].tolist() == [*prompt, *trajectory.token_ids]
        assert row.position_ids[here].tolist() == list(range(end - start))
        assert set(row.segment_ids[here].tolist()) == {index}
        assert row.loss_mask[response].all() and int(row.loss_mask[here].sum()) == len(
            trajectory.token_ids
        )
        assert np.array_equal(row.rollout_logprobs[response], trajectory.rollout_logprobs)
        assert torch.all(row.advantages[here] == np.float32(selections[k].advantages[j]))
        expected = np.float32(selections[k].factors[j] / (5 * 4))
        assert torch.all(row.loss_weights[response] == expected)
        assert torch.all(row.loss_weights[start : response.start] == 0)
        start = end
    assert start == len(row.token_ids)
    assert not row.is_padding


def test_environment_tokens_carry_no_loss(batch):
    groups, selections = batch
    trajectory = groups[0].trajectories[1]
    mask = np.arange(len(trajectory.token_ids)) % 3 > 0
    group = replace(groups[0], trajectories=(replace(trajectory, loss_mask=mask),))
    row = collate([segment_of(group, selections[0], 0, num_groups=5)])
    num_prompt = len(group.prompt.token_ids)
    assert np.array_equal(row.loss_mask[num_prompt:], mask)
    assert np.array_equal(row.loss_weights[num_prompt:] > 0, mask)


def test_the_divisor_is_the_tickets_not_the_survivors(batch):
    groups, selections = batch
    assert len(groups[3].trajectories) == 3 and groups[3].ticket.num_samples == 4
    segment = segment_of(groups[3], selections[3], 0, num_groups=5)
    assert segment.loss_weight == selections[3].factors[0] / (5 * 4)


def test_the_design_weight_of_a_response_is_in_its_loss_weight(batch):
    groups, selections = batch
    weighed = replace(selections[0], weight=np.array([1.0, 2.5, 0.0, 8.0]))
    for response, weight in enumerate(weighed.weight):
        plain, found = (
            segment_of(groups[0], each, response, num_groups=5).loss_weight
            for each in (selections[0], weighed)
        )
        assert found == pytest.approx(weight * plain)


def test_responses_side_by_side_share_their_prompt(batch):
    groups, selections = batch
    chosen = [(0, 1), (0, 3), (3, 0), (0, 2), (4, 0), (4, 3)]
    segments = [segment_of(groups[k], selections[k], j, num_groups=5) for k, j in chosen]
    whole, row = collate(segments), collate(segments, shared_prefix=True)
    prompt = {k: len(groups[k].prompt.token_ids) for k, _ in chosen}
    assert len(whole.token_ids) - len(row.token_ids) == prompt[0] + prompt[4]
    for name in ("token_ids", "rollout_logprobs", "advantages", "loss_weights", "segment_ids"):
        one, other = getattr(row, name), getattr(whole, name)
        assert one.dtype == other.dtype
        assert torch.equal(one[row.loss_mask], other[whole.loss_mask]), name
    expected, before = [], None
    for k, j in chosen:
        end = prompt[k] + len(groups[k].trajectories[j].token_ids)
        expected += range(prompt[k] if k == before else 0, end)
        before = k
    assert row.position_ids.tolist() == expected
    assert row.segment_ids.tolist() == sorted(row.segment_ids.tolist())
    apart = [segments[place] for place in (0, 2, 1)]
    assert torch.equal(collate(apart, shared_prefix=True).position_ids, collate(apart).position_ids)


def test_other_prompts_are_not_shared(batch):
    groups, selections = batch
    one = segment_of(groups[0], selections[0], 0, num_groups=5)
    other = replace(one, token_ids=np.where(np.arange(len(one.token_ids)) == 1, 7, one.token_ids))
    for pair in ([one, other], [one, replace(one, num_prompt_tokens=1)],
                 [replace(one, num_prompt_tokens=0)] * 2):  # fmt: skip
        assert len(collate(pair, shared_prefix=True).token_ids) == 2 * len(one.token_ids)
    with pytest.raises(ValueError, match=r"^loss_mask must be False on the prompt"):
        collate([replace(one, num_prompt_tokens=len(one.token_ids))] * 2, shared_prefix=True)


def test_no_segments_make_the_padding_row():
    row = collate([])
    assert row.is_padding
    assert int(row.loss_mask.sum()) == 1 and not row.loss_mask[0]
    assert float(row.loss_weights.abs().sum()) == 0


def test_what_does_not_belong_together_is_refused(batch):
    groups, selections = batch
    with pytest.raises(ValueError, match=r"^selection\.ticket_id must be the group's 0, got 1$"):
        segment_of(groups[0], selections[1], 0, num_groups=5)
    empty = replace(groups[0], prompt=replace(groups[0].prompt, token_ids=np.zeros(0, np.int32)))
    with pytest.raises(ValueError, match=r"^prompt\.token_ids must not be empty"):
        segment_of(empty, selections[0], 0, num_groups=5)
