"""The reward shown as under uniform draws is that, on average, and no noisier than need be."""

import itertools
import math

import numpy as np
import pytest

from cost.draws.allocators.square_root import SquareRoot
from cost.draws.draws import IndependentDraws, SystematicDraws
from cost.scheduler.selection import uniform_reward_mean
from cost.types import RewardStatus, Ticket
from tests.cost.play import select

NUM_PROMPTS = 4
PROBABILITIES = np.array([0.55, 0.25, 0.15, 0.05])
PASS_RATES = np.array([0.9, 0.5, 0.25, 0.0])


def drawn(number, prompt):
    probability = float(PROBABILITIES[prompt])
    return Ticket(number, prompt, 2, probability, 1 / (NUM_PROMPTS * probability), 8)


def bernoulli(rate):
    """What two responses may bring, with its chance."""
    for rewards in itertools.product((0.0, 1.0), repeat=2):
        yield np.array(rewards), math.prod(rate if reward else 1 - rate for reward in rewards)


def outcomes_of_two_draws(make_report, lost=None):
    """Yield every batch of two tickets that may come, with its chance.

    Args:
        lost: Maker of the report of a ticket that failed, which one in three then does.
    """
    for pair in itertools.product(range(NUM_PROMPTS), repeat=2):
        tickets = [drawn(number, prompt) for number, prompt in enumerate(pair)]
        options = []
        for ticket in tickets:
            own = [
                (make_report(ticket, rewards=rewards), chance * (2 / 3 if lost else 1))
                for rewards, chance in bernoulli(PASS_RATES[ticket.prompt_index])
            ]
            options.append(own + ([(lost(ticket), 1 / 3)] if lost else []))
        for reports in itertools.product(*options):
            chance = math.prod(each for _, each in reports)
            yield tickets, [report for report, _ in reports], chance * PROBABILITIES[[*pair]].prod()


@pytest.mark.parametrize("failures", [False, True])
def test_its_expectation_is_the_mean_reward_under_uniform_draws(
    make_report, empty_report, failures
):
    """Over every batch that may be drawn; those without any reward show none, and do not count."""
    total = mass = everything = 0.0
    for tickets, reports, chance in outcomes_of_two_draws(
        make_report, empty_report if failures else None
    ):
        everything += chance
        shown = uniform_reward_mean(tickets, reports)
        assert math.isnan(shown) == all(report.num_responses == 0 for report in reports)
        if not math.isnan(shown):
            total, mass = total + chance * shown, mass + chance
    assert everything == pytest.approx(1)
    assert total / mass == pytest.approx(PASS_RATES.mean(), abs=1e-12)


def test_under_uniform_draws_it_is_the_mean_over_tickets_to_the_bit(make_report, empty_report):
    tickets = [Ticket(number, 0, 3, 0.2, 1.0, 8) for number in range(6)]
    reports = [make_report(ticket) for ticket in tickets[:5]] + [empty_report(tickets[5])]
    expected = np.mean([report.rewards.mean() for report in reports[:5]])
    assert uniform_reward_mean(tickets, reports) == expected


def test_a_response_without_a_reward_is_left_out_of_its_ticket(make_report):
    ticket = Ticket(0, 0, 3, 0.5, 0.5, 8)
    status = np.array([RewardStatus.OK, RewardStatus.CRASHED, RewardStatus.OK])
    report = make_report(ticket, rewards=np.array([1.0, math.nan, 0.0]), status=status)
    assert uniform_reward_mean([ticket], [report]) == 0.25
    assert math.isnan(uniform_reward_mean([], []))


PASS_RATE_OF = np.clip(1.05 - np.arange(32) / 22, 0.02, 0.97)
"""Chance to pass of a prompt; the cheap ones are those that are solved."""


def shown_and_quotients(make_scheduler, make_report, allocator, seed, batches=50):
    """What the scheduler shows, and the quotient of weighted sums, batch by batch."""
    scheduler = make_scheduler(
        allocator=allocator, tickets_per_step=8, group_size=8,
        num_prompts=len(PASS_RATE_OF), seed=seed,
    )  # fmt: skip
    rng = np.random.default_rng([seed, 1])
    shown, quotients = [], []
    for batch in range(batches):
        tickets = scheduler.draw(batch, batch).tickets
        reports = [
            make_report(
                ticket,
                rewards=(rng.random(8) < PASS_RATE_OF[ticket.prompt_index]).astype(float),
            )
            for ticket in tickets
        ]
        select(scheduler, batch, reports)
        shown.append(scheduler.metrics()["cost/reward_mean_uniform"])
        weights = np.array([ticket.weight for ticket in tickets])
        means = np.array([report.rewards.mean() for report in reports])
        quotients.append(weights @ means / weights.sum())
    return np.array(shown[10:]), np.array(quotients[10:])


@pytest.mark.parametrize("draws", [SystematicDraws(), IndependentDraws()], ids=repr)
def test_cost_aware_draws_show_what_the_policy_is_worth(make_scheduler, make_report, draws):
    """Where cheap prompts are drawn often and solved: no flattery, and no more spread."""
    found = [
        shown_and_quotients(make_scheduler, make_report, SquareRoot(draws=draws), seed)
        for seed in range(8)
    ]
    shown, quotients = (np.concatenate(each) for each in zip(*found, strict=True))
    error = shown.std(ddof=1) / math.sqrt(len(shown))
    assert abs(shown.mean() - PASS_RATE_OF.mean()) < 4 * error
    assert shown.std() <= quotients.std()
