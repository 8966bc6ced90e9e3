"""The clipping bias of ST-PPO."""

import pytest
import torch

from learner.objectives.clip_bias import response_clip_biases
from learner.objectives.clipped_surrogate import ClippedSurrogate


def test_it_is_the_clipped_part_of_the_surrogate_per_response(run):
    mask = [False, True, True, True, False, True]
    segments = [0, 0, 0, 0, 1, 1]
    advantages = [2.0] * 4 + [-1.0] * 2
    output, _ = run(
        ClippedSurrogate(0.2, 0.2), [9.0, 1.5, 1.1, 1.3, 9.0, 0.5], advantages,
        segment_ids=segments, loss_mask=mask,
    )  # fmt: skip
    biases = response_clip_biases(
        output, torch.tensor(advantages).double(), torch.tensor(segments), torch.tensor(mask)
    )
    first, second = (1.5 + 1.3) * 2 / 3, 0.5 * -1
    assert biases.tolist() == pytest.approx([first] * 4 + [second] * 2)


def test_nothing_clipped_is_no_bias(run):
    output, _ = run(ClippedSurrogate(), [1.0, 1.1], [1.0, 1.0])
    everywhere = torch.ones(2, dtype=torch.bool)
    biases = response_clip_biases(output, torch.ones(2).double(), torch.arange(2), everywhere)
    assert biases.tolist() == [0.0, 0.0]
