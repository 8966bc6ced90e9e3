"""The largest part of a step: what it is, and how it is held back."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cost.advantages.within_group import GroupStandardised
from cost.ledger import METRICS
from cost.thinning.clipping import GradientShare, gradient_norms, largest_share
from cost.thinning.subsets import D3s, Pods
from cost.thinning.thinning import CostAware, KeepAll
from tests.cost.play import select

NORMS = st.lists(st.one_of(st.just(0.0), st.floats(1e-6, 1e6)), max_size=40).map(np.array)


@given(NORMS, st.floats(0.01, 1.0))
def test_no_response_is_above_the_share_and_the_others_stay(norms, max_share):
    norms = norms.astype(float)
    scales = GradientShare(max_share).scales(norms)
    left, num = norms * scales, int((norms > 0).sum())
    assert ((scales > 0) & (scales <= 1)).all() and (scales[norms == 0] == 1).all()
    assert largest_share(left) <= max(max_share, 2 / max(num, 1)) * (1 + 1e-6)
    # To rounding: of equals at the bound one may count as above it.
    held = scales < 1 - 1e-9
    assert held.sum() < max(num, 2) / 2 or not held.any()
    if held.any():
        # Held back no further than needed: to one norm, which is the largest one and the share.
        np.testing.assert_allclose(left[held], left.max(), rtol=1e-9)
        assert largest_share(left) >= max(max_share, 2 / num) * (1 - 1e-6)
    else:
        np.testing.assert_allclose(scales, 1.0, rtol=1e-9)


def test_a_lone_slip_is_held_back_to_its_share():
    norms = np.array([1.0] * 45 + [90.0])
    scales = GradientShare(0.1).scales(norms)
    # By hand: t^2 = .1 (45 + t^2), hence t^2 = 5.
    assert scales[-1] * 90 == pytest.approx(np.sqrt(5)) and (scales[:-1] == 1).all()
    assert largest_share(norms) == pytest.approx(8100 / 8145)
    assert largest_share(norms * scales) == pytest.approx(0.1)


@pytest.mark.parametrize("unit", [1e-200, 1e200])
def test_the_unit_of_norms_is_no_matter(unit):
    """Their squares would be 0 or infinite."""
    norms = np.array([1.0] * 45 + [90.0])
    scales = GradientShare(0.1).scales(norms)
    np.testing.assert_allclose(GradientShare(0.1).scales(unit * norms), scales, rtol=1e-9)


def test_two_large_ones_do_not_shield_each_other():
    norms = np.array([1.0] * 40 + [90.0, 80.0])
    scales = GradientShare(0.1).scales(norms)
    # By hand: t^2 = .1 (40 + 2 t^2), hence t^2 = 5.
    np.testing.assert_allclose(scales[-2:] * norms[-2:], np.sqrt(5))


@pytest.mark.parametrize("value", [0.0, -0.1, 1.01, float("nan")])
def test_a_share_out_of_range_is_refused(value):
    with pytest.raises(
        ValueError, match=rf"^clipping\.max_share must (lie in .*|be finite), got {value}$"
    ):
        GradientShare(value)


def test_largest_share_of_few():
    assert largest_share(np.zeros(0)) == largest_share(np.zeros(3)) == 0.0
    assert largest_share(np.array([0.0, 1e-200])) == 1.0
    assert largest_share(np.array([1e200, 1e200])) == 0.5


def play(make_scheduler, make_report, **changes):
    """One batch with a lone slip, selected from; its scheduler, reports and selections."""
    scheduler = make_scheduler(**changes)
    tickets = scheduler.draw(0, 0).tickets
    reports = [make_report(ticket) for ticket in tickets]
    slip = replace(
        reports[0], rewards=np.array([1.0, 1, 1, 0]), surprise=np.array([1.0, 1, 1, 900])
    )
    reports[0] = slip
    return scheduler, reports, select(scheduler, 0, reports)


def test_the_metric_is_the_largest_response_by_surprise(make_scheduler, make_report):
    scheduler, reports, selections = play(make_scheduler, make_report)
    norms = [
        abs(selection.advantages[j]) * report.surprise[j] ** 0.5
        * selection.weight[j] / report.lengths[j] / 4
        for report, selection in zip(reports, selections, strict=True)
        for j in np.flatnonzero(selection.keep)
    ]  # fmt: skip
    expected = max(norms) ** 2 / sum(norm**2 for norm in norms)
    metrics = scheduler.metrics()
    assert metrics["cost/gradient_max_share"] == pytest.approx(expected, rel=1e-12)
    assert 0 < expected < 1 and "cost/gradient_clipped_share" not in metrics
    found = gradient_norms(reports, selections)
    np.testing.assert_allclose(np.sort(found[found > 0]), np.sort(norms))


@pytest.mark.parametrize("thinning", [KeepAll(), CostAware(), Pods(num_kept=2), D3s()])
def test_clipping_bounds_the_share_of_whatever_was_kept(make_scheduler, make_report, thinning):
    plain, _, before = play(make_scheduler, make_report, thinning=thinning)
    scheduler, reports, after = play(
        make_scheduler, make_report, thinning=thinning, clipping=GradientShare(0.02)
    )
    num = sum(int(((one.advantages != 0) & one.keep).sum()) for one in after)
    metrics = scheduler.metrics()
    assert plain.metrics()["cost/gradient_max_share"] > max(0.02, 2 / num)
    assert metrics["cost/gradient_max_share"] == pytest.approx(max(0.02, 2 / num))
    assert 0 < metrics["cost/gradient_clipped_share"] < 0.5
    lowered = 0
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one.keep, other.keep)
        np.testing.assert_array_equal(one.advantages, other.advantages)
        assert (other.weight <= one.weight).all() and (other.weight[other.keep] > 0).all()
        lowered += int((other.weight < one.weight).sum())
    kept = sum(int(one.keep.sum()) for one in after)
    assert metrics["cost/gradient_clipped_share"] == lowered / kept
    share = largest_share(gradient_norms(reports, after))
    assert share == pytest.approx(metrics["cost/gradient_max_share"])
    assert metrics.keys() <= METRICS.keys()


def test_a_share_of_one_is_no_change(make_scheduler, make_report):
    _, _, before = play(make_scheduler, make_report)
    _, _, after = play(make_scheduler, make_report, clipping=GradientShare(1.0))
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one.weight, other.weight)


def test_clipping_says_that_it_is_biased(make_config):
    assert make_config().objective_preserving
    assert not make_config(clipping=GradientShare()).objective_preserving
    with pytest.raises(ValueError, match=r"^scheduler\.clipping must be a plug .* got Group"):
        make_config(clipping=GroupStandardised())
