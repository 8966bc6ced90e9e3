"""Laws that every objective in conf/ obeys; a new YAML is tested by being there."""

import pickle
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor

from launch.record.metrics import METRICS
from learner.batch import padding_row
from learner.objectives.types import LossInputs
from tests.places import CONF

MEMBERS = [
    pytest.param(instantiate(OmegaConf.load(path)), id=path.stem)
    for path in sorted((CONF / "objective").glob("*.yaml"))
    # What a user names obeys what the user makes of it.
    if path.stem != "function"
]


def make_row(
    seed: int, lengths: tuple[int, ...] = (7, 1, 12, 5), spread: float = 0.4
) -> LossInputs:
    """A packed row of responses, each with two prompt tokens and a gap after its fourth token."""
    generator = torch.Generator().manual_seed(seed)
    masks = [[False, False, *(t != 3 for t in range(length))] for length in lengths]
    mask = torch.tensor([flag for segment in masks for flag in segment])
    segments = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths) + 2)
    rollout = torch.where(mask, torch.rand(len(mask), generator=generator).log(), 0.0)
    noise = torch.randn(len(mask), generator=generator) * spread
    learner = torch.where(mask, rollout + noise, 0.0)
    advantages = torch.randn(len(lengths), generator=generator)[segments]
    return LossInputs(
        learner_logprobs=learner,
        rollout_logprobs=rollout,
        advantages=advantages,
        segment_ids=segments,
        loss_mask=mask,
    )


def run(plug: Any, row: LossInputs) -> tuple[Any, Tensor]:
    """Output, and gradient [T] of the summed losses in the learner's log-probabilities."""
    learner = row.learner_logprobs.clone().requires_grad_()
    output = plug.token_losses(replace(row, learner_logprobs=learner))
    (gradient,) = torch.autograd.grad(output.token_losses.sum(), learner)
    return output, gradient


def reinforcing(plug: Any) -> Any:
    """The member without terms beside the advantage's, to which the laws of F apply."""
    has_other = "lm_weight" in {field.name for field in fields(plug)}
    return replace(plug, lm_weight=0.0) if has_other else plug


@pytest.mark.parametrize("plug", MEMBERS)
def test_shapes_types_and_masked_tokens(plug):
    row = make_row(0)
    output, gradient = run(plug, row)
    outside = ~row.loss_mask
    for values in (output.token_losses, gradient, *output.metrics.values()):
        assert values.shape == row.loss_mask.shape and values.dtype == torch.float32
        assert values.isfinite().all()
    assert (output.token_losses[outside] == 0).all() and (gradient[outside] == 0).all()
    assert (output.token_losses[row.loss_mask] != 0).all()
    assert {f"learner/{name}" for name in output.metrics} <= set(METRICS)
    assert "ratio" in output.metrics
    assert not any(values.requires_grad for values in output.metrics.values())


@pytest.mark.parametrize("plug", MEMBERS)
@pytest.mark.parametrize("seed", range(3))
def test_at_ratio_one_the_gradient_is_the_plain_policy_gradient(plug, seed):
    row = make_row(seed, spread=0.0)
    output, gradient = run(reinforcing(plug), row)
    torch.testing.assert_close(gradient, torch.where(row.loss_mask, -row.advantages, 0.0))
    assert (output.metrics["ratio"][row.loss_mask] == 1).all()
    assert not output.metrics.get("clip_fraction", torch.zeros(1)).any()


@pytest.mark.parametrize("plug", MEMBERS)
@pytest.mark.parametrize("spread", [1e-3, 0.3, 3.0])
def test_no_gradient_points_against_its_advantage(plug, spread):
    for seed in range(5):
        row = make_row(seed, spread=spread)
        _, gradient = run(plug, row)
        assert (gradient * row.advantages <= 0).all()


@pytest.mark.parametrize("plug", MEMBERS)
def test_zero_advantage_is_zero_loss_and_zero_gradient(plug):
    row = make_row(1)
    output, gradient = run(plug, replace(row, advantages=torch.zeros_like(row.advantages)))
    assert not output.token_losses.any() and not gradient.any()
    assert not output.metrics.get("clip_fraction", torch.zeros(1)).any()


@pytest.mark.parametrize("plug", MEMBERS)
def test_losses_grow_in_proportion_to_the_advantage(plug):
    row, plug = make_row(2), reinforcing(plug)
    once, gradient = run(plug, row)
    thrice, three_gradients = run(plug, replace(row, advantages=3 * row.advantages))
    torch.testing.assert_close(thrice.token_losses, 3 * once.token_losses)
    torch.testing.assert_close(three_gradients, 3 * gradient)


@pytest.mark.parametrize("plug", MEMBERS)
def test_a_token_s_loss_moves_its_own_log_probability_only(plug):
    """So that a loss weight of 0 takes exactly that token's gradient out."""
    row = make_row(3, spread=0.05)
    jacobian = torch.autograd.functional.jacobian(
        lambda learner: plug.token_losses(replace(row, learner_logprobs=learner)).token_losses,
        row.learner_logprobs,
    )
    assert not (jacobian - torch.diag(jacobian.diagonal())).any()
    assert jacobian.diagonal().any()


@pytest.mark.parametrize("plug", MEMBERS)
@pytest.mark.parametrize("size", [30.0, 700.0, 1e30])
def test_extreme_ratios_stay_finite(plug, size):
    row = make_row(5)
    signs = torch.where(torch.arange(len(row.loss_mask)) % 3 == 0, -1.0, 1.0)
    for moved in (signs, signs.abs(), -signs.abs()):
        far = torch.where(row.loss_mask, size * moved, 0.0)
        for extreme in (replace(row, learner_logprobs=far), replace(row, rollout_logprobs=far)):
            output, gradient = run(plug, extreme)
            assert output.token_losses.isfinite().all() and gradient.isfinite().all()
            assert all(values.isfinite().all() for values in output.metrics.values())


@pytest.mark.parametrize("plug", MEMBERS)
def test_a_response_does_not_see_what_it_is_packed_with(plug):
    """Alone in a row, or with others in any order: the same losses and gradients."""
    row = make_row(6)
    output, gradient = run(plug, row)
    segments = row.segment_ids
    for order in ([2], [3, 0], [1, 3, 2, 0]):
        places = torch.cat([(segments == j).nonzero().squeeze(1) for j in order])
        ids = torch.cat([torch.full((int((segments == j).sum()),), k) for k, j in enumerate(order)])
        chosen = {f.name: getattr(row, f.name)[places] for f in fields(row)}
        packed, packed_gradient = run(plug, LossInputs(**chosen | {"segment_ids": ids}))
        torch.testing.assert_close(packed.token_losses, output.token_losses[places])
        torch.testing.assert_close(packed_gradient, gradient[places])


@pytest.mark.parametrize("plug", MEMBERS)
def test_the_padding_row_costs_nothing_and_can_be_differentiated(plug):
    row = padding_row()
    inputs = LossInputs(
        learner_logprobs=torch.tensor([0.0, -3.0]),
        rollout_logprobs=row.rollout_logprobs,
        advantages=row.advantages,
        segment_ids=row.segment_ids,
        loss_mask=row.loss_mask,
    )
    output, gradient = run(plug, inputs)
    assert not output.token_losses.any() and not gradient.any()


@pytest.mark.parametrize("plug", MEMBERS)
def test_it_is_frozen_and_travels_to_the_workers(plug):
    assert pickle.loads(pickle.dumps(plug)) == plug
    name = fields(plug)[0].name
    with pytest.raises(FrozenInstanceError):
        setattr(plug, name, getattr(plug, name))
