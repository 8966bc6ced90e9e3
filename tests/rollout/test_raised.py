"""Where an error was raised: the innermost line of somebody's own code."""

import json

from rollout.raised import own_frames, told
from tests.places import PROJECT


def test_frames_of_installed_packages_and_named_folders_are_left_out():
    try:
        json.loads("{")
    except ValueError as error:
        trace = error.__traceback__
    assert [frame.filename for frame in own_frames(trace)] == [__file__]
    assert own_frames(trace, str(PROJECT)) == []
    assert own_frames(None) == []


def test_an_error_is_told_in_one_line_with_the_place_in_somebodys_own_code():
    try:
        json.loads("{")
    except ValueError as error:
        said = told(error)
        assert said.startswith("raised JSONDecodeError: Expecting ")
        assert said.endswith(f"({__file__}:{error.__traceback__.tb_lineno})")
        assert told(error, str(PROJECT)) == said[: said.rindex(" (")]
