"""Which policy each pass rate is of."""

import math

import numpy as np
import pytest

from launch.record.held_out import HeldOut

NAN = math.nan
BEFORE = {"pass_rate_before": 0.2, "pass_rate_before_half_width": 0.1}
AFTER = {"pass_rate_after": 0.8, "pass_rate_after_half_width": None}


def metrics(versions, rates):
    count = len(rates)
    return {
        "step": np.arange(1.0, count + 1),
        "evaluation/version": np.array(versions, float),
        "evaluation/pass_rate": np.array(rates, float),
        "evaluation/pass_rate_half_width": np.array(rates, float) / 10,
    }


def test_the_last_policy_measured_twice_is_shown_once():
    found = HeldOut.of(metrics([NAN, 2], [NAN, 0.7]), BEFORE | AFTER)
    assert found.positions.tolist() == [-1, 1] and found.rates.tolist() == [0.2, 0.8]
    assert found.half_widths.tolist() == [0.1, 0.0]


def test_an_earlier_policy_found_at_the_last_step_is_no_second_time():
    found = HeldOut.of(metrics([NAN, NAN, 1], [NAN, NAN, 0.7]), BEFORE | AFTER)
    assert found.positions.tolist() == [-1, 0, 2] and found.rates.tolist() == [0.2, 0.7, 0.8]
    assert found.half_widths == pytest.approx([0.1, 0.07, 0.0])
    assert found.places(np.array([10.0, 20.0, 30.0]), 0.0).tolist() == [0, 10, 30]


def test_what_was_not_measured_is_not_there():
    assert not len(HeldOut.of(metrics([NAN], [NAN]), {}).rates)
    ends = HeldOut.of({"step": np.zeros(0)}, BEFORE | AFTER)
    assert ends.positions.tolist() == [-1, 0] and ends.rates.tolist() == [0.2, 0.8]
