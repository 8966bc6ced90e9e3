"""Shares that the mask may leave out."""

import pytest

from learner.curvature_config import RejectedShares


@pytest.mark.parametrize("key", ["low", "high", "shift"])
@pytest.mark.parametrize("value", [-0.1, 1.0, float("nan")])
def test_shares_of_rejected_tokens_outside_their_range_are_refused(key, value):
    with pytest.raises(ValueError, match=rf"^learner\.curvature\.{key} .* got {value!r}$"):
        RejectedShares(**{key: value})
    with pytest.raises(ValueError, match=r"^learner\.curvature\.low.* less than 1, got 1\.2$"):
        RejectedShares(low=0.6, shift=0.6)
