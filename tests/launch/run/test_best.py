"""The best policy is kept, whatever comes after it, and a run that goes on knows it."""

import asyncio
import json
import math
import shutil

import pytest

from conf.schema import LoopConfig
from launch.record.notices import Unwritten
from launch.run.best import BestPolicy


@pytest.fixture
def make_best(tmp_path):
    def make(of_set="held_out", full=False):
        async def save(name):
            if full:
                raise OSError(28, "No space left on device", name)
            (tmp_path / name).mkdir()
            return tmp_path / name

        return BestPolicy(of_set, tmp_path, save)

    return make


def look(best, *rates, first=1):
    for step, rate in enumerate(rates, first):
        metrics = {} if rate is None else {"evaluation/held_out/pass_rate": rate}
        asyncio.run(best.look(step, metrics))


def kept(tmp_path):
    return sorted(path.name for path in tmp_path.glob("policy-best-*"))


def test_only_what_is_better_than_all_before_is_kept(make_best, tmp_path):
    look(make_best(), 0.4, 0.6, None, 0.5, math.nan, 0.6)
    assert kept(tmp_path) == ["policy-best-2"]
    found = json.loads((tmp_path / "best.json").read_text())
    assert (found["set"], found["step"], found["pass_rate"]) == ("held_out", 2, 0.6)


def test_a_run_that_goes_on_keeps_its_best_unless_something_is_better(make_best, tmp_path):
    look(make_best(), 0.6)
    again = make_best()
    assert again.path == tmp_path / "policy-best-1"
    look(again, 0.5, first=2)
    assert kept(tmp_path) == ["policy-best-1"]
    look(again, 0.7, first=3)
    assert kept(tmp_path) == ["policy-best-3"]


def test_a_run_folder_that_was_moved_or_copied_keeps_its_own_best_policy(make_best, tmp_path):
    old = tmp_path / "old"
    (old / "policy-best-1").mkdir(parents=True)
    best = {"set": "held_out", "pass_rate": 0.6, "step": 1, "policy": str(old / "policy-best-1")}
    (tmp_path / "best.json").write_text(json.dumps(best))
    (tmp_path / "policy-best-1").mkdir()
    for _ in ("copied", "moved"):
        best = make_best()
        assert best.path == tmp_path / "policy-best-1"
        look(best, 0.5, first=2)
        assert kept(tmp_path) == ["policy-best-1"]
        shutil.rmtree(old, ignore_errors=True)


@pytest.mark.parametrize("started_anew", [False, True])
def test_a_run_that_goes_back_has_the_best_policy_of_the_steps_until_then(
    make_best, tmp_path, started_anew
):
    best = make_best()
    look(best, 0.2, 0.4)
    (tmp_path / "checkpoints" / "step-00000002").mkdir(parents=True)
    look(best, 0.5, 0.6, first=3)
    (tmp_path / "checkpoints" / ".step-00000004.partial").mkdir()
    look(best, 0.7, 0.8, first=5)
    # Of those before, what a checkpoint has in its past, the one that is being written included.
    assert kept(tmp_path) == ["policy-best-2", "policy-best-4", "policy-best-6"]
    for step, left in ((6, 6), (5, 4), (3, 2)):
        best = make_best() if started_anew else best
        best.go_back(step)
        assert kept(tmp_path)[-1] == best.path.name == f"policy-best-{left}"
        assert json.loads((tmp_path / "best.json").read_text())["step"] == left
    look(best, 0.3, first=3)
    assert kept(tmp_path) == ["policy-best-2"]
    best.go_back(1)
    assert best.path is None and kept(tmp_path) == [] and not (tmp_path / "best.json").exists()
    look(best, 0.1, first=2)
    assert kept(tmp_path) == ["policy-best-2"]


def test_at_the_end_the_best_policy_alone_is_kept(make_best, tmp_path):
    best = make_best()
    look(best, 0.2)
    (tmp_path / "checkpoints" / "step-00000001").mkdir(parents=True)
    look(best, 0.3, first=2)
    asyncio.run(best.finish(None, LoopConfig(num_steps=2), Unwritten()))
    assert kept(tmp_path) == ["policy-best-2"]
    assert json.loads((tmp_path / "best.json").read_text()).keys() == {
        "set",
        "pass_rate",
        "step",
        "policy",
    }


@pytest.mark.parametrize("text", ["", "[]", '{"set": "held_out"}', "{"])
def test_a_file_that_is_no_record_counts_as_none(make_best, tmp_path, text):
    (tmp_path / "best.json").write_text(text)
    assert make_best().path is None


def test_another_set_begins_anew_and_none_keeps_nothing(make_best, tmp_path):
    look(make_best(None), 0.9)
    assert kept(tmp_path) == []
    look(make_best(), 0.9)
    assert make_best("mine").path is None


def test_a_full_disk_costs_the_copy_and_not_the_run(make_best, tmp_path, capsys):
    best = make_best(full=True)
    look(best, 0.6)
    assert best.path is None and not (tmp_path / "best.json").exists()
    assert "the best policy could not be saved" in capsys.readouterr().err
