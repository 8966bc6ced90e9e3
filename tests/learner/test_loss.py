"""What the loss is made of: its terms each by itself, and exploring responses.

Those are REINFORCE under every objective and correction.
"""

from dataclasses import replace

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from learner.batch import MicroBatch, padding_row
from learner.config import LearnerConfig
from learner.corrections import Band, NoCorrection, Truncated
from learner.loss import Loss, RowOrigin
from learner.mismatch import derived
from learner.objectives.cispo import Cispo
from learner.objectives.clipped_surrogate import ClippedSurrogate
from learner.objectives.types import ObjectiveOutput
from learner.reference_config import ReferenceConfig
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


def odd_tokens():
    """A row whose token 2 the learner, and whose token 7 the old policy, find unlike the engine."""
    row, learner = random_row()
    old = torch.where(MASK, row.rollout_logprobs + 0.1, 0.0)
    learner[2], old[7] = row.rollout_logprobs[2] + 3.0, row.rollout_logprobs[7] - 3.0
    return row, learner, old


def places(values):
    """Positions in the row of what is not 0, given at its loss tokens."""
    return MASK.nonzero().squeeze(1)[values.bool()].tolist()


def test_a_correction_compares_the_engine_with_the_old_policy_else_with_the_learner():
    row, learner, old = odd_tokens()
    loss = Loss(Cispo(), Band(low=0.1, high=8.0, weigh=False))
    for origin, cut in ((RowOrigin(), 2), (RowOrigin(old_logprobs=old), 7)):
        found, _, values = gradient(row, learner, origin, loss)
        assert (MASK & (found == 0)).nonzero().flatten().tolist() == [cut]
        assert places(values["cut_share"]) == [cut]


def test_factors_multiply_the_objective_and_nothing_else():
    row, learner, old = odd_tokens()
    origin = RowOrigin(old_logprobs=old)
    plain, corrected = (
        [gradient(row, learner, origin, Loss(Cispo(), correction, coefficient, "k2", coefficient))
         for coefficient in (0.0, 0.3)]
        for correction in (NoCorrection(), Truncated(cap=1.05))
    )  # fmt: skip
    factors = torch.where(MASK, (old - row.rollout_logprobs).exp().clamp(max=1.05), 0.0)
    assert torch.allclose(corrected[0][0], factors * plain[0][0])
    # All tokens but one are above the cap, and one below it is not cut.
    assert places(corrected[0][2]["cut_share"]) == [1, 2, 3, 5, 8, 10, 11]
    for without, with_terms in (plain, corrected):
        # The k2 estimate is half the square of the log-ratio.
        distance = learner - (row.rollout_logprobs - 0.2)
        expected = 0.3 * row.loss_weights * distance
        assert torch.allclose(with_terms[0] - without[0], expected, atol=1e-6)
        assert torch.allclose(with_terms[1], -0.3 * row.loss_weights)
        assert not without[1].any()


def test_what_is_told_of_tokens_is_of_the_policies_as_they_are_and_bears_no_gradient():
    row, learner, old = odd_tokens()
    reference, rollout = (values[MASK].double() for values in (row.rollout_logprobs - 0.2,
                                                               row.rollout_logprobs))  # fmt: skip
    loss = Loss(Cispo(max_ratio=1.5), kl_coefficient=0.3, kl_estimator="k2")
    _, _, values = gradient(row, learner, RowOrigin(old_logprobs=old), loss)
    assert not any(value.requires_grad for value in values.values())
    ours, before = learner[MASK].double(), old[MASK].double()
    distance = reference - ours
    expected = {
        "entropy": torch.linspace(0.1, 2.0, SIZE)[MASK].double(),
        # k3, whichever estimator the loss has.
        "kl_reference": distance.exp() - 1 - distance,
        "ratio": (ours - before).exp(),
        "clip_fraction": ((ours - before).exp() > 1.5).double(),
        "rollout_ratio": (ours - rollout).exp(),
        "old_ratio": (before - rollout).exp(),
    }
    for name, value in expected.items():
        assert values[name].double().tolist() == pytest.approx(value.tolist(), rel=1e-4), name
    _, _, values = gradient(row, learner, RowOrigin(), loss)
    assert "old_ratio" not in values and "stale_share" not in values
    assert values["ratio"].tolist() == pytest.approx(values["rollout_ratio"].tolist(), rel=1e-4)


def test_a_run_s_loss_has_the_terms_of_its_settings():
    """Without a correction factors are 1."""
    config = LearnerConfig(
        entropy_coefficient=0.125,
        reference=ReferenceConfig(kl_coefficient=0.25, kl_in="loss", kl_estimator="k2"),
    )
    objective, mask = Cispo(), Band(weigh=False)
    assert Loss.of(objective, config) == Loss(objective, NoCorrection(), 0.25, "k2", 0.125)
    assert Loss.of(objective, replace(config, correction=mask)).correction == mask


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
    assert plain["token_staleness"].tolist() == staleness.tolist()
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


class Returns:
    """An objective of a user, which returns what it is made with."""

    def __init__(self, returned):
        self.returned = returned

    def token_losses(self, inputs):
        return self.returned(inputs)


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (lambda x: x.learner_logprobs, "must return a .*ObjectiveOutput, got Tensor"),
        (lambda x: ObjectiveOutput(x.learner_logprobs.mean(), {}), "token_losses must be a tensor"),
        (lambda x: ObjectiveOutput(x.learner_logprobs[1:], {}), r"of 12 tokens, got \(11,\)"),
        (lambda x: ObjectiveOutput(x.learner_logprobs, {"kl": torch.ones(())}), "kl must be a"),
        (lambda x: ObjectiveOutput(x.learner_logprobs, {"kl": 0.5}), "of 12 tokens, got float"),
        (lambda x: ObjectiveOutput(x.learner_logprobs.detach(), {}), "must have a gradient"),
    ],
)
def test_an_objective_that_breaks_its_contract_is_told_how(returned, said):
    with pytest.raises(ValueError, match=f"^objective: .*{said}"):
        gradient(*random_row(), RowOrigin(), Loss(Returns(returned)))
