import math

import pytest

from rollout.rewards.types import Score


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_score_is_finite(value):
    with pytest.raises(ValueError, match=r"a score's reward must be finite, got"):
        Score(value)
    with pytest.raises(ValueError, match=r"a score's format must be finite, got"):
        Score(1.0, {"format": value})
