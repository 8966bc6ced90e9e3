"""What is made of a user's file reaches processes that have never read it."""

import pickle
import subprocess
import sys

import pytest
from ray import cloudpickle

from rollout.own_code import build
from tests.places import PROJECT

NEIGHBOUR = "LIMIT = 7\n"
MINE = """
from dataclasses import dataclass
from typing import NamedTuple

import neighbour_of_mine


@dataclass(frozen=True, slots=True)
class Part:
    size: int


@dataclass(frozen=True, slots=True)
class Slotted:
    floor: float = 0.5
    part: Part = Part(3)

    def value(self):
        return self.floor + self.part.size + neighbour_of_mine.LIMIT


class Plain:
    def __init__(self, floor):
        self.floor, self.part = floor, Part(3)

    value = Slotted.value


class Named(NamedTuple):
    floor: float
    part: Part = Part(3)

    value = Slotted.value


def made(floor):
    return Plain(floor)
"""
READ = """
import pickle, sys
first, second = pickle.load(sys.stdin.buffer)
assert type(first) is type(second), "one class"
print(first.value(), second.value())
"""


@pytest.fixture
def file(tmp_path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "neighbour_of_mine.py").write_text(NEIGHBOUR)
    # Of the name of another package, so that the file has no module of its own stem.
    (folder / "conf.py").write_text(MINE)
    (folder / "mine_to_travel.py").write_text(MINE)
    yield folder
    sys.path.remove(str(folder))
    for name in [name for name in sys.modules if "travel" in name or "elsewhere" in name]:
        del sys.modules[name]
    sys.modules.pop("neighbour_of_mine", None)


@pytest.mark.parametrize("pickler", [pickle, cloudpickle], ids=["pickle", "Ray"])
@pytest.mark.parametrize("name", ["Slotted", "Plain", "Named", "made"])
@pytest.mark.parametrize("stem", ["mine_to_travel", "conf"])
def test_a_plug_of_a_users_file_is_read_where_its_folder_is_unknown(
    file, tmp_path, pickler, name, stem
):
    plugs = [build(f"{file}/{stem}.py:{name}", floor=floor) for floor in (0.25, 0.75)]
    done = subprocess.run(
        [sys.executable, "-c", READ],
        input=pickler.dumps(plugs),
        capture_output=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(PROJECT)},
        timeout=60,
    )
    assert done.stderr == b"" and done.stdout.decode() == "10.25 10.75\n"
    # Also here, where the class is known.
    first, _ = pickle.loads(pickler.dumps(plugs))
    assert type(first) is type(plugs[0]) and first.value() == 10.25
