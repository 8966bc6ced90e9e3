"""Help for one key, and words that were meant."""

import re
import subprocess
import sys

import pytest
from hydra.errors import HydraException

from conf.programs import register
from launch.cli.help import first_sentence, help_of
from launch.cli.refusals import UserError, composition_sentence
from launch.program import GROUPS, build, compose_run
from tests.composing import composed
from tests.places import CONF, PROJECT

register()


def test_help_of_a_key_and_of_a_group():
    assert help_of(["--help", "learner.lr"], "train", GROUPS).startswith("learner.lr: float")
    objectives = help_of(["--help", "objective"], "train", GROUPS)
    assert "\nobjective: choose a member with objective=MEMBER\n" in objectives
    assert "\n  cispo " in objectives
    allocators = help_of(["--help", "allocator"], "train", GROUPS)
    assert "\nallocator: choose a member with allocator@scheduler.allocator=MEMBER\n" in allocators
    assert help_of(["--help"], "train", GROUPS) == "" == help_of(["learner.lr"], "train", GROUPS)
    with pytest.raises(UserError, match=r"did you mean learner\.lr\?, got 'learner\.lrr'$"):
        help_of(["--help", "learner.lrr"], "train", GROUPS)


@pytest.mark.parametrize("group", GROUPS)
def test_every_member_of_a_group_says_in_a_sentence_what_it_is(group):
    text = help_of(["--help", group], "train", GROUPS)
    members = re.findall(r"^  (\S+) +((?:.*\n?(?: {26}.*\n?)*))", text + "\n", re.MULTILINE)
    names = {path.stem for path in (CONF / group).glob("*.yaml")}
    assert {name for name, _ in members} >= names
    assert [name for name, said in members if name in names and len(said.split()) < 3] == []


def test_the_first_sentence_of_a_comment_goes_on_over_lines_and_abbreviations():
    text = "# @package _global_\n# Dr. GRPO at 1.5 times\n# the rate. Ours.\nname: x\n# Not this.\n"
    assert first_sentence(text) == "Dr. GRPO at 1.5 times the rate"
    assert (
        first_sentence("# Is it late? See\n# below.\n#   python -m launch.x\n")
        == "Is it late? See below"
    )
    assert first_sentence("name: x\n# Not this.\n") == ""


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("loop.num_step=8", r"^loop\.num_step is not a setting; did you mean loop\.num_steps\?"),
        (
            "loopp.num_steps=8",
            r"^loopp\.num_steps is not a setting; did you mean loop\.num_steps\?",
        ),
        ("recipe=drgrpo", r"^recipe has no member 'drgrpo'; did you mean dr_grpo\? There are aepo"),
        (
            "alocator@scheduler.allocator=epoch",
            r"^alocator is not a group; did you mean allocator\?",
        ),
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
    assert composition_sentence(refusal.value).startswith(f"{key} is not a setting{told} (Key ")


def test_a_reader_that_has_seen_enough_is_no_error():
    command = [sys.executable, "-m", "launch.train", "--help"]
    program = subprocess.Popen(
        command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert program.stdout is not None and program.stderr is not None
    program.stdout.close()
    assert program.wait(timeout=120) == 0
    assert program.stderr.read() == ""
