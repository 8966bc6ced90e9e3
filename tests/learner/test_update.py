"""One optimiser step: the estimator's loss, however it is cut up, and what is skipped."""

import copy
import itertools
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from learner.batch import collate, segment_of
from learner.config import RejectedShares
from learner.corrections import Band, Truncated
from learner.logprobs import PackedPolicy
from learner.loss import LossTerms, RowOrigin
from learner.objectives import ClippedSurrogate, ObjectiveOutput
from learner.update import (
    StepOutcome,
    StepSums,
    merge_sums,
    old_logprobs,
    top_tokens,
    update_step,
)

OBJECTIVE = ClippedSurrogate(clip_low=0.2, clip_high=0.28)


def flat(gradients):
    return torch.cat([gradient.flatten() for gradient in gradients.values()])


@pytest.mark.parametrize("row_tokens", [64, 39])
def test_weights_of_one_are_bitwise_plain_grpo(plain_engine, pack, batch, row_tokens):
    groups, selections = batch
    [rows] = pack(groups, selections, row_tokens=row_tokens)
    engine = plain_engine()
    sums = update_step(engine, rows, OBJECTIVE)

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
        update_step(engine, [*rows, collate([])], OBJECTIVE)
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
        update_step(engine, [collate([segment])], OBJECTIVE)
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

    def token_losses(self, learner_logprobs, rollout_logprobs, advantages, segment_ids, loss_mask):
        return ObjectiveOutput(token_losses=learner_logprobs * 0 + torch.inf, metrics={})


@pytest.mark.parametrize("kind", ["infinite loss", "nan weight", "nan weight before padding"])
def test_a_non_finite_loss_changes_nothing_and_the_next_step_works(plain_engine, pack, batch, kind):
    [rows] = pack(*batch)
    engine, fresh = plain_engine(), plain_engine()
    before = {name: value.clone() for name, value in engine.model.state_dict().items()}
    if kind == "infinite loss":
        sums = update_step(engine, rows, LossWithoutGradient())
    else:
        bad = [replace(rows[0], loss_weights=rows[0].loss_weights * torch.nan), *rows[1:]]
        bad += [collate([])] * (kind == "nan weight before padding")
        sums = update_step(engine, bad, OBJECTIVE)
    assert not sums.outcome.applied
    after = engine.model.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    update_step(engine, rows, OBJECTIVE)
    update_step(fresh, rows, OBJECTIVE)
    for a, b in zip(engine.model.parameters(), fresh.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_sums_leave_padding_out(plain_engine, pack, batch):
    [rows] = pack(*batch)
    padded = update_step(plain_engine(), [*rows, collate([])], OBJECTIVE)
    plain = update_step(plain_engine(), rows, OBJECTIVE)
    assert padded.num_tokens == plain.num_tokens == 146
    assert padded.num_rows == plain.num_rows == len(rows)
    assert padded.num_row_tokens == plain.num_row_tokens
    assert padded.token_sums == plain.token_sums
    assert padded.token_maxima == plain.token_maxima


class Ranks:
    """Several PlainEngines in threads that gather from each other, as ranks do."""

    def __init__(self, build, num_ranks):
        self._barrier = threading.Barrier(num_ranks, timeout=60)
        self._values = [None] * num_ranks
        self.engines = [build() for _ in range(num_ranks)]
        self.num_gathers = 0
        for rank, engine in enumerate(self.engines):
            engine.num_ranks = num_ranks
            engine.gather = lambda values, rank=rank: torch.cat(self._exchange(rank, values))
            engine.agree = lambda value, rank=rank: all(self._exchange(rank, value))
            engine.head_change = lambda gradient, rank=rank, alone=engine.head_change: alone(
                sum(self._exchange(rank, gradient))
            )

    def _exchange(self, rank, value):
        self.num_gathers += rank == 0 and isinstance(value, torch.Tensor)
        self._values[rank] = value
        self._barrier.wait()
        everyone = list(self._values)
        self._barrier.wait()
        return everyone

    def update(self, rows_of_ranks, **settings):
        """One step; the sums of every rank, and the gradient averaged over ranks."""
        with ThreadPoolExecutor(len(self.engines)) as pool:
            calls = [
                pool.submit(update_step, engine, rows, OBJECTIVE, **settings)
                for engine, rows in zip(self.engines, rows_of_ranks, strict=True)
            ]
            sums = [call.result() for call in calls]
        return sums, torch.stack([flat(e.gradients) for e in self.engines]).mean(dim=0)


def test_all_tokens_are_bitwise_the_plain_step_for_one_forward_a_row(plain_engine, pack, batch):
    [rows] = pack(*batch)
    plain, sharing = plain_engine(), plain_engine()
    expected = update_step(plain, rows, OBJECTIVE)
    sharing.gather = None  # nobody may ask
    found = update_step(sharing, rows, OBJECTIVE, token_share=1.0)
    assert found == expected
    assert torch.equal(flat(sharing.gradients), flat(plain.gradients))


@pytest.mark.parametrize("share", [0.2, 0.5, 0.99])
def test_the_top_tokens_by_advantage_times_entropy_and_no_others(plain_engine, batch, share):
    """Against the definition, token by token, in plain loops over the responses."""
    groups, selections = batch
    segments = [
        segment_of(group, selection, j, num_groups=5)
        for group, selection in zip(groups, selections, strict=True)
        for j in range(len(group.trajectories))
    ]
    ranks = Ranks(plain_engine, 1)
    [sums], gradient = ranks.update([[collate([s]) for s in segments]], token_share=share)

    reference = plain_engine()
    tokens = []
    for segment in segments:
        row = collate([segment])
        logprobs, entropies = reference.logprobs(row)
        losses = OBJECTIVE.token_losses(
            logprobs, row.rollout_logprobs, row.advantages, row.segment_ids, row.loss_mask
        ).token_losses
        for t in np.flatnonzero(segment.loss_mask):
            score = abs(segment.advantage) * entropies[t].item()
            tokens.append((score, segment.loss_weight, losses[t]))
    kept = sorted(tokens, key=lambda token: -token[0])[: math.ceil(share * len(tokens))]
    assert len(kept) < len(tokens)
    scale = sum(weight for _, weight, _ in tokens) / sum(weight for _, weight, _ in kept)
    loss = scale * sum(weight * token_loss for _, weight, token_loss in kept)
    loss.backward()
    expected = flat({name: p.grad for name, p in reference.model.named_parameters()})
    assert sums.loss == pytest.approx(loss.item(), rel=1e-5)
    assert (gradient - expected).abs().max() < 1e-5 * expected.abs().max()
    assert sums.num_tokens == len(tokens)


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_ranks_and_rows_do_not_decide_which_tokens_are_kept(plain_engine, pack, batch, num_ranks):
    groups, selections = batch
    alone = Ranks(plain_engine, 1)
    [whole], expected = alone.update(pack(groups, selections, 1, 300), token_share=0.3)
    ranks = Ranks(plain_engine, num_ranks)
    sums, gradient = ranks.update(pack(groups, selections, num_ranks), token_share=0.3)
    assert ranks.num_gathers == 2
    assert (gradient - expected).abs().max() < 1e-5 * expected.abs().max()
    assert sum(rank.loss for rank in sums) == pytest.approx(whole.loss, rel=1e-5)


def test_a_rank_with_nothing_but_padding_takes_part(plain_engine, pack, batch):
    groups, selections = batch
    [rows] = pack(groups, selections)
    alone, two = Ranks(plain_engine, 1), Ranks(plain_engine, 2)
    _, expected = alone.update([rows], token_share=0.3)
    _, gradient = two.update([rows, [collate([])] * len(rows)], token_share=0.3)
    assert (gradient - expected).abs().max() < 1e-6


def test_tokens_that_count_the_same_give_the_mean_over_the_kept(plain_engine, batch):
    """With one weight for all tokens that adds up to 1, D3S's own plain mean."""
    groups, selections = batch
    segments = [
        segment_of(groups[k], replace(selections[k], factors=np.full(4, 20 / 88)), j, num_groups=5)
        for k in (0, 1)
        for j in range(4)
    ]
    num_tokens = sum(int(segment.loss_mask.sum()) for segment in segments)
    row = collate([replace(s, loss_weight=1 / num_tokens) for s in segments])
    [sums], _ = Ranks(plain_engine, 1).update([[row]], token_share=0.25)
    logprobs, entropies = plain_engine().logprobs(row)
    losses = OBJECTIVE.token_losses(
        logprobs, row.rollout_logprobs, row.advantages, row.segment_ids, row.loss_mask
    ).token_losses[row.loss_mask]
    scores = (row.advantages.abs() * entropies)[row.loss_mask]
    best = scores.topk(math.ceil(0.25 * num_tokens)).indices
    assert sums.loss == pytest.approx(losses[best].mean().item(), abs=1e-6)


def test_top_tokens():
    ones = torch.ones(30)
    scores = torch.arange(30.0)
    assert top_tokens(scores, ones, 0.1) == (27.0, 10.0)
    assert top_tokens(scores, ones, 1e-9) == (29.0, 30.0)
    assert top_tokens(scores, ones, 1.0) == (0.0, 1.0)
    assert top_tokens(torch.zeros(4), torch.ones(4), 0.5) == (0.0, 1.0)
    assert top_tokens(torch.tensor([1.0, 3.0]), torch.tensor([0.75, 0.25]), 0.5) == (3.0, 4.0)
    assert top_tokens(torch.zeros(0), torch.zeros(0), 0.5) == (-math.inf, 1.0)
    _, factor = top_tokens(torch.tensor([math.nan, 1.0]), torch.ones(2), 0.5)
    assert not math.isfinite(factor)


def test_an_entropy_that_is_not_a_number_skips_the_step(plain_engine, pack, batch):
    [rows] = pack(*batch)
    ranks = Ranks(plain_engine, 1)
    [engine] = ranks.engines
    before = {name: value.clone() for name, value in engine.model.state_dict().items()}
    with torch.no_grad():
        engine.model.lm_head.weight[0] = torch.nan
        before["lm_head.weight"][0] = torch.nan
    [sums], _ = ranks.update([rows], token_share=0.3)
    assert not sums.outcome.applied
    for name, value in engine.model.state_dict().items():
        assert torch.equal(value.nan_to_num(), before[name].nan_to_num()), name


SHARES = RejectedShares(low=0.1, high=0.05, shift=0.1)


def at_ratio_one(rows, engine):
    """The rows as if the learner itself had sampled them."""
    scored = zip(rows, old_logprobs(engine, rows), strict=True)
    return [replace(row, rollout_logprobs=logprobs) for row, logprobs in scored]


def test_the_mask_is_of_what_the_whole_step_would_do_to_each_token(plain_engine, pack, batch):
    """Against a real step on all tokens, and the moments' definition token by token."""
    [rows] = pack(*batch)
    whole = plain_engine(temperature=0.9, weight_decay=0.0, max_grad_norm=1e9)
    # Then Adam has moments.
    update_step(whole, at_ratio_one(rows, whole), OBJECTIVE)
    rows = [*at_ratio_one(rows, whole), collate([])]
    masked, reference = copy.deepcopy(whole), copy.deepcopy(whole)

    head = whole.model.lm_head.weight.detach().clone()
    with torch.no_grad():
        hidden = [
            whole.model.model(
                input_ids=row.token_ids[None], position_ids=row.position_ids[None], use_cache=False
            ).last_hidden_state[0]
            for row in rows
        ]
    update_step(whole, rows, OBJECTIVE)
    delta = whole.model.lm_head.weight.detach() - head
    moments = {}
    for i, row in enumerate(rows[:-1]):
        for t in row.loss_mask.nonzero()[:, 0].tolist():
            h, advantage = hidden[i][t - 1] / 0.9, row.advantages[t]
            pi, u = (head @ h).softmax(0), delta @ h
            d = torch.eye(len(pi))[row.token_ids[t]] - pi
            squared, variance = (d @ u) ** 2, (pi * u**2).sum() - (pi @ u) ** 2
            moment = advantage * (d @ u) + advantage * (squared - variance) / 2
            moments[i, t] = moment.item(), squared.item() / 2
    by_moment = sorted(moments, key=lambda token: moments[token][0])
    by_shift = sorted(moments, key=lambda token: moments[token][1])
    left_out = {*by_moment[:14], *by_moment[-7:], *by_shift[-14:]}
    assert len(moments) == 146 and 14 < len(left_out) < 35

    weights = [row.loss_weights.clone() for row in rows]
    for i, t in left_out:
        weights[i][t] = 0
    expected = [replace(row, loss_weights=w) for row, w in zip(rows, weights, strict=True)]
    update_step(reference, expected, OBJECTIVE)
    sums = update_step(masked, rows, OBJECTIVE, curvature=SHARES)
    assert torch.equal(flat(masked.gradients), flat(reference.gradients))
    share = merge_sums([[sums]], row_tokens=64)["learner/curvature_rejected_share"]
    assert share == pytest.approx(len(left_out) / 146)


def test_without_shares_to_reject_the_step_is_bitwise_the_plain_one(plain_engine, pack, batch):
    [rows] = pack(*batch)
    plain, masking = plain_engine(), plain_engine()
    expected = update_step(plain, rows, OBJECTIVE)
    masking.hidden_states = masking.gather = None  # nobody may ask
    assert update_step(masking, rows, OBJECTIVE, curvature=RejectedShares()) == expected
    assert torch.equal(flat(masking.gradients), flat(plain.gradients))


@pytest.mark.parametrize("token_share", [1.0, 0.5])
def test_ranks_and_rows_do_not_decide_which_tokens_are_masked(
    plain_engine, pack, batch, token_share
):
    groups, selections = batch
    settings = {"curvature": SHARES, "token_share": token_share}
    [whole], expected = Ranks(plain_engine, 1).update(pack(groups, selections, 1, 300), **settings)
    num_rejected = whole.token_sums["curvature_rejected_share"]
    # Of the tokens that are left, a tenth by each of two thresholds and a twentieth by one.
    assert int(14 * token_share) <= num_rejected <= int(35 * token_share)
    [rows] = pack(groups, selections)
    for rows_of_ranks in (pack(groups, selections, 2), [rows, [collate([])] * len(rows)]):
        sums, gradient = Ranks(plain_engine, 2).update(rows_of_ranks, **settings)
        assert (gradient - expected).abs().max() < 1e-5 * expected.abs().max()
        found = sum(rank.token_sums["curvature_rejected_share"] for rank in sums)
        assert found == num_rejected


def test_a_mask_hides_no_loss_that_is_not_a_number(plain_engine, pack, batch):
    [rows] = pack(*batch)
    ranks = Ranks(plain_engine, 1)
    bad = [replace(rows[0], loss_weights=rows[0].loss_weights * torch.nan), *rows[1:]]
    [sums], _ = ranks.update([bad], curvature=SHARES)
    assert not sums.outcome.applied


@pytest.mark.parametrize("share", [0.0, 1.5, float("nan")])
def test_a_token_share_out_of_range_is_refused(plain_engine, pack, batch, share):
    [rows] = pack(*batch)
    with pytest.raises(ValueError, match=r"^token_share must lie in \(0, 1\], got"):
        update_step(plain_engine(), rows, OBJECTIVE, token_share=share)


def test_no_rows_are_refused(plain_engine):
    with pytest.raises(ValueError, match=r"^rows must not be empty, got \[\]$"):
        update_step(plain_engine(), [], OBJECTIVE)


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


ALL_TERMS = LossTerms(
    correction=Truncated(cap=1.2), kl_coefficient=0.3, kl_estimator="k2", entropy_coefficient=0.1
)


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
    rows = at_ratio_one(rows, rollout)
    plain = update_step(rollout, rows, OBJECTIVE)
    origins = [RowOrigin(old_logprobs=old) for old in old_logprobs(recomputed, rows)]
    found = update_step(
        recomputed, rows, OBJECTIVE, terms=LossTerms(correction=correction), origins=origins
    )
    assert found.loss == plain.loss and found.token_sums["cut_share"] == 0
    assert torch.equal(flat(recomputed.gradients), flat(rollout.gradients))


def test_without_coefficients_no_reference_is_asked_for(plain_engine, pack, batch):
    [rows] = pack(*batch)
    engine = plain_engine()
    engine.reference_logprobs = None
    update_step(engine, rows, OBJECTIVE, terms=LossTerms(correction=Band(weigh=False)))


def test_with_weights_the_terms_without_advantage_are_those_of_all_responses(
    engine_with_reference, batch
):
    """Over every way in which the thinning can turn out; q = 0 for advantage 0 leaves a bias."""
    groups, selections = [batch[0][0]], [replace(batch[1][0], advantages=np.array([1.0, -1, 0, 0]))]
    terms = LossTerms(kl_coefficient=0.3, entropy_coefficient=0.1)
    engine = engine_with_reference(lr=1e-12)
    gradients = np.zeros((4, 10_000))
    for j in range(4):
        segment = segment_of(groups[0], selections[0], j, num_groups=1)
        update_step(engine, [collate([segment])], OBJECTIVE, terms=terms)
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
    found = update_step(engine, rows, OBJECTIVE)
    assert len(tries) == 3
    assert found == update_step(plain, rows, OBJECTIVE)
    assert torch.equal(flat(engine.gradients), flat(plain.gradients))
