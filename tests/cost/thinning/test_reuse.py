"""Earlier batches beside the present one: the mean over all coins, gate, and what is held."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from cost.aggregations import ConstantLength
from cost.draws.allocators.dapo import DynamicSampling
from cost.prices.seconds import SecondsPrice
from cost.thinning.clipping import GradientShare, gradient_norms, largest_share
from cost.thinning.reuse import EarlierBatches, SecondPass, joined
from cost.thinning.subsets import Pods
from cost.thinning.thinning import CostAware, KeepAll, Thinning
from cost.types import Feedback, Selection
from learner.batch_plan import split_groups
from tests.cost.play import select

SIZE = 2
"""Responses of a group."""


class Coins:
    """A batch of P groups: weights, gradients and keep probabilities of its responses."""

    def __init__(self, seed, num_groups):
        rng = np.random.default_rng(seed)
        self.first = 100 * seed
        self.weights = rng.uniform(0.5, 2, num_groups)
        self.parts = rng.normal(1, 1, (num_groups, SIZE))
        """Factor x advantage x gradient of each response."""
        self.q = rng.uniform(0.2, 0.9, (num_groups, SIZE))

    @property
    def full(self):
        return float((self.weights * self.parts.mean(axis=1)).mean())

    def outcomes(self):
        """All selections with their probabilities."""
        for bits in product([False, True], repeat=self.q.size):
            keep = np.array(bits).reshape(self.q.shape)
            weights = np.where(keep, self.weights[:, None] / self.q, 0.0)
            chance = float(np.prod(np.where(keep, self.q, 1 - self.q)))
            ones = np.ones(SIZE)
            yield (
                chance,
                [
                    Selection(self.first + k, keep[k], weights[k], ones, ones)
                    for k in range(len(keep))
                ],
            )

    def gradient(self, one, num_groups):
        """A group's part of what a learner adds up that divides by so many groups."""
        return float((one.weight * self.parts[one.ticket_id % 100]).sum()) / (SIZE * num_groups)


def learned(batches, selections):
    """A learner's gradient of one step: it divides by all plain groups that it is given."""
    num_groups = sum(not one.exploring for one in selections)
    return sum(batches[one.ticket_id // 100].gradient(one, num_groups) for one in selections)


def expected(batches, step):
    """Enumerate the coins of all batches; the first is the present one."""
    mean = 0.0
    for outcome in product(*(batch.outcomes() for batch in batches)):
        chance = np.prod([one for one, _ in outcome])
        own, *earlier = (selections for _, selections in outcome)
        mean += chance * step(own, earlier)
    return mean


@pytest.mark.parametrize("sizes", [(2, 3), (3, 1), (1, 2, 1)])
def test_the_mean_over_all_coins_is_that_of_full_batches_with_equal_shares(sizes):
    batches = {seed: Coins(seed, size) for seed, size in enumerate(sizes)}

    def step(own, earlier):
        own, again = joined(own, earlier)
        return learned(batches, [*own, *again])

    full = np.mean([batch.full for batch in batches.values()])
    assert expected(batches.values(), step) == pytest.approx(full, rel=1e-12)


def test_groups_put_together_as_one_batch_are_biased():
    """A divisor that counts the groups of which a coin kept anything depends on the coins."""
    batches = {seed: Coins(seed, size) for seed, size in enumerate((2, 3))}

    def step(own, earlier):
        again = [one for one in earlier[0] if one.keep.any()]
        return learned(batches, [*own, *again])

    full = np.mean([batch.full for batch in batches.values()])
    assert abs(expected(batches.values(), step) / full - 1) > 0.02


def test_random_cuts_into_optimiser_steps_keep_the_mean():
    batches = {seed: Coins(seed, size) for seed, size in enumerate((3, 3))}
    (_, present), (_, before) = (list(batch.outcomes())[-2] for batch in batches.values())
    own, again = joined(present, [before])
    given = [*own, *again]
    steps = [
        learned(batches, [given[k] for k in part])
        for seed in range(3000)
        for part in split_groups(len(given), 2, np.random.default_rng(seed))
    ]
    error = 5 * np.std(steps) / len(steps) ** 0.5
    assert np.mean(steps) == pytest.approx(learned(batches, given), abs=error)


def test_without_earlier_batches_nothing_changes_and_exploring_groups_keep_their_part():
    _, plain = list(Coins(0, 4).outcomes())[-1]
    exploring = [replace(plain[0], ticket_id=7, exploring=True)]
    own, again = joined([*plain, *exploring], [])
    assert [one.weight.tolist() for one in own[:4]] == [one.weight.tolist() for one in plain]
    assert not again
    _, before = list(Coins(1, 2).outcomes())[-1]
    own, again = joined([*plain, *exploring], [before])
    # Over six plain groups in place of four.
    np.testing.assert_allclose(own[4].weight / 6, exploring[0].weight / 4)
    np.testing.assert_allclose(own[0].weight / 6, plain[0].weight / 4 / 2)
    np.testing.assert_allclose(again[0].weight / 6, before[0].weight / 2 / 2)


def test_a_batch_without_members_leaves_the_earlier_ones():
    _, before = list(Coins(1, 2).outcomes())[-1]
    own, again = joined([], [before])
    assert own == [] and len(again) == 2
    np.testing.assert_allclose(again[0].weight / 2, before[0].weight / 2 / 2)


@pytest.mark.parametrize("kind", [EarlierBatches, SecondPass])
def test_the_gate_is_closed_at_first_and_after_a_step_far_from_the_samples(kind):
    reuse = kind(first_batch=3, least_effective_share=0.5)
    assert not reuse.opens(2, 1.0)
    assert reuse.opens(3, 1.0) and reuse.opens(3, np.nan) and reuse.opens(9, 0.5)
    assert not reuse.opens(9, 0.49)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_age": 0}, "reuse.max_age must be at least 1, got 0"),
        ({"budget": 0.0}, r"reuse.budget must lie in \(0, 1\], got 0.0"),
        ({"floor": 1.5}, r"reuse.floor must lie in \(0, 1\], got 1.5"),
        ({"first_batch": -1}, "reuse.first_batch must"),
        ({"least_effective_share": 2.0}, "reuse.least_effective_share must"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        EarlierBatches(**settings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reuse": KeepAll()}, "scheduler.reuse must be a plug with the method opens"),
        ({"reuse": EarlierBatches(), "thinning": Pods()}, "scheduler.thinning must undo its prob"),
    ],
)
def test_schedulers_that_cannot_reuse_are_refused(make_config, changes, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        make_config(**changes)


class EveryResponse(EarlierBatches):
    """Takes all of them again."""

    def thin(self, candidates, rng):
        return Thinning(candidates.usable, candidates.usable.astype(float))


def play_batches(scheduler, make_report, num_batches):
    """Reused selections and the batches' own, batch by batch."""
    own, again = [], []
    for batch in range(num_batches):
        reports = [make_report(ticket) for ticket in scheduler.draw(batch, batch).tickets]
        own.append(select(scheduler, batch, reports))
        again.append(scheduler.reuse(batch))
    return own, again


def test_a_scheduler_selects_again_from_the_last_batches(make_scheduler, make_report):
    scheduler = make_scheduler(reuse=EveryResponse(max_age=2), thinning=CostAware(budget=0.3))
    own, again = play_batches(scheduler, make_report, 5)
    assert [len(earlier) for earlier in again] == [0, 1, 2, 2, 2]
    for batch, earlier in enumerate(again):
        for first, once_more in zip(own[max(batch - 2, 0) : batch], earlier, strict=True):
            assert [one.ticket_id for one in once_more] == [one.ticket_id for one in first]
            for old, new in zip(first, once_more, strict=True):
                assert new.advantages.tolist() == old.advantages.tolist()
                assert new.factors.tolist() == old.factors.tolist()
                # The ticket's weight, whatever the thinning's coins have made of it.
                assert set(new.weight) == {scheduler_weight(old, new)}


def scheduler_weight(old, new):
    kept = old.weight[old.keep]
    assert (kept >= new.weight[0] * (1 - 1e-12)).all()
    return new.weight[0]


def test_coins_of_earlier_batches_are_fresh_and_undone(make_scheduler, make_report):
    scheduler = make_scheduler(
        reuse=EarlierBatches(budget=0.4, floor=0.2), aggregation=ConstantLength()
    )
    play_batches(scheduler, make_report, 2)
    [chosen] = scheduler.reuse(1)
    assert any(one.keep.any() for one in chosen) and not all(one.keep.all() for one in chosen)
    earlier = scheduler.selecting._lately[0]
    runs = [
        earlier.select(EarlierBatches(budget=0.4, floor=0.2), None, np.random.default_rng(seed))
        for seed in range(2000)
    ]
    total = sum(np.concatenate([one.weight for one in run]) for run in runs) / len(runs)
    weights = np.repeat([ticket.weight for ticket in earlier.tickets], 4)
    with_advantage = np.concatenate([one.advantages for one in chosen]) != 0
    assert with_advantage.any()
    bound = 5 * weights * np.sqrt((1 / 0.2 - 1) / len(runs))
    assert (np.abs(total - weights) < bound)[with_advantage].all()
    assert (total[~with_advantage] == 0).all()


@pytest.mark.parametrize("reuse", [EarlierBatches(budget=0.9), SecondPass(budget=0.9)])
def test_no_response_that_is_used_again_makes_up_too_much(make_scheduler, make_report, reuse):
    """Of its batch's part of the step, as of a step of the batch's own."""
    shares = []
    for clipping in (None, GradientShare(max_share=0.03)):
        scheduler = make_scheduler(reuse=reuse, clipping=clipping, tickets_per_step=32)
        play_batches(scheduler, make_report, 2)
        [chosen] = scheduler.reuse(1)
        earlier = scheduler.selecting._lately[1 - reuse.max_age]
        shares.append(largest_share(gradient_norms(earlier.reports, chosen)))
    assert shares[0] > 0.033 and shares[1] == pytest.approx(0.03)


def test_a_second_pass_is_over_the_batch_itself_with_fresh_coins(make_scheduler, make_report):
    scheduler = make_scheduler(
        reuse=SecondPass(budget=0.4, floor=0.2), thinning=CostAware(budget=0.4, floor=0.2)
    )
    own, again = play_batches(scheduler, make_report, 3)
    first, second = ([one.keep.tolist() for batch in found for one in batch] for found in (
        own, [batch for [batch] in again]
    ))  # fmt: skip
    assert [one.ticket_id for one in again[2][0]] == [one.ticket_id for one in own[2]]
    assert first != second
    assert list(scheduler.selecting._lately) == [2]
    # The same probabilities, so the same weights wherever both coins keep a response.
    both = [
        (old.weight[j], new.weight[j])
        for mine, [once_more] in zip(own, again, strict=True)
        for old, new in zip(mine, once_more, strict=True)
        for j in np.flatnonzero(old.keep & new.keep)
    ]
    assert both and all(old == pytest.approx(new) for old, new in both)


def test_a_batch_without_groups_is_a_batch(make_scheduler, make_report, empty_report):
    """Ages count versions, whatever became of a batch."""
    scheduler = make_scheduler(reuse=EveryResponse(max_age=1))
    play_batches(scheduler, make_report, 1)
    empty = [empty_report(ticket) for ticket in scheduler.draw(1, 1).tickets]
    select(scheduler, 1, empty)
    assert [len(earlier) for earlier in scheduler.reuse(1)] == [8]
    reports = [make_report(ticket) for ticket in scheduler.draw(2, 2).tickets]
    select(scheduler, 2, reports)
    [earlier] = scheduler.reuse(2)
    assert not any(one.keep.any() for one in earlier)


def test_what_is_trained_again_is_entered_and_a_state_leaves_it_out(make_scheduler, make_report):
    scheduler = make_scheduler(reuse=EveryResponse())
    play_batches(scheduler, make_report, 1)
    reports = [make_report(ticket) for ticket in scheduler.draw(1, 1).tickets]
    select(scheduler, 1, reports)
    before = scheduler.metrics()
    [again] = scheduler.reuse(1)
    after = scheduler.metrics()
    added = after["cost/trained_responses"] - before["cost/trained_responses"]
    assert added == sum(one.keep.sum() for one in again) == 32
    assert after["cost/responses"] == before["cost/responses"]
    going_on = make_scheduler(reuse=EveryResponse())
    going_on.load_state_dict(scheduler.state_dict())
    assert going_on.reuse(1) == []
    with pytest.raises(ValueError, match=r"^batch must be 1, the one selected last"):
        scheduler.reuse(0)


def test_a_price_in_seconds_learns_of_what_is_trained_again(make_scheduler, make_report):
    scheduler = make_scheduler(reuse=EveryResponse(), price=SecondsPrice(skip_batches=0))
    counts = []
    for batch in range(3):
        reports = [make_report(ticket) for ticket in scheduler.draw(batch, batch).tickets]
        own, again = select(scheduler, batch, reports), scheduler.reuse(batch)
        counts.append(sum(one.keep.sum() for each in [own, *again] for one in each))
        scheduler.learned(batch, Feedback(1.0, 1.0))
    scheduler.draw(3, 3)
    plugs = scheduler.state_dict()["statistics"]["plugs"]
    decay = SecondsPrice().decay
    learned = plugs["price"]["learner"]["counts"][0]
    assert learned == pytest.approx(sum(n * decay ** (2 - b) for b, n in enumerate(counts)))


def test_a_batch_without_members_gives_nothing_to_use_again(make_scheduler, make_report):
    scheduler = make_scheduler(allocator=DynamicSampling(max_rounds=1), reuse=SecondPass())
    for ticket in scheduler.draw(0, 0).tickets:
        scheduler.observe(make_report(ticket, rewards=np.zeros(ticket.num_samples)))
    assert scheduler.draw(0, 0).members == ()
    assert select(scheduler, 0, []) == [] and scheduler.reuse(0) == []
