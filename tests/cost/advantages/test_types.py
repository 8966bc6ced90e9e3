import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cost.advantages.types import group_batch, moments
from cost.types import Ticket

VALUES = st.lists(st.lists(st.floats(-100, 100), max_size=6), min_size=1, max_size=6)


def moments_of(groups):
    return moments(
        np.concatenate([np.zeros(0), *groups]),
        np.ones(sum(map(len, groups)), bool),
        np.array([len(group) for group in groups]),
    )


@given(VALUES)
@settings(max_examples=50)
def test_moments_are_numpys(groups):
    found = moments_of(groups)
    for k, group in enumerate(groups):
        assert found.counts[k] == len(group)
        assert found.means[k] == pytest.approx(np.mean(group) if group else 0, abs=1e-9)
        assert found.deviations()[k] == pytest.approx(np.std(group) if group else 0, abs=1e-9)
        if len(group) >= 2:
            assert found.deviations(1)[k] == pytest.approx(np.std(group, ddof=1), abs=1e-9)


@given(VALUES, st.data())
@settings(max_examples=50)
def test_pooled_moments_are_those_of_the_values_together(groups, data):
    size = len(groups)
    others = data.draw(st.lists(st.lists(st.floats(-100, 100)), min_size=size, max_size=size))
    found = moments_of(groups).pooled(moments_of(others))
    whole = moments_of([a + b for a, b in zip(groups, others, strict=True)])
    np.testing.assert_array_equal(found.counts, whole.counts)
    np.testing.assert_allclose(found.means, whole.means, atol=1e-9)
    np.testing.assert_allclose(found.squares, whole.squares, rtol=1e-9, atol=1e-7)


@given(st.floats(-1e6, 1e6), st.integers(1, 30), st.integers(1, 30))
@settings(max_examples=50)
def test_equal_values_have_exactly_no_spread(value, first, second):
    """0.1 seven times has a mean that is not 0.1 in floating point."""
    pooled = moments_of([[value] * first]).pooled(moments_of([[value] * second]))
    assert pooled.means[0] == value and pooled.squares[0] == 0


def test_values_that_do_not_count_may_be_anything():
    values, counted = np.array([np.nan, 1.0, 3.0, np.inf]), np.array([False, True, True, False])
    found = moments(values, counted, np.array([1, 2, 0, 1]))
    assert found.counts.tolist() == [0, 2, 0, 0]
    assert found.means.tolist() == [0, 2, 0, 0] and found.squares.tolist() == [0, 2, 0, 0]


def test_a_batch_lays_reports_end_to_end(make_report, empty_report):
    tickets = [Ticket(k, 5 - k, 2, 1.0, 1.0, 128) for k in range(3)]
    reports = [
        make_report(tickets[0], answer_codes=np.array([0, 0])),
        empty_report(tickets[1]),
        make_report(tickets[2], status=np.array([0, 2])),
    ]
    batch = group_batch(reports, 128)
    assert batch.sizes.tolist() == [2, 0, 2] and batch.groups.tolist() == [0, 0, 2, 2]
    assert batch.usable.tolist() == [True, True, True, False]
    assert batch.num_usable.tolist() == [2, 0, 1]
    assert batch.answer_codes.tolist() == [0, 0, 0, 1]
    assert batch.prompt_indices.tolist() == [5, 4, 3] and not batch.folded.any()
