"""The metrics of a step, by hand; and the list of all metrics."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest

from cost.ledger import METRICS as LEDGER_METRICS
from cost.types import LengthReport, RewardStatus, Selection
from launch.record.metrics import METRICS, step_metrics, successes
from launch.record.step import StepResult
from rollout.types import GroupRef
from tests.places import PROJECT

PACKAGES = "rollout|cost|learner|loop|evaluation|publish|parity|checkpoint"
ROOMS = ("cost", "rollout", "learner", "launch")
OK, TIMED_OUT, CRASHED = RewardStatus.OK, RewardStatus.TIMED_OUT, RewardStatus.CRASHED


def report(lengths, rewards, status=None, *, ticket_id=0, prompt_tokens=10, truncated=None):
    count = len(lengths)
    return LengthReport(
        ticket_id=ticket_id,
        prompt_index=ticket_id,
        prompt_tokens=prompt_tokens,
        prefill_tokens=prompt_tokens if count else 0,
        lengths=np.array(lengths, dtype=np.int64),
        truncated=np.array(truncated or [False] * count, dtype=np.bool_),
        rewards=np.array(rewards, dtype=np.float64),
        status=np.array(status or [OK] * count, dtype=np.int64),
        surprise=np.full(count, 2.0),
        answer_codes=np.arange(count),
        engine_seconds=1.0,
        version=0,
    )


def selection(keep, advantages, weight=1.0):
    mask = np.array(keep, dtype=np.bool_)
    return Selection(
        ticket_id=0,
        keep=mask,
        weight=np.where(mask, weight, 0.0),
        advantages=np.array(advantages, dtype=np.float64),
        factors=np.ones(len(mask)),
    )


@pytest.fixture
def result():
    """Two groups and a ticket that failed; one response of the second has no reward."""
    reports = [
        report([4, 8], [1.0, 0.0], truncated=[False, True]),
        report([10, 20, 30], [1.0, 1.0, math.nan], [OK, OK, CRASHED], prompt_tokens=5),
        report([], []),
    ]
    selections = [
        selection([True, False], [1.0, -1.0]),
        selection([True, True, False], [0.0, 0.0, 0.0]),
        selection([], []),
    ]
    return StepResult(1, [GroupRef(r, None) for r in reports], selections, {})


def test_rollout_metrics_by_hand(result):
    metrics = step_metrics(result)
    assert metrics["rollout/reward_mean"] == pytest.approx(3 / 4)
    assert metrics["rollout/pass_rate"] == pytest.approx(3 / 4)
    assert metrics["rollout/length_mean_tokens"] == pytest.approx(72 / 5)
    assert metrics["rollout/length_p95_tokens"] == pytest.approx(28.0)
    assert metrics["rollout/truncated_share"] == pytest.approx(1 / 5)
    assert metrics["rollout/surprise_mean"] == 2.0
    assert metrics["rollout/mixed_group_share"] == pytest.approx(1 / 3)
    assert metrics["rollout/reward_crashed"] == 1
    assert metrics["rollout/reward_timed_out"] == 0
    assert metrics["rollout/failed_tickets"] == 1


def test_token_metrics_by_hand(result):
    metrics = step_metrics(result)
    assert metrics["cost/step_generated_response_tokens"] == 72
    assert metrics["cost/step_generated_tokens"] == 72 + 10 + 5
    assert metrics["cost/step_selectable_response_tokens"] == 42
    assert metrics["cost/step_selectable_tokens"] == 42 + 2 * 10 + 2 * 5
    assert metrics["cost/step_trained_response_tokens"] == 34
    assert metrics["cost/step_trained_tokens"] == 34 + 10 + 2 * 5
    assert metrics["cost/step_saved_share"] == pytest.approx(1 - 54 / 72)


def test_turns_of_exploring_groups_are_in_no_mean():
    def turns(*counts):
        one = report([9] * len(counts), [1.0] * len(counts))
        return replace(one, num_turns=np.array(counts), calls=np.array(counts))

    chosen = selection([True, True], [1.0, -1.0])
    exploring = replace(chosen, exploring=True)
    groups = [GroupRef(each, None) for each in (turns(1, 2), turns(7, 8))]
    metrics = step_metrics(StepResult(1, groups, [chosen, exploring], {}))
    alone = step_metrics(StepResult(1, groups[:1], [chosen], {}))
    keys = [key for key in alone if "turn" in key or "tool" in key or "end_" in key]
    assert alone["rollout/turns_mean"] == alone["rollout/tool_calls_mean"] == 1.5
    np.testing.assert_equal([metrics[key] for key in keys], [alone[key] for key in keys])
    only = step_metrics(StepResult(1, groups[1:], [exploring], {}))
    assert "rollout/turns_mean" not in only


def test_exploring_groups_cost_and_fail_like_others_and_are_in_no_other_mean(result):
    alone = step_metrics(result)
    assert "rollout/exploring_reward_mean" not in alone
    explored = [report([100, 50, 7], [1.0, 0.0, math.nan], [OK, OK, CRASHED]), report([], [])]
    groups = [*result.groups, *(GroupRef(r, None) for r in explored)]
    chosen = [
        replace(selection([True, False, False], [1.0, 0.0, 0.0]), exploring=True),
        replace(selection([], []), exploring=True),
    ]
    metrics = step_metrics(StepResult(1, groups, [*result.selections, *chosen], {}))
    assert metrics.pop("rollout/exploring_reward_mean") == 0.5
    added = {key: value - alone[key] for key, value in metrics.items() if value != alone[key]}
    assert added == pytest.approx(
        {
            "rollout/reward_crashed": 1, "rollout/failed_tickets": 1,
            "cost/step_generated_response_tokens": 157, "cost/step_generated_tokens": 167,
            # Of exploring groups nothing else could have been trained on.
            "cost/step_selectable_response_tokens": 100, "cost/step_selectable_tokens": 110,
            "cost/step_trained_response_tokens": 100, "cost/step_trained_tokens": 110,
            "cost/step_saved_share": (1 - 164 / 182) - (1 - 54 / 72),
        }
    )  # fmt: skip


@pytest.mark.parametrize("reports", [[], [report([], [])]], ids=["empty", "all failed"])
def test_a_step_without_responses_gives_nan_means_and_zero_counts(reports):
    metrics = step_metrics(
        StepResult(
            1, [GroupRef(r, None) for r in reports], [selection([], []) for _ in reports], {}
        )
    )
    assert math.isnan(metrics["rollout/reward_mean"])
    assert math.isnan(metrics["rollout/length_p95_tokens"])
    assert math.isnan(metrics["cost/step_saved_share"])
    assert metrics["cost/step_generated_tokens"] == 0
    assert metrics["rollout/failed_tickets"] == len(reports)


def test_success_is_a_usable_reward_of_one_to_rounding():
    rewards = [1.0, 1.0 - 1e-12, 0.999, 1.5, math.nan]
    mask = successes(report([1] * 5, rewards, [OK, OK, OK, OK, TIMED_OUT]))
    assert mask.tolist() == [True, True, False, True, False]


def test_every_key_that_the_source_spells_out_is_listed():
    root = PROJECT
    sources = [path for room in ROOMS for path in (root / room).rglob("*.py")]
    text = "".join(path.read_text(encoding="utf-8") for path in sources)
    assert set(re.findall(rf'"((?:{PACKAGES})/[a-z0-9_]+)"', text)) <= set(METRICS)


def test_every_key_is_listed_and_named_by_convention(result):
    assert set(step_metrics(result)) <= set(METRICS)
    # A step's key must not hide a counter that runs since the start.
    assert not set(step_metrics(result)) & set(LEDGER_METRICS)
    for key, sentence in METRICS.items():
        assert re.fullmatch(rf"({PACKAGES})/[a-z][a-z0-9_]*", key), key
        assert sentence, key


def test_responses_left_out_for_their_length_are_counted_by_name():
    scored = report([10, 20, 20], [1.0, math.nan, math.nan], [OK, *[RewardStatus.TRUNCATED] * 2])
    selections = [selection([True, False, False], [0.0, 0.0, 0.0])]
    metrics = step_metrics(StepResult(1, [GroupRef(scored, None)], selections, {}))
    assert metrics["rollout/reward_truncated"] == 2
    assert metrics["rollout/reward_crashed"] == 0
    assert metrics["rollout/reward_mean"] == 1.0
    masked = report([10, 20, 20], [1.0, 0.0, 0.0], [OK, *[RewardStatus.MASKED] * 2])
    metrics = step_metrics(StepResult(1, [GroupRef(masked, None)], selections, {}))
    assert metrics["rollout/reward_truncated"] == 2
    # Their rewards count, and nothing but the first can be trained on.
    assert metrics["rollout/reward_mean"] == pytest.approx(1 / 3)
    assert metrics["cost/step_selectable_response_tokens"] == 10
