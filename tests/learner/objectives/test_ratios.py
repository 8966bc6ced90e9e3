"""Ratios of tokens, turns and responses."""

import math

import pytest
import torch

from learner.objectives.ratios import (
    run_means,
    segment_ratios,
    token_ratios,
    turn_numbers,
    turns,
)
from learner.objectives.types import LossInputs


def one_response(learner, rollout):
    size = len(learner)
    return LossInputs(
        learner_logprobs=learner,
        rollout_logprobs=rollout,
        advantages=torch.ones(size),
        segment_ids=torch.zeros(size, dtype=torch.int64),
        loss_mask=torch.ones(size, dtype=torch.bool),
    )


def test_a_ratio_beyond_e20_is_held_there():
    ratios = token_ratios(torch.tensor([-900.0, 900.0, 0.5]), torch.zeros(3))
    assert ratios.tolist() == pytest.approx([math.exp(-20), math.exp(20), math.exp(0.5)])


def test_turns_are_runs_of_loss_tokens_within_a_segment():
    mask = torch.tensor([0, 1, 1, 0, 1, 0, 1, 1, 0, 0, 1, 1], dtype=torch.bool)
    segments = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2])
    assert turns(segments, mask)[mask].tolist() == [1, 1, 2, 3, 3, 4, 4]


def test_a_segment_boundary_ends_a_turn_even_without_a_prompt_between():
    mask = torch.ones(4, dtype=torch.bool)
    assert turns(torch.tensor([0, 0, 1, 1]), mask).tolist() == [1, 1, 2, 2]


def test_run_means_are_over_masked_tokens_and_empty_runs_have_none():
    values = torch.tensor([9.0, 1.0, 3.0, 5.0, 7.0])
    mask = torch.tensor([False, True, True, True, False])
    means = run_means(values, torch.tensor([0, 0, 0, 1, 5]), mask)
    assert means.tolist() == [2.0, 2.0, 2.0, 5.0, 0.0]


def test_the_mean_ratio_stays_in_log_space():
    """The product of 2000 ratios overflows; its 2000th root does not."""
    size = 2000
    learner, rollout = torch.full((size,), 3.0), torch.zeros(size)
    ratios = segment_ratios(one_response(learner, rollout))
    assert ratios.tolist() == pytest.approx([math.exp(3.0)] * size, rel=1e-5)


def test_a_sequence_ratio_near_one_keeps_its_digits():
    """GSPO clips at 1 - 3e-4: in float32 the ratio must be right to a small part of that."""
    generator = torch.Generator().manual_seed(0)
    log_ratios = torch.randn(30_000, generator=generator, dtype=torch.float64) * 0.05
    rollout = -torch.rand(30_000, generator=generator, dtype=torch.float64) * 8
    learner = (rollout + log_ratios).float()
    ratio = segment_ratios(one_response(learner, rollout.float()))[0].item()
    exact = (learner.double() - rollout.float().double()).mean().exp().item()
    assert ratio == pytest.approx(exact, abs=2e-7)


def test_turns_of_each_response_are_numbered_from_0():
    segments = torch.tensor([0, 0, 0, 0, 0, 1, 1, 2, -1])
    mask = torch.tensor([False, True, False, True, True, True, True, False, True])
    numbers = turn_numbers(segments, mask)
    assert numbers[mask].tolist() == [0, 1, 1, 0, 0, 0]


def test_turns_are_numbered_alike_wherever_a_response_lies_in_its_row():
    mask = torch.tensor([False, True, True, False, True, False, False, True])
    zeros = torch.zeros(8, dtype=torch.int64)
    alone = turn_numbers(zeros, mask)[mask].tolist()
    assert alone == [0, 0, 1, 2]
    packed = turn_numbers(torch.cat([zeros, zeros + 1, zeros + 2]), mask.repeat(3))
    assert packed[mask.repeat(3)].tolist() == 3 * alone
