"""Where an error was raised: the innermost line of somebody's own code."""

import json

from rollout.raised import own_frames
from tests.places import PROJECT


def test_frames_of_installed_packages_and_named_folders_are_left_out():
    try:
        json.loads("{")
    except ValueError as error:
        trace = error.__traceback__
    assert [frame.filename for frame in own_frames(trace)] == [__file__]
    assert own_frames(trace, str(PROJECT)) == []
    assert own_frames(None) == []
