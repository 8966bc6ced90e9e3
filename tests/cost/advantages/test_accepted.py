import numpy as np
import pytest

from cost.advantages.accepted import Accepted, DecoupledLength


def test_accepted_are_one_and_others_zero(make_groups):
    groups = make_groups([1.0, 0.0, np.nan, 0.9], [1.0, 1.0], [], [0.0])
    assert Accepted().advantages(groups).tolist() == [1, 0, 0, 0, 1, 1, 0]
    assert Accepted(0.9).advantages(groups).tolist() == [1, 0, 0, 1, 1, 1, 0]


@pytest.mark.parametrize(("temperature", "length"), [(0.1, 10), (0.5, 40), (2.0, 7)])
def test_weights_of_right_answers_fall_with_length(make_groups, temperature, length):
    groups = make_groups([1.0, 1.0, 0.0], lengths=[length, 2 * length, 1])
    found = DecoupledLength(length_temperature=temperature).advantages(groups)
    assert found[0] / found[1] == pytest.approx(np.exp(length / (temperature * 100)))
    own = DecoupledLength(length_temperature=temperature, max_tokens=50).advantages(groups)
    assert own[0] / own[1] == pytest.approx(np.exp(length / (temperature * 50)))


@pytest.mark.parametrize("temperature", [1e12, np.inf])
def test_without_a_temperature_right_answers_weigh_alike(make_groups, temperature):
    groups = make_groups([1.0, 0.0, 1.0, np.nan, 0.0, 0.0], lengths=[1, 2, 100, 4, 5, 6])
    found = DecoupledLength(length_temperature=temperature).advantages(groups)
    np.testing.assert_allclose(found, [2.5, -5 / 3, 2.5, 0, -5 / 3, -5 / 3], rtol=1e-9)


def test_the_loss_is_the_papers_gradient_at_infinite_tau(make_groups):
    """(1 / n) sum A s against sum_right w s - mean_wrong s, with weights by the formula."""
    lengths, scores = np.array([30, 80, 55, 20, 90]), np.array([-0.3, -0.1, -0.5, -0.2, -0.7])
    rewards = np.array([1.0, 1.0, 0.0, 1.0, 0.0])
    groups = make_groups(rewards, lengths=lengths)
    advantages = DecoupledLength().advantages(groups)
    right = rewards == 1
    weights = np.exp((1 - lengths[right] / 100) / 0.1)
    weights /= weights.sum()
    expected = weights @ scores[right] - scores[~right].mean()
    assert advantages @ scores / 5 == pytest.approx(expected, rel=1e-12)


def test_long_right_answers_are_never_punished(make_groups):
    groups = make_groups([1.0, 1.0, 0.0], [1.0, 0.0], lengths=[1, 100, 1, 100, 1])
    found = DecoupledLength(length_temperature=1e-4).advantages(groups)
    assert (found[[0, 1, 3]] >= 0).all() and found[3] == 2 and found[0] == 3


def test_groups_without_both_kinds_get_exact_zeros(make_groups):
    kinds = [1.0, 1.0], [0.0, 0.5], [], [1.0], [np.nan, 1.0], [0.0]
    groups = make_groups(*kinds, lengths=range(1, 9))
    assert DecoupledLength().advantages(groups).tolist() == [0.0] * 8
    # Nor do they change what other groups get.
    mixed = make_groups([1.0, 1.0, 0.0], *kinds, lengths=[3, 9, 4, *range(1, 9)])
    alone = make_groups([1.0, 1.0, 0.0], lengths=[3, 9, 4])
    expected = DecoupledLength().advantages(alone).tolist()
    assert DecoupledLength().advantages(mixed)[:3].tolist() == expected


@pytest.mark.parametrize(
    ("plug", "settings", "message"),
    [
        (Accepted, {"accepted_reward": np.nan}, r"^advantage\.accepted_reward must be finite"),
        (DecoupledLength, {"correct_reward": np.inf}, r"^advantage\.correct_reward must be finite"),
        (DecoupledLength, {"length_temperature": 0}, r"^advantage\.length_temperature must be pos"),
        (DecoupledLength, {"max_tokens": 0}, r"^advantage\.max_tokens must be positive, got 0"),
    ],
)
def test_refuses(plug, settings, message):
    with pytest.raises(ValueError, match=message):
        plug(**settings)
