"""What a reference may be, and where its divergence counts."""

import pytest

from learner.reference_config import ReferenceConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kl_coefficient": -1.0}, "kl_coefficient must not be negative, got -1.0"),
        ({"kl_coefficient": float("nan")}, "kl_coefficient must be .*, got nan"),
        ({"kl_in": "both"}, "kl_in must be loss or reward, got 'both'"),
        ({"kl_estimator": "k1"}, "kl_estimator must be k2 or k3 with kl_in: loss .* got 'k1'"),
        ({"kl_estimator": "abs"}, "kl_estimator must be k2 or k3 .* got 'abs'"),
        ({"kl_in": "reward"}, "kl_estimator must be k1 with kl_in: reward, .* got 'k3'"),
    ],
)
def test_a_reference_that_makes_no_sense_is_refused(settings, message):
    with pytest.raises(ValueError, match=rf"^learner\.reference\.{message}$"):
        ReferenceConfig(**settings)


def test_the_coefficient_counts_in_one_place():
    loss = ReferenceConfig(kl_coefficient=0.1)
    assert (loss.kl_in_loss, loss.kl_in_reward) == (0.1, 0.0)
    reward = ReferenceConfig(kl_coefficient=0.1, kl_in="reward", kl_estimator="k1")
    assert (reward.kl_in_loss, reward.kl_in_reward) == (0.0, 0.1)
