"""The way through the house: rooms within rooms, doors, and sizes a person can hold in mind."""

import ast
from functools import cache

import pytest

from tests.places import PROJECT
from tests.test_layering import FILES, imports_of

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


@cache
def tree_of(path):
    return ast.parse((PROJECT / path).read_text(encoding="utf-8"))


def num_lines(path):
    return len((PROJECT / path).read_text(encoding="utf-8").splitlines())


def functions_of(path):
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [node for node in ast.walk(tree_of(path)) if isinstance(node, kinds)]


@pytest.mark.parametrize("path", [p for p in FILES if p.startswith("launch/") and p not in DOORS])
def test_rooms_of_launch_know_those_below_and_no_door(path):
    room = room_of(path)
    if room == "__init__":
        return
    allowed = LAUNCH[room] | {room}
    found = [(line, name) for line, name in imports_of(path) if name.startswith("launch.")]
    assert [f"{path}:{line} imports {n}" for line, n in found if room_of(n) not in allowed] == []


@pytest.mark.parametrize("path", DOORS)
def test_a_door_opens_rooms_and_no_other_door(path):
    found = [(line, name) for line, name in imports_of(path) if name.startswith("launch.")]
    assert [f"{path}:{line} imports {n}" for line, n in found if room_of(n) not in LAUNCH] == []


@pytest.mark.parametrize("path", DOORS)
def test_every_module_in_launch_is_a_program_and_short(path):
    text = (PROJECT / path).read_text(encoding="utf-8")
    assert 'if __name__ == "__main__":' in text
    assert f"python -m launch.{room_of(path)}" in ast.get_docstring(tree_of(path))
    assert num_lines(path) <= 80


@pytest.mark.parametrize("path", [p for p in FILES if p.startswith("cost/")])
def test_rooms_of_cost_know_those_below(path):
    floors = {room: floor for floor, rooms in enumerate(COST) for room in rooms}
    room = room_of(path)
    if room == "__init__":
        return
    found = [(line, name) for line, name in imports_of(path) if name.startswith("cost.")]
    above = [
        f"{path}:{line} imports {name}"
        for line, name in found
        if room_of(name) != room and floors[room_of(name)] >= floors[room]
    ]
    assert above == []


def test_a_batchs_life_fits_one_page():
    assert num_lines("launch/run/loop.py") <= 150
    assert num_lines("cost/scheduler/scheduler.py") <= 160


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
