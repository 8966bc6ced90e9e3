from dataclasses import replace

import numpy as np
import pytest

from cost.scheduler.reports import checked, checked_norms
from cost.types import RewardStatus, Ticket

TICKET = Ticket(
    ticket_id=3, prompt_index=2, num_samples=4, probability=0.5, weight=1.0, max_tokens=128
)


def given_tokens(written, inherited=(0, 0, 0, 0)):
    """Responses of 1 to 4 tokens, with those that the environment or another response gave."""
    return {
        "lengths": np.array([1, 2, 3, 4]), "environment_tokens": np.array(written),
        "inherited_tokens": np.array(inherited),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt_index": 1}, r"report\.prompt_index must be 2"),
        ({"lengths": np.array([1, 2, 3])}, r"report\.truncated must have shape \(3,\)"),
        ({"lengths": np.array([1, 2, 3, -1])}, r"report\.lengths must be .* got .*-1"),
        ({"lengths": np.arange(5)}, r"report\.lengths must hold at most the 4 responses"),
        ({"surprise": np.array([1, 2, np.nan, 1])}, r"report\.surprise must be finite .*nan"),
        ({"rewards": np.array([1, 2, np.nan, 1])}, r"report\.rewards must be finite where .*nan"),
        ({"rewards": np.zeros(3)}, r"report\.rewards must have shape"),
        ({"status": np.array([0, 0, 7, 0])}, r"report\.status must be a RewardStatus, got .*7"),
        ({"answer_codes": np.array([0, 0, 3, 3])}, r"report\.answer_codes must name the first .*3"),
        ({"answer_codes": np.array([0, 0, 1, 3])}, r"report\.answer_codes must name the first .*1"),
        ({"answer_codes": np.array([0, -1, 0, 0])}, r"report\.answer_codes must name the .*-1"),
        ({"prefill_tokens": -1}, r"report\.prefill_tokens must be .* got -1"),
        ({"engine_seconds": float("nan")}, r"report\.engine_seconds must be .* got nan"),
        ({"prompt_tokens": 0}, r"report\.prompt_tokens must be positive, got 0"),
        ({"surprise": np.array([1, 2, np.inf, 1])}, r"report\.surprise must be finite .*inf"),
        ({"status": np.array([0, -1, 0, 0])}, r"report\.status must be a RewardStatus, got -1"),
        ({"num_turns": np.array([1, -1, 1, 1])}, r"report\.num_turns must be .* got -1"),
        ({"tool_seconds": np.array([0, 0, 0, -0.5])}, r"report\.tool_seconds must be .*-0\.5"),
        ({"entropy_changes": np.array([0, np.nan, 0, -1])}, r"entropy_changes must be finite, got"),
        (given_tokens([0, 3, 0, 0]), r"environment_tokens must be at most lengths, got \[0, 3"),
        (given_tokens([0, 1, 0, 0], [0, 2, 0, 0]), r"inherited_tokens must be at .* got \[0, 2"),
    ],
)
def test_refuses(make_report, changes, message):
    with pytest.raises(ValueError, match=message):
        checked(make_report(TICKET, **changes), TICKET)


def test_a_response_may_be_given_as_a_whole_or_be_empty(make_report):
    report = checked(make_report(TICKET, **given_tokens([1, 1, 0, 4], [0, 1, 3, 0])), TICKET)
    assert report.own_lengths.tolist() == [0, 1, 3, 0]
    assert report.sampled_lengths.tolist() == [0] * 4
    empty = make_report(TICKET, lengths=np.zeros(4, int), surprise=np.zeros(4), prompt_tokens=1)
    assert checked(empty, TICKET).lengths.tolist() == [0] * 4


def test_unusable_rewards_become_nan(make_report):
    status, rewards = np.array([0, 1, 2, 0]), np.array([1.0, 5.0, np.nan, 0.0])
    report = checked(make_report(TICKET, status=status, rewards=rewards), TICKET)
    np.testing.assert_array_equal(report.rewards, [1, np.nan, np.nan, 0])
    assert report.usable.tolist() == report.trainable.tolist() == [True, False, False, True]


def test_parts_of_rewards_are_for_people_and_not_kept(make_report):
    report = make_report(TICKET, reward_components={"correct": (1.0, 2)})
    assert checked(report, TICKET).reward_components == {}


def test_a_masked_reward_can_be_used_and_is_not_trained_on(make_report):
    masked = int(RewardStatus.MASKED)
    given = {"status": np.array([0, masked, 2, masked]), "rewards": np.array([1.0, 0.0, 3.0, 1.0])}
    report = checked(make_report(TICKET, **given), TICKET)
    np.testing.assert_array_equal(report.rewards, [1, 0, np.nan, 1])
    assert report.usable.tolist() == [True, True, False, True]
    assert report.trainable.tolist() == [True, False, False, False]
    given["rewards"][1] = np.nan
    with pytest.raises(ValueError, match=r"must be finite where the status is OK or MASKED, got"):
        checked(make_report(TICKET, **given), TICKET)


def test_gradient_norms_become_float64():
    norms = checked_norms([1, 2, 0], TICKET)
    assert norms.dtype == np.float64 and norms.tolist() == [1, 2, 0]
    assert checked_norms(np.zeros(0), TICKET).shape == (0,)


@pytest.mark.parametrize(
    ("norms", "message"),
    [
        ([1.0] * 5, r"at most the 4 responses of ticket 3, got shape \(5,\)"),
        ([[1.0]], r"at most the 4 responses of ticket 3, got shape \(1, 1\)"),
        ([1.0, -0.5], r"finite and not negative, got -0\.5 for ticket 3"),
        ([float("nan")], r"finite and not negative, got nan for ticket 3"),
        ([1.0, float("inf")], r"finite and not negative, got inf for ticket 3"),
    ],
)
def test_refuses_gradient_norms(norms, message):
    with pytest.raises(ValueError, match=message):
        checked_norms(np.array(norms), TICKET)


def test_generated_tokens_are_prefilled_and_response_tokens(make_report, empty_report):
    report = make_report(TICKET, prefill_tokens=7, lengths=np.array([1, 2, 3, 4]))
    assert report.generated_tokens == 17
    shared = make_report(TICKET, prefill_tokens=7, lengths=np.array([1, 2, 3, 4]))
    shared = replace(shared, inherited_tokens=np.array([0, 0, 2, 2]))
    assert shared.sampled_lengths.tolist() == [1, 2, 1, 2] and shared.generated_tokens == 13
    assert empty_report(TICKET).generated_tokens == 0
