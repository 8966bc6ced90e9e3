"""Exploring responses in the loss: REINFORCE under every objective and correction."""

from dataclasses import replace

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from learner.batch import MicroBatch, padding_row
from learner.corrections import Band
from learner.loss import Loss, RowOrigin
from learner.mismatch import derived
from learner.objectives.clipped_surrogate import ClippedSurrogate
from tests.places import CONF

SEGMENTS = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2])
MASK = torch.tensor([0, 1, 1, 1, 0, 1, 0, 1, 1, 0, 1, 1]).bool()
EXPLORING = torch.tensor([False, True, False])
ALONE = MASK & EXPLORING[SEGMENTS]
SIZE = len(MASK)


def members(group):
    return [
        pytest.param(instantiate(OmegaConf.load(path)), id=path.stem)
        for path in sorted((CONF / group).glob("*.yaml"))
        if path.stem != "function"
    ]


def random_row(seed=0):
    """Two plain responses with an exploring one between, and the learner's log-probabilities."""
    generator = torch.Generator().manual_seed(seed)
    rollout = torch.where(MASK, torch.rand(SIZE, generator=generator).log(), 0.0)
    noise = 0.5 * torch.randn(SIZE, generator=generator)
    learner = torch.where(MASK, rollout + noise, 0.0)
    row = MicroBatch(
        token_ids=torch.zeros(SIZE, dtype=torch.int64),
        position_ids=torch.arange(SIZE),
        segment_ids=SEGMENTS,
        loss_mask=MASK,
        rollout_logprobs=rollout,
        advantages=torch.tensor([-1.5, 0.75, 2.0])[SEGMENTS],
        loss_weights=torch.where(MASK, torch.tensor([0.5, 0.25, 1.0])[SEGMENTS], 0.0),
    )
    return row, learner


def gradient(row, learner, origin, loss_of_run):
    """Of the row's loss in learner log-probabilities [T] and entropies [T], and the values."""
    learner = learner.clone().requires_grad_()
    entropies = torch.linspace(0.1, 2.0, SIZE).requires_grad_()
    loss, values = loss_of_run.row_loss(row, origin, learner, entropies, row.rollout_logprobs - 0.2)
    found = torch.autograd.grad(loss, [learner, entropies], allow_unused=True)
    return found[0], torch.zeros(SIZE) if found[1] is None else found[1], values


@pytest.mark.parametrize("correction", members("correction"))
@pytest.mark.parametrize("objective", members("objective"))
def test_the_gradient_is_the_advantage_s_whatever_else_the_loss_has(objective, correction):
    row, learner = random_row()
    old = torch.where(MASK, learner - 0.3, 0.0)
    for loss in (
        Loss(objective, correction),
        Loss(objective, correction, kl_coefficient=0.3, entropy_coefficient=0.1),
    ):
        plain = gradient(row, learner, RowOrigin(old_logprobs=old), loss)
        origin = RowOrigin(old_logprobs=old, exploring=EXPLORING)
        mixed = gradient(row, learner, origin, loss)
        expected = -row.loss_weights * row.advantages
        assert torch.equal(mixed[0][ALONE], expected[ALONE])
        assert (mixed[1][ALONE] == 0).all()
        # Nothing changes for the others, to the last bit.
        for ours, theirs in zip(mixed[:2], plain[:2], strict=True):
            assert torch.equal(ours[~ALONE], theirs[~ALONE])


@pytest.mark.parametrize("logprob", [-900.0, 0.0])
@pytest.mark.parametrize("objective", members("objective"))
def test_what_the_engine_says_of_exploring_tokens_is_nothing_to_the_loss(objective, logprob):
    row, learner = random_row()
    origin = RowOrigin(exploring=EXPLORING)
    expected = gradient(row, learner, origin, Loss(objective))
    other = replace(row, rollout_logprobs=torch.where(ALONE, logprob, row.rollout_logprobs))
    found = gradient(other, learner, origin, Loss(objective))
    assert torch.equal(found[0], expected[0])
    assert all(torch.equal(value, expected[2][name]) for name, value in found[2].items())


def test_means_leave_exploring_tokens_out():
    row, learner = random_row()
    staleness = torch.arange(int(MASK.sum()))
    loss = Loss(ClippedSurrogate(), Band(weigh=False), kl_coefficient=0.1)
    old = torch.where(MASK, learner - 0.3, 0.0)
    origin = RowOrigin(old_logprobs=old, staleness=staleness)
    _, _, plain = gradient(row, learner, origin, loss)
    origin = replace(origin, exploring=EXPLORING)
    _, _, values = gradient(row, learner, origin, loss)
    assert set(values) == {*plain, "exploring_share"}
    others = ~ALONE[MASK]
    means = {name: value.double().mean().item() for name, value in values.items()}
    found = means | derived(means)
    expected = {name: value[others].double().mean().item() for name, value in plain.items()}
    expected |= derived(expected) | {"exploring_share": 3 / 8}
    assert found == pytest.approx(expected, nan_ok=True)
    share = {"exploring_share": 0.5, "curvature_rejected_share": 0.25, "entropy": 0.25}
    assert derived(share) == {"entropy": 0.5}


def test_of_exploring_tokens_alone_there_are_no_means():
    assert torch.isnan(torch.tensor(derived({"exploring_share": 1.0, "entropy": 0.0})["entropy"]))


def test_padding_has_no_exploring_response():
    row = padding_row()
    learner = torch.zeros(2, requires_grad=True)
    plain = Loss(ClippedSurrogate())
    loss, values = plain.row_loss(row, RowOrigin(), learner, torch.zeros(2), None)
    assert loss.item() == 0 and "exploring_share" not in values
