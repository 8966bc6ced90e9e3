"""Evaluation statistics in closed form."""

import itertools
import math

import numpy as np
import pytest

from cost.types import LengthReport, RewardStatus
from launch.record.outcomes import (
    PromptOutcome,
    changes,
    evaluate_statistics,
    majority_passes,
    outcomes,
    pass_at_k,
)
from launch.record.statistics import Estimate


def report(prompt_index, rewards, *, lengths=None, status=None, truncated=None, answers=None):
    count = len(rewards)
    return LengthReport(
        ticket_id=prompt_index,
        prompt_index=prompt_index,
        prompt_tokens=10,
        prefill_tokens=10,
        lengths=np.array(lengths or [10] * count, dtype=np.int64),
        truncated=np.array(truncated or [False] * count, dtype=np.bool_),
        rewards=np.array(rewards, dtype=np.float64),
        status=np.array(status or [RewardStatus.OK] * count, dtype=np.int64),
        surprise=np.zeros(count),
        answer_codes=np.array(answers or range(count), dtype=np.int64),
        engine_seconds=1.0,
        version=0,
    )


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_pass_at_k_is_the_share_of_subsets_with_a_success(n):
    for c, k in itertools.product(range(n + 1), range(1, n + 1)):
        outcomes = [1] * c + [0] * (n - c)
        subsets = list(itertools.combinations(outcomes, k))
        assert pass_at_k(n, c, k) == pytest.approx(sum(map(max, subsets)) / len(subsets))


def test_pass_at_k_is_unbiased_over_independent_draws():
    n, k, rate = 6, 3, 0.3
    mean = sum(
        math.comb(n, c) * rate**c * (1 - rate) ** (n - c) * pass_at_k(n, c, k) for c in range(n + 1)
    )
    assert mean == pytest.approx(1 - (1 - rate) ** k)


@pytest.mark.parametrize("k", [0, 3])
def test_pass_at_k_refuses_more_draws_than_responses(k):
    with pytest.raises(ValueError, match=f"k must lie in .*got {k}"):
        pass_at_k(2, 1, k)


@pytest.mark.parametrize(
    ("rewards", "answers", "wanted"),
    [
        ([1, 0, 0, 1], [0, 1, 2, 0], 1.0),
        ([1, 0, 0, 1], [0, 1, 1, 3], 0.0),
        # Two answers with two votes each, and three with one each.
        ([1, 0, 0, 1], [0, 1, 1, 0], 0.5),
        ([0.5, 1, 0], [0, 1, 2], 1 / 3),
        # The same answer may pass or not, as where a reward asks for a form as well.
        ([1, 0, 1, 0], [0, 0, 0, 3], 2 / 3),
        ([1], [0], 1.0),
        ([], [], math.nan),
    ],
)
def test_the_majority_is_of_the_answer_with_the_most_votes(rewards, answers, wanted):
    assert majority_passes(report(0, rewards, answers=answers)) == pytest.approx(
        wanted, nan_ok=True
    )


def test_responses_without_a_reward_have_no_vote():
    status = [RewardStatus.CRASHED, RewardStatus.TIMED_OUT, RewardStatus.OK]
    rewards = [math.nan, math.nan, 1.0]
    assert majority_passes(report(0, rewards, answers=[0, 0, 2], status=status)) == 1.0
    assert math.isnan(majority_passes(report(0, rewards[:2], answers=[0, 0], status=status[:2])))


@pytest.mark.parametrize("rate", [0.2, 0.6])
def test_the_majority_of_three_votes_for_two_answers_is_right_as_often_as_two_of_them(rate):
    mean = 0.0
    for said in itertools.product([0, 1], repeat=3):
        answers = [said.index(one) for one in said]
        chance = math.prod(rate if one else 1 - rate for one in said)
        mean += chance * majority_passes(report(0, said, answers=answers))
    assert mean == pytest.approx(rate**3 + 3 * rate**2 * (1 - rate))


def test_statistics_are_means_over_prompts_with_errors_over_prompts():
    result = evaluate_statistics(
        [
            report(0, [1, 1, 1, 1], lengths=[2, 4, 6, 8]),
            report(1, [0, 0, 0, 1], lengths=[10] * 4, truncated=[True, False, False, False]),
            report(2, [0, 0, 0, 0], lengths=[15] * 4),
        ],
        k=2,
    )
    rates = np.array([1, 0.25, 0])
    assert result.pass_rate == pytest.approx(rates.mean())
    assert result.pass_rate_stderr == pytest.approx(rates.std(ddof=1) / math.sqrt(3))
    # Half of the interval of Student's t, with the quantile 4.303 of two degrees of freedom.
    for half_width, stderr in (
        (result.pass_rate_half_width, result.pass_rate_stderr),
        (result.pass_at_k_half_width, result.pass_at_k_stderr),
        (result.length_half_width, result.length_stderr),
    ):
        assert half_width == pytest.approx(4.302653 * stderr)
    assert result.pass_at_k == pytest.approx((1 + 0.5 + 0) / 3)
    assert result.length_mean == pytest.approx(10)
    assert result.length_stderr == pytest.approx(5 / math.sqrt(3))
    assert result.truncated_share == pytest.approx(1 / 12)
    assert (result.num_prompts, result.num_responses) == (3, 12)


def test_rewards_that_cannot_be_used_are_left_out_and_counted():
    status = [RewardStatus.OK, RewardStatus.OK, RewardStatus.TIMED_OUT, RewardStatus.CRASHED]
    result = evaluate_statistics(
        [
            report(0, [1, 0, math.nan, math.nan], status=status),
            report(1, [math.nan], status=[RewardStatus.CRASHED]),
            report(2, []),
        ],
        k=3,
    )
    assert result.pass_rate == 0.5
    assert math.isnan(result.pass_rate_stderr) and math.isnan(result.pass_rate_half_width)
    assert math.isnan(result.pass_at_k), "two usable responses cannot tell pass@3"
    assert (result.num_prompts, result.num_responses) == (1, 2)
    assert (result.timed_out, result.crashed) == (1, 2)
    assert result.num_lost == 2


def test_two_reports_of_one_prompt_are_one_prompt():
    apart = evaluate_statistics([report(7, [1, 0]), report(7, [0, 0]), report(8, [1, 1, 1, 1])], 4)
    together = evaluate_statistics([report(7, [1, 0, 0, 0]), report(8, [1, 1, 1, 1])], 4)
    assert apart == together


def test_statistics_of_nothing_are_nan():
    result = evaluate_statistics([], k=1)
    assert math.isnan(result.pass_rate) and math.isnan(result.truncated_share)
    assert result.num_prompts == 0


def test_changes_are_paired_over_prompts():
    before = outcomes([report(0, [0, 0]), report(1, [1, 0]), report(2, [1, 1])])
    after = outcomes([report(0, [1, 0], lengths=[8, 8]), report(1, [1, 1]), report(2, [1, 1])])
    found = changes(before, after, k=2)
    assert found["pass_rate"] == Estimate.of([0.5, 0.5, 0.0])
    assert found["pass_at_2"] == Estimate.of([1.0, 0.0, 0.0])
    assert found["length_mean"] == Estimate.of([-2.0, 0.0, 0.0])
    assert (
        found["pass_rate"].half_width
        < evaluate_statistics(
            [report(0, [1, 0]), report(1, [1, 1]), report(2, [1, 1])], k=2
        ).pass_rate_half_width
        + evaluate_statistics(
            [report(0, [0, 0]), report(1, [1, 0]), report(2, [1, 1])], k=2
        ).pass_rate_half_width
    )


def test_a_prompt_that_either_evaluation_lost_is_in_no_change():
    lost, scored, passed = (
        PromptOutcome(0, 0, math.nan),
        PromptOutcome(2, 0, 4.0),
        PromptOutcome(2, 2, 4.0),
    )
    found = changes([lost, scored, scored], [passed, passed, lost], k=4)
    assert found["pass_rate"].mean == 1 and found["pass_rate"].count == 1
    assert found["pass_at_4"].count == 0 and math.isnan(found["pass_at_4"].mean)


def test_the_interval_of_a_change_covers():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        # Prompts differ far more than the policy changes on one of them.
        rates = rng.choice([0.05, 0.5, 0.9], size=40)
        counts = [rng.binomial(4, np.clip(rates + gain, 0, 1)) for gain in (0.0, 0.1)]
        before, after = ([PromptOutcome(4, int(c), 5.0) for c in each] for each in counts)
        change = changes(before, after, k=4)["pass_rate"]
        covered += change.low <= 0.1 <= change.high
    assert 0.92 <= covered / 400 <= 0.98
