"""What may reach a terminal or a page of the text of others."""

import logging

import pytest
from ray.exceptions import RayTaskError

from launch.cli.visible import VisibleFilter, from_ray, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x9b2J", r"\x9b2J"),
        ("over\rwritten\b\x7f", r"over\rwritten\x08\x7f"),
        ("a\u202egnp.exe", r"a\u202egnp.exe"),
        ("\u2066a\u2069\u200e\u061c", r"\u2066a\u2069\u200e\u061c"),
        ("half \ud800 a letter\0", r"half \ud800 a letter\x00"),
        ("line\u2028break", r"line\u2028break"),
    ],
)
def test_what_steers_is_spelt_out(text, shown):
    assert visible(text) == shown


@pytest.mark.parametrize(
    "text", ["a\tb\nc", "größer \u05d0\u05d1 \u0627\u0644 中文 \u200d😀", "[red] <b> \\x1b"]
)
def test_letters_of_all_scripts_stay(text):
    assert visible(text) == text


def test_what_is_logged_is_visible():
    record = logging.LogRecord("a", logging.WARNING, "a.py", 1, "got %s", ("\x1b[2J",), None)
    assert VisibleFilter().filter(record)
    assert record.getMessage() == r"got \x1b[2J"


def test_colours_go_and_nothing_else():
    assert (
        from_ray("\x1b[36mray::f()\x1b[39m \x1b[1;31m[2]\x1b[0m\x1b]0;t\x07")
        == "ray::f() [2]\x1b]0;t\x07"
    )


TRACEBACK = """\x1b[36mray::f()\x1b[39m (pid=7)
  File "/env/ray/_private/worker.py", line 1, in call
    return f(*args)
           ^^^^^^^^
  File "/project/own.py", line 2, in f
    return 1 / 0
           ~~^~~
ZeroDivisionError: division by zero"""


def test_a_frame_that_ray_leaves_out_leaves_no_marks():
    text = str(RayTaskError("f", TRACEBACK, ZeroDivisionError("division by zero"), pid=7, ip="::1"))
    assert "/env/ray" not in text and "^^^^^^^^" in text
    lines = from_ray(text).splitlines()
    assert lines[0].startswith("ray::f()")
    assert lines[1:] == TRACEBACK.splitlines()[-4:]
