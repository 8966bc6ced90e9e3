"""Lines by steps: how many stay, which, and that a reader finds them whole at any moment."""

import json
from itertools import pairwise

import pytest

from launch.record.thinned import ThinnedFile


def steps_in(path):
    return [json.loads(line)["step"] for line in path.read_text().split("\n")[:-1]]


def write(file, step, count=1):
    file.write(
        step, [json.dumps({"step": step, "row": row, "ü": "\u2028"}) for row in range(count)]
    )


@pytest.mark.parametrize("most", [2, 3, 4, 7, 16])
@pytest.mark.parametrize("every", [1, 3, 10])
def test_a_file_is_bounded_ends_with_the_newest_step_and_is_spread_evenly(tmp_path, most, every):
    file, written = ThinnedFile(tmp_path / "lines", most), []
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
    file = ThinnedFile(tmp_path / "lines", 4)
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
        file = ThinnedFile(path, 8)
        write(file, step)
        file.close()
        assert len(steps_in(path)) <= 8 and steps_in(path)[-1] == step
    path.write_text("not of a step\n" + path.read_text())
    file = ThinnedFile(path, 8)
    for step in range(200, 400):
        write(file, step)
        assert len(path.read_text().splitlines()) <= 9


def test_nothing_but_whole_files_is_ever_there(tmp_path):
    """Whoever opens it before lines are taken out goes on reading the old ones."""
    path = tmp_path / "lines"
    file = ThinnedFile(path, 4)
    for step in range(1, 5):
        write(file, step)
    with path.open() as reader:
        write(file, 5)
        assert [json.loads(line)["step"] for line in reader] == [1, 2, 3, 4, 5]
    assert steps_in(path) == [1, 3, 5]
    assert [p.name for p in tmp_path.iterdir()] == ["lines"]
