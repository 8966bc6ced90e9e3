"""What is shown while a system starts, on a terminal and in a file."""

import re

import pytest

from launch.record.startup import Startup
from tests.launch.record.consoles import plain, terminal, text_of, without_times


def without_seconds(text):
    """Take off how long parts took, which is more where the machine is busy."""
    return re.sub(r" \d+\.\ds", "", text)


def test_a_file_tells_what_starts_beside_what_and_ready_from_failed():
    console = plain()
    startup = Startup(console=console)
    with startup.part("engines", 2) as ready, pytest.raises(KeyError), startup.part("learners"):
        ready(1)
        raise KeyError("x")
    with startup.part("first publish"):
        startup.say("a sentence")
    assert without_seconds(without_times(text_of(console))).splitlines() == [
        "starting engines (0 of 2 ready)",
        "starting learners",
        "starting engines (1 of 2 ready)",
        "failed learners, in parallel with engines",
        "ready  engines, in parallel with learners",
        "starting first publish",
        "a sentence",
        "ready  first publish",
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_terminal_shows_all_that_is_open(encoding):
    console, raw = terminal(encoding)
    startup = Startup(console=console)
    with startup.part("engines", 2) as ready, startup.part("learners"):
        console.print("a line of somebody else")
        ready(1)
        startup._line._live.refresh()
    with startup.part("scheduler"):
        pass
    shown = without_seconds(raw.getvalue().decode(encoding))
    assert "starting engines (0 of 2 ready)" in shown
    assert "starting engines (1 of 2 ready), learners" in shown
    assert "ready  " in shown and "scheduler" in shown


def test_a_quiet_one_shows_nothing(capsys):
    with Startup(quiet=True).part("engines", 2) as ready:
        ready(1)
    assert capsys.readouterr() == ("", "")
