"""The whole estimator: two stages, by enumeration, and the ways to get it wrong."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from cost.advantages.within_group import GroupMean
from cost.aggregations import BatchTokenMean, ConstantLength
from cost.draws.allocators.square_root import SquareRoot
from cost.draws.allocators.types import Estimates
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
