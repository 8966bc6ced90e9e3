"""Parts of rewards, from what a reward says to the metrics of a step."""

from dataclasses import replace

import pytest

from launch.record.reward_components import MOST, component_metrics
from tests.launch.record.test_metrics import report


def of(**components):
    return replace(report([4, 8], [1.0, 0.0]), reward_components=components)


def test_each_part_is_averaged_over_the_responses_that_have_it():
    reports = [of(correct=(1.0, 2), form=(0.5, 1)), of(correct=(2.0, 2)), of()]
    assert component_metrics(reports) == pytest.approx(
        {
            "rollout/reward_components/correct": 3 / 4,
            "rollout/reward_components/form": 0.5,
        }
    )


def test_a_part_that_nobody_has_is_no_metric():
    assert component_metrics([of(correct=(0.0, 0))]) == {}
    assert component_metrics([]) == {}


def test_names_without_end_are_cut():
    many = {f"part {number:04}": (1.0, 1) for number in range(1000)}
    found = component_metrics([of(**many)])
    assert len(found) == MOST
    assert next(iter(found)) == "rollout/reward_components/part 0000"
