"""Tokens left out of a step: the ones that the definitions name, whatever the rows and ranks."""

import copy
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from learner.batch import collate, segment_of
from learner.curvature_config import RejectedShares
from learner.loss import Loss
from learner.objectives import ClippedSurrogate, LossInputs
from learner.token_masks import TopTokens, WithinCurvature, top_tokens
from learner.update import Updater, merge_sums, old_logprobs

OBJECTIVE = ClippedSurrogate(clip_low=0.2, clip_high=0.28)


def flat(gradients):
    return torch.cat([gradient.flatten() for gradient in gradients.values()])


def inputs_of(row, logprobs):
    return LossInputs(
        learner_logprobs=logprobs,
        rollout_logprobs=row.rollout_logprobs,
        advantages=row.advantages,
        segment_ids=row.segment_ids,
        loss_mask=row.loss_mask,
    )


class Ranks:
    """Several PlainEngines in threads that gather from each other, as ranks do.

    Their heads, `head_of` of each, add up gradients.
    """

    def __init__(self, build, num_ranks, head_of=None):
        self._barrier = threading.Barrier(num_ranks, timeout=60)
        self._values = [None] * num_ranks
        self.engines = [build() for _ in range(num_ranks)]
        self.heads = [head_of(engine) for engine in self.engines] if head_of else []
        self.num_gathers = 0
        for rank, engine in enumerate(self.engines):
            engine.num_ranks = num_ranks
            engine.gather = lambda values, rank=rank: torch.cat(self._exchange(rank, values))
            engine.agree = lambda value, rank=rank: all(self._exchange(rank, value))

        for rank, head in enumerate(self.heads):
            head.change = lambda gradient, rank=rank, alone=head.change: alone(
                sum(self._exchange(rank, gradient))
            )

    def _exchange(self, rank, value):
        self.num_gathers += rank == 0 and isinstance(value, torch.Tensor)
        self._values[rank] = value
        self._barrier.wait()
        everyone = list(self._values)
        self._barrier.wait()
        return everyone

    def update(self, rows_of_ranks, *, token_share=1.0, curvature=None):
        """One step; the sums of every rank, and the gradient averaged over ranks."""
        hooks = [[TopTokens(engine, token_share)] for engine in self.engines]
        if curvature is not None:
            for mine, engine, head in zip(hooks, self.engines, self.heads, strict=True):
                mine.append(WithinCurvature(engine, head, curvature))
        with ThreadPoolExecutor(len(self.engines)) as pool:
            calls = [
                pool.submit(Updater(engine, Loss(OBJECTIVE)).step, rows, hooks=mine)
                for engine, rows, mine in zip(self.engines, rows_of_ranks, hooks, strict=True)
            ]
            sums = [call.result() for call in calls]
        return sums, torch.stack([flat(e.gradients) for e in self.engines]).mean(dim=0)


def test_all_tokens_are_bitwise_the_plain_step_for_one_forward_a_row(plain_engine, pack, batch):
    [rows] = pack(*batch)
    plain, sharing = plain_engine(), plain_engine()
    expected = Updater(plain, Loss(OBJECTIVE)).step(rows)
    sharing.gather = None  # nobody may ask
    found = Updater(sharing, Loss(OBJECTIVE)).step(rows, hooks=[TopTokens(sharing, 1.0)])
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
        losses = OBJECTIVE.token_losses(inputs_of(row, logprobs)).token_losses
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


def test_tokens_without_weight_take_nobodys_place(plain_engine, batch):
    groups, selections = batch
    first, *others = (
        segment_of(group, selection, j, num_groups=5)
        for group, selection in zip(groups, selections, strict=True)
        for j in range(len(group.trajectories))
    )
    weightless = collate([replace(first, advantage=1e3, loss_weight=0.0)])
    rows = [collate([segment]) for segment in others]
    [engine] = Ranks(plain_engine, 1).engines
    for share in (0.01, 0.5):
        found, _ = TopTokens(engine, share).before_step([weightless, *rows])
        expected, _ = TopTokens(engine, share).before_step(rows)
        assert found[0].loss_weights.count_nonzero() == 0
        for row, alone in zip(found[1:], expected, strict=True):
            assert torch.equal(row.loss_weights, alone.loss_weights)
            assert row.loss_weights.isfinite().all()
    [alone], _ = TopTokens(engine, 0.5).before_step([weightless])
    assert alone.loss_weights.count_nonzero() == 0


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
    losses = OBJECTIVE.token_losses(inputs_of(row, logprobs)).token_losses[row.loss_mask]
    scores = (row.advantages.abs() * entropies)[row.loss_mask]
    best = scores.topk(math.ceil(0.25 * num_tokens)).indices
    assert sums.loss == pytest.approx(losses[best].mean().item(), abs=1e-6)


@pytest.mark.parametrize("share", [0.0, 1.5, float("nan")])
def test_a_token_share_out_of_range_is_refused(plain_engine, share):
    with pytest.raises(ValueError, match=r"^token_share must lie in \(0, 1\], got"):
        TopTokens(plain_engine(), share)


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


def test_the_mask_is_of_what_the_whole_step_would_do_to_each_token(
    plain_engine, plain_head, pack, batch
):
    """Against a real step on all tokens, and the moments' definition token by token."""
    [rows] = pack(*batch)
    whole = plain_engine(temperature=0.9, weight_decay=0.0, max_grad_norm=1e9)
    # Then Adam has moments.
    Updater(whole, Loss(OBJECTIVE)).step(at_ratio_one(rows, whole))
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
    Updater(whole, Loss(OBJECTIVE)).step(rows)
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
    Updater(reference, Loss(OBJECTIVE)).step(expected)
    mask = WithinCurvature(masked, plain_head(masked), SHARES)
    sums = Updater(masked, Loss(OBJECTIVE)).step(rows, hooks=[mask])
    assert torch.equal(flat(masked.gradients), flat(reference.gradients))
    share = merge_sums([[sums]], row_tokens=64)["learner/curvature_rejected_share"]
    assert share == pytest.approx(len(left_out) / 146)


def test_without_shares_to_reject_the_step_is_bitwise_the_plain_one(
    plain_engine, plain_head, pack, batch
):
    [rows] = pack(*batch)
    plain, masking = plain_engine(), plain_engine()
    expected = Updater(plain, Loss(OBJECTIVE)).step(rows)
    mask = WithinCurvature(masking, plain_head(masking), RejectedShares())
    found = Updater(masking, Loss(OBJECTIVE)).step(rows, hooks=[mask])
    assert found.token_sums.pop("curvature_rejected_share") == 0
    assert found == expected
    assert torch.equal(flat(masking.gradients), flat(plain.gradients))


@pytest.mark.parametrize("token_share", [1.0, 0.5])
def test_ranks_and_rows_do_not_decide_which_tokens_are_masked(
    plain_engine, plain_head, pack, batch, token_share
):
    groups, selections = batch
    settings = {"curvature": SHARES, "token_share": token_share}
    alone = Ranks(plain_engine, 1, plain_head)
    [whole], expected = alone.update(pack(groups, selections, 1, 300), **settings)
    num_rejected = whole.token_sums["curvature_rejected_share"]
    # Of the tokens that are left, a tenth by each of two thresholds and a twentieth by one.
    assert int(14 * token_share) <= num_rejected <= int(35 * token_share)
    [rows] = pack(groups, selections)
    for rows_of_ranks in (pack(groups, selections, 2), [rows, [collate([])] * len(rows)]):
        sums, gradient = Ranks(plain_engine, 2, plain_head).update(rows_of_ranks, **settings)
        assert (gradient - expected).abs().max() < 1e-5 * expected.abs().max()
        found = sum(rank.token_sums["curvature_rejected_share"] for rank in sums)
        assert found == num_rejected


def test_a_mask_hides_no_loss_that_is_not_a_number(plain_engine, plain_head, pack, batch):
    [rows] = pack(*batch)
    ranks = Ranks(plain_engine, 1, plain_head)
    bad = [replace(rows[0], loss_weights=rows[0].loss_weights * torch.nan), *rows[1:]]
    [sums], _ = ranks.update([bad], curvature=SHARES)
    assert not sums.outcome.applied
