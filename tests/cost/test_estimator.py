"""The whole estimator: two stages, by enumeration, and the ways to get it wrong."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from cost.advantages.accepted import Accepted, DecoupledLength
from cost.advantages.across_batch import BatchDeviation, BatchStandardised, Consistency
from cost.advantages.penalties import penalised
from cost.advantages.within_group import GroupMean, GroupStandardised, LeaveOneOut, VirtualBest
from cost.aggregations import BatchTokenMean, ConstantLength
from cost.draws.allocators.square_root import SquareRoot
from cost.draws.allocators.types import Estimates
from cost.prices.tokens import TokenPrice
from cost.thinning.thinning import AdvantageOnly, CostAware, KeepAll, NonZero
from cost.types import LengthReport
from tests.cost.play import select

N, GROUP = 4, 3


@pytest.fixture
def task():
    """Costs, responses' gradients, lengths and keep probabilities of N prompts."""
    rng = np.random.default_rng(0)
    estimates = Estimates(
        lengths=np.full(N, 50.0), costs=np.array([10.0, 30, 90, 270]),
        pass_rates=np.full(N, 0.5), utilities=rng.uniform(0.1, 1, N),
    )  # fmt: skip
    allocation = SquareRoot(floor=0.2).allocate(estimates, None)
    lengths = np.array([[8, 12, 10], [25, 35, 30], [80, 100, 90], [250, 290, 270]])
    return allocation, lengths, rng.normal(1, 1, (N, GROUP)), rng.uniform(0.2, 1, (N, GROUP))


def batches(probabilities, num_draws=2):
    """All ordered batches of independent draws with their probabilities."""
    for batch in product(range(N), repeat=num_draws):
        yield list(batch), np.prod(probabilities[list(batch)])


def expected_gradient(task, weights, aggregation, thinned=True):
    """Enumerate draws, and keep patterns of each drawn group, of the design's estimator."""
    allocation, lengths, gradients, keep_probability = task
    mean = 0.0
    for batch, chance in batches(allocation.probabilities):
        factors = aggregation.factors(
            [lengths[i] for i in batch], [np.ones(GROUP, dtype=bool)] * len(batch), 50.0
        )
        loss = 0.0
        for i, a in zip(batch, factors, strict=True):
            inner = 0.0
            for bits in product([0, 1], repeat=GROUP) if thinned else [(1,) * GROUP]:
                z, q = np.array(bits), keep_probability[i] if thinned else np.ones(GROUP)
                pattern = np.prod(np.where(z == 1, q, 1 - q))
                inner += pattern * ((z / q) * a * gradients[i]).sum()
            loss += weights[i] * inner / GROUP
        mean += chance * loss / len(batch)
    return mean


def uniform_gradient(task, reference=50.0):
    return task[2].mean(axis=1).mean() / reference


def test_two_stages_are_unbiased_for_the_uniform_objective(task):
    assert expected_gradient(task, task[0].weights, ConstantLength()) == pytest.approx(
        uniform_gradient(task), rel=1e-12
    )


def test_without_weights_the_test_sees_the_bias(task):
    assert expected_gradient(task, np.ones(N), ConstantLength()) != pytest.approx(
        uniform_gradient(task), rel=1e-2
    )


def test_a_divisor_that_depends_on_the_draws_is_biased(task):
    """Batch token mean under cost-aware draws differs from its own value under uniform draws."""
    allocation, lengths, gradients, _ = task
    aware = expected_gradient(task, allocation.weights, BatchTokenMean(), thinned=False)
    even = type(allocation)(np.full(N, 1 / N), np.ones(N))
    uniform = expected_gradient(
        (even, lengths, gradients, None), np.ones(N), BatchTokenMean(), thinned=False
    )
    assert abs(aware / uniform - 1) > 0.05
    assert not BatchTokenMean.objective_preserving


def test_probabilities_read_again_after_the_draw_are_caught(make_scheduler, make_report):
    """Tickets carry the probability of their draw; the one in force later gives another answer."""
    scheduler = make_scheduler(num_prompts=6, tickets_per_step=400)
    for ticket in scheduler.draw(0, 0).tickets:
        scheduler.observe(make_report(ticket))
    drawn = scheduler.draw(1, 1).tickets
    at_draw = scheduler.distribution().probabilities
    for ticket in drawn:
        assert ticket.probability == at_draw[ticket.prompt_index]
        assert ticket.weight == pytest.approx(1 / (6 * ticket.probability), rel=1e-12)
    reports = [drifted(make_report(ticket)) for ticket in drawn]
    for report in reports:
        scheduler.observe(report)
    scheduler.draw(2, 2)
    later = scheduler.distribution().probabilities

    gradients = np.arange(1.0, 7.0)
    weight_of = {ticket.prompt_index: ticket.weight for ticket in drawn}
    dispatched = sum(at_draw[i] * weight_of[i] * gradients[i] for i in range(6))
    read_again = sum(at_draw[i] / (6 * later[i]) * gradients[i] for i in range(6))
    assert dispatched == pytest.approx(gradients.mean(), rel=1e-12)
    assert abs(read_again / gradients.mean() - 1) > 1e-3

    selections = select(scheduler, 1, reports)
    for ticket, selection in zip(drawn, selections, strict=True):
        kept = selection.weight[selection.keep]
        assert (kept >= ticket.weight * (1 - 1e-12)).all()


def drifted(report):
    """The report of a policy that answers every second prompt at three times the length."""
    return replace(report, lengths=report.lengths * (3 if report.prompt_index % 2 else 1))


def test_advantages_after_thinning_are_biased(make_groups):
    """Mean over patterns of the survivors' own baseline is not the full group's advantage."""
    groups = make_groups([1.0, 0.0, 0.0, 1.0])
    full_advantages = GroupMean().advantages(groups)
    q = np.array([0.9, 0.3, 0.5, 0.6])
    scores = np.array([1.0, 2.0, -1.0, 3.0])
    full = full_advantages @ scores
    before = after = 0.0
    for bits in product([0, 1], repeat=4):
        z = np.array(bits, dtype=bool)
        chance = np.prod(np.where(z, q, 1 - q))
        before += chance * (z / q) @ (full_advantages * scores)
        after += chance * (z / q) @ (GroupMean().advantages(replace(groups, usable=z)) * scores)
    assert before == pytest.approx(full, abs=1e-12)
    assert abs(after - full) > 0.1


def test_a_batch_in_completion_order_is_short():
    """The first 8 of 16 to finish: why batches are made of tickets in draw order."""
    lengths = np.random.default_rng(0).lognormal(0, 0.6, (20000, 16))
    assert np.sort(lengths)[:, :8].mean() == pytest.approx(0.68, abs=0.01)
    assert lengths[:, :8].mean() == pytest.approx(1.20, abs=0.02)


class World:
    """Prompts whose responses are of a few kinds, each with a probability of its own.

    A kind has a reward, a length, a penalty, and the sum of its tokens' scores [D], which an
    advantage multiplies. The first half of the prompts are always right: no reward teaches there.
    """

    def __init__(self, num_prompts=6, kinds=3, seed=0):
        rng = np.random.default_rng(seed)
        shape = (num_prompts, kinds)
        self.chances = rng.dirichlet(np.ones(kinds), num_prompts)
        self.rewards = rng.integers(0, 2, shape).astype(float)
        self.silent = range(num_prompts // 2)
        self.rewards[self.silent] = 1.0
        self.lengths = rng.integers(4, 100, shape)
        self.penalties = rng.normal(0.3, 0.3, shape)
        self.scores = rng.normal(0.5, 1, (*shape, 2))
        self.scores[..., 0] += 5 * self.penalties
        self.scores *= np.sqrt(self.lengths)[..., None]

    def groups(self, prompt, size):
        """All groups of a prompt, [size] kinds each, with their probabilities."""
        for kinds in product(range(self.chances.shape[1]), repeat=size):
            yield list(kinds), np.prod(self.chances[prompt, list(kinds)])

    def of_group(self, make_groups, plug, prompt, kinds, coefficient):
        """Advantages of one group."""
        group = make_groups(self.rewards[prompt, kinds], lengths=self.lengths[prompt, kinds])
        penalties = coefficient * self.penalties[prompt, kinds]
        return penalised(plug.advantages(group), group, penalties, plug.size_free)

    def expected(self, make_groups, plug, prompt, size, coefficient, factors=None):
        """[D] expected mean over a group of factor x advantage x scores; factors 1 by default."""
        mean = np.zeros(2)
        for kinds, chance in self.groups(prompt, size):
            advantages = self.of_group(make_groups, plug, prompt, kinds, coefficient)
            own = 1.0 if factors is None else factors[prompt, kinds]
            mean += chance * (own * advantages) @ self.scores[prompt, kinds] / size
        return mean


PLUGS = [
    GroupStandardised(), GroupStandardised(ddof=1), GroupMean(), LeaveOneOut(), VirtualBest(),
    Accepted(), DecoupledLength(), BatchDeviation(), BatchStandardised(), Consistency(),
]  # fmt: skip


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("plug", PLUGS, ids=repr)
def test_a_penalty_adds_its_own_gradient_and_leaves_that_of_rewards(make_groups, plug, size):
    """The penalty's is minus the covariance of penalty and scores, whatever the rewards are."""
    world = World()
    for prompt, chances in enumerate(world.chances):
        penalties, scores = world.penalties[prompt], world.scores[prompt]
        covariance = (chances * (penalties - chances @ penalties)) @ scores
        factor = 1.0 if plug.size_free else (size - 1) / size
        without = world.expected(make_groups, plug, prompt, size, 0.0)
        for coefficient in (1e-5, 0.5):
            found = world.expected(make_groups, plug, prompt, size, coefficient) - without
            np.testing.assert_allclose(
                found, -factor * coefficient * covariance, rtol=1e-6, atol=1e-13
            )


@pytest.mark.parametrize(
    ("plug", "thinning"),
    [
        (GroupStandardised(), KeepAll()),
        (LeaveOneOut(), NonZero()),
        (LeaveOneOut(), AdvantageOnly(0.4)),
        (GroupStandardised(), CostAware(0.3)),
    ],
    ids=repr,
)
def test_with_penalties_learning_draws_and_thinning_stay_unbiased(
    make_scheduler, make_groups, plug, thinning
):
    """Batches that learn from each other: their errors are martingale differences."""
    world, coefficient, size = World(), 2.0, 3
    factors = 1 / world.lengths
    by_prompt = [
        world.expected(make_groups, plug, prompt, size, coefficient, factors)
        for prompt in range(len(world.chances))
    ]
    truth = np.mean(by_prompt, axis=0)
    scheduler = make_scheduler(
        6, advantage=plug, thinning=thinning, group_size=size, tickets_per_step=4
    )
    rng, found = np.random.default_rng(1), []
    for batch in range(1000):
        tickets, reports, kinds = scheduler.draw(batch, batch).tickets, [], []
        for ticket in tickets:
            i = ticket.prompt_index
            kinds.append(rng.choice(3, size, p=world.chances[i]))
            lengths = world.lengths[i, kinds[-1]]
            reports.append(
                LengthReport(
                    ticket.ticket_id, i, 10 + i % 7, 10, lengths, np.zeros(size, bool),
                    world.rewards[i, kinds[-1]], np.zeros(size, int), 0.2 * lengths,
                    np.arange(size), 1.0, batch,
                )
            )  # fmt: skip
        penalties = [
            coefficient * world.penalties[ticket.prompt_index, own]
            for ticket, own in zip(tickets, kinds, strict=True)
        ]
        total = np.zeros(2)
        for ticket, own, one in zip(
            tickets, kinds, select(scheduler, batch, reports, penalties=penalties), strict=True
        ):
            each = one.weight * one.factors * one.advantages / (size * len(tickets))
            total += each @ world.scores[ticket.prompt_index, own]
        found.append(total)
    errors = np.array(found) - truth
    z = errors.mean(axis=0) / (errors.std(axis=0, ddof=1) / np.sqrt(len(errors)))
    assert np.abs(z).max() < 3.5
    # The test would see penalties that were left out of groups without a reward to learn from.
    left_out = sum(by_prompt[prompt] for prompt in world.silent) / len(by_prompt)
    assert np.abs(left_out / errors.std(axis=0)).max() * np.sqrt(len(errors)) > 5


def test_responses_of_different_turn_counts_stay_unbiased_and_their_prompts_pay_for_turns(
    make_scheduler, make_groups
):
    """What environments write is in costs and in no factor; draws and thinning undo both."""
    world, plug, size = World(), LeaveOneOut(), 3
    world.silent, world.rewards[:3] = (), 1.0 - world.rewards[3:]
    rng = np.random.default_rng(2)
    turns = rng.integers(1, 6, world.lengths.shape)
    told = (turns - 1) * rng.integers(5, 40, world.lengths.shape)
    factors = 1 / world.lengths
    by_prompt = [
        world.expected(make_groups, plug, prompt, size, 0.0, factors)
        for prompt in range(len(world.chances))
    ]
    price = TokenPrice(tool_second_tokens=10.0)
    scheduler = make_scheduler(
        6, advantage=plug, thinning=CostAware(0.3), group_size=size, tickets_per_step=4,
        price=price, allocator=SquareRoot(floor=0.2),
    )  # fmt: skip
    found = []
    for batch in range(600):
        tickets, reports, kinds = scheduler.draw(batch, batch).tickets, [], []
        for ticket in tickets:
            i = ticket.prompt_index
            own = rng.choice(3, size, p=world.chances[i])
            kinds.append(own)
            lengths = world.lengths[i, own] + told[i, own]
            reports.append(
                LengthReport(
                    ticket.ticket_id, i, 10 + i % 7, 10, lengths, np.zeros(size, bool),
                    world.rewards[i, own], np.zeros(size, int), 0.2 * world.lengths[i, own],
                    np.arange(size), 1.0, batch, num_turns=turns[i, own],
                    environment_tokens=told[i, own], turn_prefill_tokens=3 * told[i, own],
                    tool_seconds=0.5 * (turns[i, own] - 1),
                )
            )  # fmt: skip
        total = np.zeros(2)
        for ticket, own, one in zip(tickets, kinds, select(scheduler, batch, reports), strict=True):
            np.testing.assert_allclose(one.factors, factors[ticket.prompt_index, own])
            each = one.weight * one.factors * one.advantages / (size * len(tickets))
            total += each @ world.scores[ticket.prompt_index, own]
        found.append(total)
    errors = np.array(found) - np.mean(by_prompt, axis=0)
    z = errors.mean(axis=0) / (errors.std(axis=0, ddof=1) / np.sqrt(len(errors)))
    assert np.abs(z).max() < 3.5
    # Of what is drawn, each prompt's cost is that of its turns too: what environments wrote, a
    # third of what was computed again, and the tools' time.
    statistics = scheduler._statistics
    costs = statistics.plugs.snapshot(statistics.prompts, size, rng).estimates.costs
    expected = (world.chances * (world.lengths + (1 + 2 / 3) * told + 5.0 * (turns - 1))).sum(
        axis=1
    )
    prompts = 10 + np.arange(6) % 7
    np.testing.assert_allclose(costs, expected + prompts, rtol=0.35)
    plain = (world.chances * (world.lengths + told)).sum(axis=1) + prompts
    assert np.corrcoef(costs, expected)[0, 1] > 0.9 and (costs > plain * 0.9).all()
