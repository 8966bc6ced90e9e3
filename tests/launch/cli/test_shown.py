"""`--cfg job` prints what would run."""

import pytest

from launch.cli.shown import Shown, without_shown
from tests.launch.programs import call


@pytest.mark.parametrize(
    ("arguments", "shown", "others"),
    [
        (["a=1", "--cfg", "hydra"], None, ["a=1", "--cfg", "hydra"]),
        (["a=1", "-c", "job", "-cn", "config"], Shown(None, False), ["a=1", "-cn", "config"]),
        (["--resolve", "--cfg=job", "-p", "x.y", "a=1"], Shown("x.y", True), ["a=1"]),
        (["a=1", "--cfg", "job", "--package=_global_"], Shown(None, False), ["a=1"]),
    ],
)
def test_what_is_asked_for_is_taken_out(arguments, shown, others):
    assert without_shown(arguments) == (shown, others)


def test_a_plug_of_the_users_is_printed_with_its_own_settings():
    chosen = ["allocator=mine.py:Mine", "scheduler.allocator.floor=0.5"]
    show = ["--cfg", "job", "--package", "scheduler.allocator"]
    done = call("launch.train", "experiment=quickstart", *chosen, *show)
    assert (done.status, done.err) == (0, "")
    assert done.out == ("# @package scheduler.allocator\n_target_: mine.py:Mine\nfloor: 0.5\n")


def test_an_evaluation_is_printed_without_a_trainings_settings():
    done = call("launch.evaluate", "experiment=quickstart", "--cfg", "job")
    assert done.status == 0 and "num_samples: 8" in done.out and "learner:" not in done.out


def test_a_part_that_is_not_there_is_refused():
    done = call("launch.train", "experiment=quickstart", "--cfg", "job", "--package", "nowhere")
    assert done.status == 2
    assert done.err == "error: --package must name a part of what is set, got 'nowhere'\n"
