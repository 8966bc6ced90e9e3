"""The learning rate rises and falls as its schedule says, by steps or with the run."""

import math
from itertools import pairwise

import pytest

from learner.config import LearnerConfig
from learner.schedule import learning_rate


def rates(schedule, *, warmup=2, num_steps=10, minimum=0.1, steps=12):
    return [
        learning_rate(
            step,
            0.5,
            lr=2.0,
            schedule=schedule,
            warmup=warmup,
            num_steps=num_steps,
            minimum=minimum,
        )
        for step in range(steps)
    ]


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_it_rises_to_lr_and_falls_to_the_minimum_and_stays(schedule):
    found = rates(schedule)
    assert found[:2] == [1.0, 2.0]
    assert all(one > other for one, other in pairwise(found[1:11]))
    assert found[10] == found[11] == pytest.approx(0.2)


def test_the_curves_are_those_of_their_names():
    progress = [(k - 1) / 9 for k in range(2, 10)]
    linear = [2 * (0.1 + 0.9 * (1 - p)) for p in progress]
    cosine = [2 * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * p))) for p in progress]
    assert rates("linear")[2:10] == pytest.approx(linear)
    assert rates("cosine")[2:10] == pytest.approx(cosine)
    assert rates("constant", num_steps=None) == [1.0] + [2.0] * 11


@pytest.mark.parametrize(("warmup", "found"), [(0, [2.0, 2.0]), (1, [2.0, 2.0]), (2, [1.0, 2.0])])
def test_the_first_step_after_the_warm_up_has_the_whole_rate(warmup, found):
    assert rates("constant", warmup=warmup, num_steps=None, steps=2) == found


@pytest.mark.parametrize(("schedule", "left"), [("linear", 0.75), ("cosine", 0.853553)])
def test_without_steps_it_falls_with_the_run(schedule, left):
    def rate(step, progress):
        return learning_rate(
            step, progress, lr=2.0, schedule=schedule, warmup=4, num_steps=None, minimum=0.2
        )

    assert rate(1, 0.0) == pytest.approx(1.0)
    assert rate(9, 0.25) == pytest.approx(2 * (0.2 + 0.8 * left), rel=1e-6)
    # The same share of the run is the same rate, however many steps it took.
    assert rate(99, 0.25) == rate(9, 0.25)
    assert rate(2, 0.25) == pytest.approx(0.75 * rate(9, 0.25))
    assert rate(9, 1.0) == pytest.approx(0.4)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_it_stays_for_a_share_of_the_way_and_falls_over_the_rest(schedule):
    def rate(progress, stable, num_steps=None, step=9):
        return learning_rate(
            step, progress, lr=2.0, schedule=schedule, warmup=2, num_steps=num_steps, minimum=0.2,
            stable=stable,
        )  # fmt: skip

    assert [rate(progress, 0.8) for progress in (0.0, 0.5, 0.8)] == [2.0] * 3
    assert rate(0.95, 0.8) == pytest.approx(rate(0.75, 0.0))
    assert rate(1.0, 0.8) == pytest.approx(0.4)
    # By steps: 2 of warm-up, 9 to the minimum, 4.5 of them stable.
    found = [rate(0.0, 0.5, num_steps=10, step=step) for step in range(11)]
    assert found[:6] == [1.0] + [2.0] * 5 and found[10] == pytest.approx(0.4)
    assert all(one > other for one, other in pairwise(found[5:]))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"schedule": "cosin"}, r"learner\.schedule must be one of constant, linear, cosine"),
        (
            {"schedule": "linear", "schedule_steps": 5, "warmup_steps": 5},
            r"learner\.schedule_steps must exceed learner\.warmup_steps = 5, got 5",
        ),
        ({"min_lr_share": 1.5}, r"learner\.min_lr_share must lie in \[0, 1\]"),
        ({"min_lr_share": 0.1}, r"min_lr_share must be 0 with learner\.schedule=constant, .* 0\.1"),
        ({"stable_share": 0.9}, r"stable_share must be 0 with learner\.schedule=constant, .* 0\.9"),
        (
            {"schedule": "cosine", "stable_share": 1.0},
            r"learner\.stable_share must lie in \[0, 0\.999\], got 1\.0",
        ),
        # Its rate was 0 / 0.
        (
            {"schedule_steps": 4, "warmup_steps": 5},
            r"schedule_steps must be null with learner\.schedule=constant, .* got 4",
        ),
    ],
)
def test_a_schedule_that_is_none_is_refused(settings, told):
    with pytest.raises(ValueError, match=told):
        LearnerConfig(**settings)
