"""The way through the house: rooms within rooms, doors, and sizes a person can hold in mind."""

import ast
import re

from tests.places import PROJECT
from tests.test_layering import FILES, imports_of, nodes_of

SHARED = {"cli", "program"}
LAUNCH = {
    "cli": set(),
    "program": {"cli"},
    "record": SHARED,
    "run": SHARED | {"record"},
    "study": SHARED | {"record", "run"},
    "jobs": SHARED,
    "models": SHARED | {"run"},
}
"""Room of `launch/` -> rooms that it may import, beside itself."""
COST = (
    ("types", "ranges", "state_file"),
    ("prompts",),
    ("state", "aggregations", "ledger", "advantages", "prices", "worth"),
    ("draws",),
    ("thinning",),
    ("scheduler",),
)
"""Rooms of `cost/` from the ground up: one may import those below it."""


def room_of(name):
    return name.removesuffix(".py").replace("/", ".").split(".")[1]


PROGRAMS = [f for f in FILES if f.count("/") == 1 and f.startswith("launch/") and "__" not in f]
DOORS = [path for path in PROGRAMS if room_of(path) not in LAUNCH]
LONGEST_FUNCTION = 60
LONGEST_FILE = 300
MOST_LONG_FILES = 20


def num_lines(path):
    return len((PROJECT / path).read_text(encoding="utf-8").splitlines())


def functions_of(path):
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [node for node in nodes_of(path) if isinstance(node, kinds)]


def against(paths, room, allowed):
    """Where files import what they may not from their own part of the house."""
    return [
        f"{path}:{line} imports {name}"
        for path in paths
        for line, name in imports_of(path)
        if name.startswith(f"{room}.") and room_of(name) not in allowed(path)
    ]


def test_rooms_of_launch_know_those_below_and_no_door():
    paths = [
        path
        for path in FILES
        if path.startswith("launch/") and path not in DOORS and room_of(path) != "__init__"
    ]
    assert against(paths, "launch", lambda path: LAUNCH[room_of(path)] | {room_of(path)}) == []


def test_a_door_opens_rooms_and_no_other_door():
    assert against(DOORS, "launch", lambda _: LAUNCH) == []


def test_every_module_in_launch_is_a_program_and_short():
    for path in DOORS:
        text = (PROJECT / path).read_text(encoding="utf-8")
        assert 'if __name__ == "__main__":' in text, path
        assert f"python -m launch.{room_of(path)}" in ast.get_docstring(nodes_of(path)[0]), path
        assert num_lines(path) <= 80, path


def test_rooms_of_cost_know_those_below():
    floors = {room: floor for floor, rooms in enumerate(COST) for room in rooms}
    paths = [path for path in FILES if path.startswith("cost/") and room_of(path) != "__init__"]

    def allowed(path):
        own = room_of(path)
        return {room for room in floors if floors[room] < floors[own]} | {own}

    assert against(paths, "cost", allowed) == []


def test_a_batchs_life_fits_one_page():
    assert num_lines("launch/run/loop.py") <= 150
    assert num_lines("cost/scheduler/scheduler.py") <= 160


def test_the_map_of_the_largest_room_has_all_its_modules():
    room = "launch/run/"
    text = ast.get_docstring(nodes_of(f"{room}__init__.py")[0])
    lines = re.findall(r"^    [a-z ]+?  +(.*)$", text, re.MULTILINE)
    named = [name for line in lines for name in line.split(", ")]
    there = [path.removeprefix(room).removesuffix(".py") for path in FILES if room in path]
    assert sorted(named) == sorted(set(there) - {"__init__"})


def test_no_function_is_longer_than_a_page():
    found = [
        f"{path}:{node.lineno} {node.name}"
        for path in FILES
        for node in functions_of(path)
        if node.end_lineno - node.lineno + 1 > LONGEST_FUNCTION
    ]
    assert found == []


def test_few_files_are_long():
    found = [path for path in FILES if num_lines(path) > LONGEST_FILE]
    assert len(found) <= MOST_LONG_FILES, found
