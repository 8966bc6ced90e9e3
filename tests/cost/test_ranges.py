import math
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cost.ranges import SECONDS, SEED, Range, amount, count, positive, require_ranges


@pytest.mark.parametrize("within", [count(), amount(), positive(), SECONDS, SEED, Range(2, 3)])
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 10**30, -(10**30), -1])
def test_no_range_has_what_is_not_finite_absurd_or_negative(within, value):
    assert within.fault(value) is not None


@given(st.floats(0, 10), st.floats(0, 10), st.booleans(), st.floats(-20, 20))
def test_a_fault_is_what_lies_outside(least, width, above, value):
    inside = (value > least if above else value >= least) and value <= least + width
    assert (Range(least, least + width, above).fault(value) is None) == inside


@pytest.mark.parametrize(
    ("within", "value", "fault"),
    [
        (count(), 0, "must be at least 1"),
        (count(50), 51, "must be at most 50"),
        (amount(), -1, "must not be negative"),
        (positive(), 0, "must be positive"),
        (positive(), math.inf, "must be finite"),
        (Range(1, 2, above=True), 1, "must be above 1"),
        (amount(1), 1.5, "must lie in [0, 1]"),
        (positive(1), 0, "must lie in (0, 1]"),
        (count(), 2_000_000_000, "must be at most 1000000000"),
    ],
)
def test_the_words_say_which_end(within, value, fault):
    assert within.fault(value) == fault


def test_a_refusal_begins_with_the_key_and_ends_with_the_value():
    with pytest.raises(ValueError, match=r"^loop\.steps must be at least 1, got 0$"):
        require_ranges("loop.", SimpleNamespace(steps=0), {"steps": count()})
    require_ranges("loop.", SimpleNamespace(steps=1, limit=None), {"limit": count()})
