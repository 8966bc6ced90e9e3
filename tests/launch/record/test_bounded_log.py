"""Lines by steps: how many stay, which, and that a reader finds them whole at any moment."""

import json
import random
from itertools import pairwise
from pathlib import Path

import pytest

from launch.record.atomic_files import AtomicLines
from launch.record.bounded_log import BoundedLog


def steps_in(path):
    return [json.loads(line)["step"] for line in path.read_text().split("\n")[:-1]]


def write(file, step, count=1):
    file.write(
        step, [json.dumps({"step": step, "row": row, "ü": "\u2028"}) for row in range(count)]
    )


@pytest.mark.parametrize("most", [2, 3, 4, 7, 16])
@pytest.mark.parametrize("every", [1, 3, 10])
def test_a_file_is_bounded_ends_with_the_newest_step_and_is_spread_evenly(tmp_path, most, every):
    file, written = BoundedLog(tmp_path / "lines", most), []
    for step in range(1, 400 * every, every):
        write(file, step)
        written.append(step)
        found = steps_in(tmp_path / "lines")
        assert len(found) <= most and found[-1] == step
        if len(written) <= most:
            assert found == written
        else:
            assert found[0] == 1 and len(found) >= most // 2
        # The newest comes as it comes.
        assert len({b - a for a, b in pairwise(found[:-1])}) <= 1
    file.close()


def test_all_lines_of_a_step_stay_or_go_together(tmp_path):
    file = BoundedLog(tmp_path / "lines", 4)
    for step in range(1, 60):
        write(file, step, count=step % 3 + 1)
    file.close()
    found = steps_in(tmp_path / "lines")
    assert {step: found.count(step) for step in found} == {
        step: step % 3 + 1 for step in dict.fromkeys(found)
    }


def test_a_file_that_goes_on_counts_what_it_holds(tmp_path):
    """However often a run stops and goes on, and with lines in it that somebody else wrote."""
    path = tmp_path / "lines"
    for step in range(1, 200):
        file = BoundedLog(path, 8)
        write(file, step)
        file.close()
        assert len(steps_in(path)) <= 8 and steps_in(path)[-1] == step
    path.write_text("not of a step\n" + path.read_text())
    file = BoundedLog(path, 8)
    for step in range(200, 400):
        write(file, step)
        assert len(path.read_text().splitlines()) <= 9


def test_nothing_but_whole_files_is_ever_there(tmp_path):
    """Whoever opens it before lines are taken out goes on reading the old ones."""
    path = tmp_path / "lines"
    file = BoundedLog(path, 4)
    for step in range(1, 5):
        write(file, step)
    with path.open() as reader:
        write(file, 5)
        assert [json.loads(line)["step"] for line in reader] == [1, 2, 3, 4, 5]
    assert steps_in(path) == [1, 3, 5]
    assert [p.name for p in tmp_path.iterdir()] == ["lines"]


def cut(path, step):
    kept = [line for line in path.read_text().splitlines() if json.loads(line)["step"] <= step]
    path.write_text("".join(f"{line}\n" for line in kept))


@pytest.mark.parametrize("seed", range(30))
def test_a_run_that_goes_on_leaves_the_file_of_one_that_never_stopped(tmp_path, seed):
    """Any steps missing, any number of stops, each any number of steps after its checkpoint."""
    rng = random.Random(seed)
    most, every, end = rng.randint(2, 9), rng.choice([1, 1, 3, 10]), rng.randint(20, 150)
    steps = [step for step in range(1, end * every, every) if rng.random() < 0.9]
    undisturbed = BoundedLog(tmp_path / "undisturbed", most)
    held = {}
    for step in steps:
        write(undisturbed, step, count=step % 3 + 1)
        held[step] = (tmp_path / "undisturbed").read_bytes()

    path, at, states, reached = tmp_path / "stopped", 0, {0: None}, 0
    while at < len(steps):
        checkpoint = rng.choice([place for place in states if place <= at])
        if at:
            cut(path, steps[checkpoint - 1] if checkpoint else 0)
        state = json.loads(json.dumps(states[checkpoint]))
        states = {place: states[place] for place in states if place <= checkpoint}
        file = BoundedLog(path, most, state)
        if state:
            assert file.state_dict() == state
        at = rng.randint(checkpoint, len(steps)) if rng.random() < 0.8 else len(steps)
        for place in range(checkpoint, at):
            write(file, steps[place], count=steps[place] % 3 + 1)
            states[place + 1] = file.state_dict()
            reached = max(reached, place)
            if place == reached:
                assert path.read_bytes() == held[steps[place]]
            else:
                # What later steps had taken out is missing until they are there again.
                assert set(path.read_bytes().split(b"\n")) <= set(held[steps[place]].split(b"\n"))
        file.close()
    assert path.read_bytes() == (tmp_path / "undisturbed").read_bytes()


@pytest.mark.parametrize(
    "state",
    [{"steps": []}, {"stride": 1}, {"stride": 0, "steps": []}, {"stride": 1.0, "steps": []},
     {"stride": 2, "steps": [1, True]}, {"stride": 2, "steps": 7}],
)  # fmt: skip
def test_a_state_of_something_else_is_refused(tmp_path, state):
    with pytest.raises(ValueError, match="must be stride and steps, whole numbers from 1, got"):
        BoundedLog(tmp_path / "lines", 4, state)


def test_a_step_that_failed_on_the_way_may_be_written_again(tmp_path, monkeypatch):
    path = tmp_path / "lines"
    file = BoundedLog(path, 4)
    for step in range(1, 5):
        write(file, step)

    def refuse(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", refuse)
        for _ in range(2):
            with pytest.raises(OSError):
                write(file, 5)
            assert steps_in(path) == [1, 2, 3, 4, 5]
    write(file, 5)
    assert steps_in(path) == [1, 3, 5]
    with monkeypatch.context() as patch:
        patch.setattr(AtomicLines, "append", refuse)
        for _ in range(2):
            with pytest.raises(OSError):
                write(file, 6)
    for step in (6, 7):
        write(file, step)
    assert steps_in(path) == [1, 3, 5, 7]
