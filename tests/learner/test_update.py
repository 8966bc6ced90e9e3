"""One optimiser step: the estimator's loss, however it is cut up, and what is skipped."""

import itertools
import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from learner.batch import collate, segment_of
from learner.corrections import Band, Truncated
from learner.engine import StepOutcome
from learner.logprobs import PackedPolicy
from learner.loss import Loss, RowOrigin
from learner.objectives import ClippedSurrogate, ObjectiveOutput
from learner.update import StepSums, Updater, merge_sums, old_logprobs

OBJECTIVE = ClippedSurrogate(clip_low=0.2, clip_high=0.28)


def flat(gradients):
    return torch.cat([gradient.flatten() for gradient in gradients.values()])


@pytest.mark.parametrize("row_tokens", [64, 39])
def test_weights_of_one_are_bitwise_plain_grpo(plain_engine, pack, batch, row_tokens):
    groups, selections = batch
    [rows] = pack(groups, selections, row_tokens=row_tokens)
    engine = plain_engine()
    sums = Updater(engine, Loss(OBJECTIVE)).step(rows)

    # GRPO as its paper writes it, without any weight: mean over the tokens of a response, over a
    # group's responses, over groups. Only the forward pass is shared.
    reference = plain_engine()
    owner = {
        tuple(trajectory.token_ids.tolist()): (k, j)
        for k, group in enumerate(groups)
        for j, trajectory in enumerate(group.trajectories)
    }
    total = 0.0
    for row in rows:
        logprobs, _ = reference.logprobs(row)
        advantage, scale = torch.zeros_like(logprobs), torch.zeros_like(logprobs)
        for segment in row.segment_ids.unique():
            here = (row.segment_ids == segment) & row.loss_mask
            k, j = owner[tuple(row.token_ids[here].tolist())]
            advantage[here] = float(selections[k].advantages[j])
            scale[here] = 1 / len(groups[k].trajectories[j].token_ids) / (len(groups) * 4)
        ratio = torch.exp(logprobs - row.rollout_logprobs)
        surrogate = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.28) * advantage)
        loss = -(scale * surrogate).sum()
        loss.backward()
        total += loss.item()
    assert sums.loss == total
    for name, parameter in reference.model.named_parameters():
        assert torch.equal(engine.gradients[name], parameter.grad), name


def test_the_cut_into_rows_does_not_change_the_gradient(plain_engine, pack, batch):
    groups, selections = batch
    gradients = []
    for row_tokens in (39, 64, 300):
        [rows] = pack(groups, selections, row_tokens=row_tokens)
        engine = plain_engine()
        Updater(engine, Loss(OBJECTIVE)).step([*rows, collate([])])
        gradients.append(flat(engine.gradients))
    assert len(gradients[0]) > 10_000
    for other in gradients[1:]:
        assert (other - gradients[0]).abs().max() < 1e-6


def self_normalised(selection):
    total = selection.weight.sum()
    return replace(selection, weight=selection.weight * len(selection.weight) / max(total, 1e-9))


def divided_by_survivors(selection):
    kept = max(int(selection.keep.sum()), 1)
    weight = selection.keep * len(selection.keep) / kept
    return replace(selection, weight=weight)


def unweighted(selection):
    return replace(selection, weight=selection.keep.astype(float))


def test_thinning_is_unbiased_and_other_divisors_are_not(plain_engine, batch):
    """Average over every way in which the thinning can turn out, exactly."""
    groups, selections = batch
    groups, selections = [groups[0], groups[4]], [selections[0], selections[4]]
    probabilities = np.array([[0.9, 0.3, 1.0, 0.5], [0.4, 1.0, 0.8, 0.25]])
    engine = plain_engine(lr=1e-12)
    # The loss is linear in loss_weights, so each response's gradient is taken once.
    gradients = np.zeros((2, 4), dtype=object)
    for k, j in np.ndindex(2, 4):
        segment = segment_of(groups[k], selections[k], j, num_groups=2)
        Updater(engine, Loss(OBJECTIVE)).step([collate([segment])])
        gradients[k, j] = flat(engine.gradients).double().numpy() / segment.loss_weight
    full = sum(
        gradients[k, j] * segment_of(groups[k], selections[k], j, num_groups=2).loss_weight
        for k, j in np.ndindex(2, 4)
    )

    def expectation(variant):
        mean = np.zeros((2, 4))
        for k in range(2):
            for pattern in itertools.product([False, True], repeat=4):
                keep = np.array(pattern)
                chance = np.where(keep, probabilities[k], 1 - probabilities[k]).prod()
                weight = np.where(keep, 1 / probabilities[k], 0.0)
                thinned = variant(replace(selections[k], keep=keep, weight=weight))
                for j in np.flatnonzero(keep):
                    segment = segment_of(groups[k], thinned, int(j), num_groups=2)
                    mean[k, j] += chance * segment.loss_weight
        estimate = sum(mean[k, j] * gradients[k, j] for k, j in np.ndindex(2, 4))
        return np.linalg.norm(estimate - full) / np.linalg.norm(full)

    assert expectation(lambda selection: selection) < 1e-9
    for variant in (self_normalised, divided_by_survivors, unweighted):
        assert expectation(variant) > 0.05, variant.__name__


@dataclass(frozen=True)
class LossWithoutGradient:
    """A loss of infinity whose gradient is zero: only the loss itself gives it away."""

    def token_losses(self, inputs):
        return ObjectiveOutput(token_losses=inputs.learner_logprobs * 0 + torch.inf, metrics={})


def test_a_difference_that_is_not_a_number_is_not_told_as_none(plain_engine, pack, batch):
    [rows] = pack(*batch, row_tokens=64)
    broken = replace(rows[0], rollout_logprobs=rows[0].rollout_logprobs * math.nan)
    sums = Updater(plain_engine(), Loss(OBJECTIVE)).step([broken, *rows[1:]])
    ranks = [replace(sums, token_maxima={"kl_rollout_k1": 0.5}), sums]
    assert math.isnan(merge_sums([ranks], row_tokens=64)["learner/max_logprob_difference"])


@pytest.mark.parametrize("kind", ["infinite loss", "nan weight", "nan weight before padding"])
def test_a_non_finite_loss_changes_nothing_and_the_next_step_works(plain_engine, pack, batch, kind):
    [rows] = pack(*batch)
    engine, fresh = plain_engine(), plain_engine()
    before = {name: value.clone() for name, value in engine.model.state_dict().items()}
    if kind == "infinite loss":
        sums = Updater(engine, Loss(LossWithoutGradient())).step(rows)
    else:
        bad = [replace(rows[0], loss_weights=rows[0].loss_weights * torch.nan), *rows[1:]]
        bad += [collate([])] * (kind == "nan weight before padding")
        sums = Updater(engine, Loss(OBJECTIVE)).step(bad)
    assert not sums.outcome.applied
    after = engine.model.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    Updater(engine, Loss(OBJECTIVE)).step(rows)
    Updater(fresh, Loss(OBJECTIVE)).step(rows)
    for a, b in zip(engine.model.parameters(), fresh.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_sums_leave_padding_out(plain_engine, pack, batch):
    [rows] = pack(*batch)
    padded = Updater(plain_engine(), Loss(OBJECTIVE)).step([*rows, collate([])])
    plain = Updater(plain_engine(), Loss(OBJECTIVE)).step(rows)
    assert padded.num_tokens == plain.num_tokens == 146
    assert padded.num_rows == plain.num_rows == len(rows)
    assert padded.num_row_tokens == plain.num_row_tokens
    assert padded.token_sums == plain.token_sums
    assert padded.token_maxima == plain.token_maxima


def test_no_rows_are_refused(plain_engine):
    with pytest.raises(ValueError, match=r"^rows must not be empty, got \[\]$"):
        Updater(plain_engine(), Loss(OBJECTIVE)).step([])


def test_metrics_divide_by_the_tokens_of_all_ranks():
    def sums(loss, num_tokens, row_tokens, ratio, difference, outcome):
        return StepSums(
            loss,
            num_tokens,
            row_tokens,
            1,
            {"ratio": ratio},
            {"kl_rollout_k1": difference},
            outcome,
        )

    applied, skipped = StepOutcome(True, 2.0, 1e-4), StepOutcome(False, float("inf"), 2e-4)
    metrics = merge_sums(
        [
            [sums(1.0, 10, 30, 11.0, 0.1, applied), sums(0.5, 30, 60, 31.0, 0.4, applied)],
            [sums(np.nan, 5, 20, 4.0, 0.2, skipped), sums(3.0, 5, 20, 6.0, 0.3, skipped)],
        ],
        row_tokens=100,
    )
    assert metrics["learner/loss"] == 1.5
    assert metrics["learner/grad_norm"] == 2.0
    assert metrics["learner/ratio"] == 52 / 50
    assert metrics["learner/lr"] == 2e-4
    assert metrics["learner/tokens"] == 50
    assert metrics["learner/rows"] == 4
    assert metrics["learner/row_fill"] == 130 / 400
    assert metrics["learner/max_logprob_difference"] == 0.4
    assert metrics["learner/optimizer_steps"] == 1
    assert metrics["learner/skipped_steps"] == 1
    nothing = merge_sums([], row_tokens=100)
    assert nothing["learner/optimizer_steps"] == 0 and np.isnan(nothing["learner/loss"])


@pytest.fixture
def engine_with_reference(plain_engine):
    """Engines whose reference is another policy, at a distance from the learner's."""
    other = plain_engine(temperature=1.7)
    reference = PackedPolicy(other.model, 1.7)

    def build(**settings):
        engine = plain_engine(**settings)
        engine.reference = reference
        return engine

    return build


def origins_of(rows, policy):
    """Old log-probabilities under a policy, one for all ways of packing."""
    return [
        RowOrigin(old_logprobs=old, staleness=torch.ones(int(row.loss_mask.sum()), dtype=int))
        for row, old in zip(rows, old_logprobs(policy, rows), strict=True)
    ]


@pytest.mark.parametrize("correction", [Truncated(), Band()])
def test_recomputed_agrees_with_rollout_when_the_learner_sampled(
    plain_engine, pack, batch, correction
):
    [rows] = pack(*batch)
    rollout, recomputed = plain_engine(), plain_engine()
    # As if the learner itself had sampled them.
    rows = [
        replace(row, rollout_logprobs=logprobs)
        for row, logprobs in zip(rows, old_logprobs(rollout, rows), strict=True)
    ]
    plain = Updater(rollout, Loss(OBJECTIVE)).step(rows)
    origins = [RowOrigin(old_logprobs=old) for old in old_logprobs(recomputed, rows)]
    found = Updater(recomputed, Loss(OBJECTIVE, correction=correction)).step(rows, origins=origins)
    assert found.loss == plain.loss and found.token_sums["cut_share"] == 0
    assert torch.equal(flat(recomputed.gradients), flat(rollout.gradients))


def test_without_coefficients_no_reference_is_asked_for(plain_engine, pack, batch):
    [rows] = pack(*batch)
    engine = plain_engine()
    engine.reference_logprobs = None
    Updater(engine, Loss(OBJECTIVE, correction=Band(weigh=False))).step(rows)


def test_with_weights_the_terms_without_advantage_are_those_of_all_responses(
    engine_with_reference, batch
):
    """Over every way in which the thinning can turn out; q = 0 for advantage 0 leaves a bias."""
    groups, selections = [batch[0][0]], [replace(batch[1][0], advantages=np.array([1.0, -1, 0, 0]))]
    loss = Loss(OBJECTIVE, kl_coefficient=0.3, entropy_coefficient=0.1)
    engine = engine_with_reference(lr=1e-12)
    gradients = np.zeros((4, 10_000))
    for j in range(4):
        segment = segment_of(groups[0], selections[0], j, num_groups=1)
        Updater(engine, loss).step([collate([segment])])
        gradients[j] = flat(engine.gradients).double().numpy()[:10_000]
    full = gradients.sum(axis=0)

    def bias(probabilities):
        mean = 0.0
        for pattern in itertools.product([False, True], repeat=4):
            keep = np.array(pattern)
            chance = np.where(keep, probabilities, 1 - probabilities).prod()
            weights = np.where(keep, 1 / np.maximum(probabilities, 1e-9), 0.0)
            mean = mean + chance * (weights @ gradients)
        return np.linalg.norm(mean - full) / np.linalg.norm(full)

    assert bias(np.array([0.5, 1.0, 0.25, 0.125])) < 1e-9
    assert bias(np.array([0.5, 1.0, 0.0, 0.0])) > 0.05


def test_a_step_whose_loss_scale_was_too_large_is_tried_again(plain_engine, pack, batch):
    [rows] = pack(*batch)
    engine, plain = plain_engine(), plain_engine()
    tries, step = [], engine.step

    def overflowing():
        tries.append(len(tries))
        if len(tries) < 3:
            engine.optimizer.zero_grad()
            return StepOutcome(applied=False, grad_norm=math.nan, lr=1e-3, retry=True)
        return step()

    engine.step = overflowing
    found = Updater(engine, Loss(OBJECTIVE)).step(rows)
    assert len(tries) == 3
    assert found == Updater(plain, Loss(OBJECTIVE)).step(rows)
    assert torch.equal(flat(engine.gradients), flat(plain.gradients))
