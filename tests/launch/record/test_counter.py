"""Counters with a hand-moved clock, in a file and on a terminal."""

import ast

import pytest

from launch.record import counter as module
from launch.record.counter import Counter
from launch.record.progress import Progress
from tests.launch.record.consoles import plain, terminal, text_of, without_times
from tests.places import PROJECT


class Clock:
    """Stands still until told."""

    now = 0.0

    def __call__(self):
        return self.now


def test_a_file_gets_a_line_now_and_then_with_the_time_left():
    console, clock = plain(), Clock()
    with Counter("evaluation", 1600, "responses", console=console, clock=clock) as counter:
        for second in range(101):
            clock.now = float(second)
            counter.to(16 * second)
    assert without_times(text_of(console)).splitlines() == [
        "evaluation: 480 of 1,600 responses, left 1m10s",
        "evaluation: 960 of 1,600 responses, left 40.0s",
        "evaluation: 1,440 of 1,600 responses, left 10.0s",
    ]


def test_words_may_say_how_far_it_is():
    clock = Clock()
    with Counter("plain seed 0", 1.0, console=plain(), clock=clock) as counter:
        assert counter.text() == "plain seed 0: 0 of 1, left -"
        clock.now = 10.0
        counter.to(0.25, "step 5, 25%")
        assert counter.text() == "plain seed 0: step 5, 25%, left 30.0s"


def test_the_time_of_a_break_is_not_that_of_the_work():
    clock = Clock()
    counter = Counter("run", 10, console=plain(), clock=clock)
    with counter:
        clock.now = 10.0
        counter.to(5)
    clock.now = 1000.0
    with counter:
        clock.now = 1004.0
        counter.to(6)
        assert counter.seconds_left == pytest.approx(16)


def test_work_that_is_lost_and_done_anew_does_not_slow_the_pace():
    clock = Clock()
    counter = Counter("run", 10, console=plain(), clock=clock)
    with counter:
        clock.now = 10.0
        counter.to(5)
    with counter:
        clock.now = 12.0
        counter.to(1)
        for done in (3, 6, 7):
            clock.now += 2.0
            counter.to(done)
        assert counter.seconds_left == pytest.approx(3)


def test_a_terminal_has_one_line_that_goes_away_below_the_panel_of_a_run():
    console, raw = terminal()
    progress = Progress("my run", 3, console=console)
    with Counter("evaluation", 8, "responses", console=console) as counter:
        counter.to(2)
        progress.update(1, {})
    progress.close()
    shown = raw.getvalue().decode()
    assert "evaluation: 2 of 8 responses, left 0.0s" in shown
    assert "evaluation" not in shown[shown.rindex("my run") :]


def test_a_quiet_one_shows_nothing(capsys, monkeypatch):
    monkeypatch.setattr(module, "EVERY_SECONDS", 0.0)
    with Counter("evaluation", 8, quiet=True) as counter:
        counter.to(2)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "path",
    [
        "launch/run/measuring.py",
        "launch/run/training.py",
        "launch/study/simulation/sizes.py",
        "launch/study/simulation/plan.py",
        "launch/study/variance/study.py",
        "launch/study/prediction/collection.py",
        "launch/theory.py",
    ],
)
def test_what_takes_minutes_counts(path):
    """Evaluation, arms of a comparison and studies; a step of a run has its own line."""
    names = {node.func.id for node in ast.walk(ast.parse((PROJECT / path).read_text("utf-8")))
             if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}  # fmt: skip
    assert "Counter" in names
