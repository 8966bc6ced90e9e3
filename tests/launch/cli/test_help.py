"""Help for one key, and words that were meant."""

import subprocess
import sys

import pytest
from hydra.errors import HydraException

from conf.programs import register
from launch.cli.help import help_of
from launch.cli.refusals import UserError, composition_sentence
from launch.program import GROUPS, build, compose_run
from tests.composing import composed
from tests.places import PROJECT

register()


def test_help_of_a_key_and_of_a_group():
    assert help_of(["--help", "learner.lr"], "train", GROUPS).startswith("learner.lr: float")
    assert "\n  cispo " in help_of(["--help", "objective"], "train", GROUPS)
    assert help_of(["--help"], "train", GROUPS) == "" == help_of(["learner.lr"], "train", GROUPS)
    with pytest.raises(UserError, match=r"did you mean learner\.lr\?, got 'learner\.lrr'$"):
        help_of(["--help", "learner.lrr"], "train", GROUPS)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("loop.num_step=8", r"^loop\.num_step is no setting; did you mean loop\.num_steps\?"),
        ("loopp.num_steps=8", r"^loopp\.num_steps is no setting; did you mean loop\.num_steps\?"),
        ("recipe=drgrpo", r"^recipe has no member 'drgrpo'; did you mean dr_grpo\? There are aepo"),
        ("alocator@scheduler.allocator=epoch", r"^alocator is no group; did you mean allocator\?"),
        (
            "scheduler.group_size=auto",
            r"^scheduler\.group_size must be a whole .* add sizing@scheduler\.sizing=priced, got",
        ),
        ("scheduler.tickets_per_step=auto", r"^scheduler\.tickets_per_step must be a whole number"),
        ("+loop.num_step=8", r"^loop\.num_step must be left out.*did you mean loop\.num_steps\?"),
    ],
)
def test_what_was_meant_is_said_in_one_line(override, told):
    with pytest.raises(UserError, match=told) as refusal:
        build(compose_run(["experiment=quickstart", "run_dir=x", override]))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("override", "told"),
    [("budget=0.3", "; did you mean budgets?"), ("learner.lr=1", "; --help lists what there is")],
)
def test_what_is_meant_is_a_setting_of_that_program(override, told):
    """Others have a `budget` and a `learner.lr`."""
    with pytest.raises(HydraException) as refusal:
        composed("variance", override)
    key = override.partition("=")[0]
    assert composition_sentence(refusal.value).startswith(f"{key} is no setting{told} (Key ")


def test_a_reader_that_has_seen_enough_is_no_error():
    command = [sys.executable, "-m", "launch.train", "--help"]
    program = subprocess.Popen(
        command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert program.stdout is not None and program.stderr is not None
    program.stdout.close()
    assert program.wait(timeout=120) == 0
    assert program.stderr.read() == ""
