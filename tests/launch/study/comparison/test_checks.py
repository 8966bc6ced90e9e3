"""What a comparison refuses before its first run, leaving every file as it is."""

import errno
import fcntl
import os
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from conf.programs import BudgetConfig
from launch.cli.refusals import UserError
from launch.program import build
from launch.study.comparison.checks import (
    check,
    require_own_folder,
    require_reachable,
    write_plan,
)
from launch.study.comparison.plan import plan_runs
from tests.launch.study.comparison.planned import PLAIN, finish, new_folder


def contents(folder):
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("axis", "factor"), [("generated_tokens", 20), ("trained_tokens", 1)])
def test_a_budget_no_arm_can_reach_is_refused(make_config, axis, factor):
    """A step of the quickstart has 16 x 8 responses of 512 tokens at most."""
    most = 3 * 16 * 8 * 512 * factor
    for amount, refused in ((most, False), (most + 1, True)):
        config = make_config(budget=BudgetConfig(axis=axis, amount=amount), max_steps=3)
        arms = {run.arm: build(run.composed) for run in plan_runs(config)[:2]}
        if refused:
            with pytest.raises(UserError, match=r"^budget\.amount must be within reach .* got "):
                require_reachable(config, arms)
        else:
            require_reachable(config, arms)


def test_a_folder_of_something_else_is_refused_and_left_alone(make_config):
    config = make_config()
    folder = Path(config.run_dir)
    require_own_folder(config, folder)
    folder.mkdir(parents=True)
    require_own_folder(config, folder)
    (folder / "summary.json").write_text("{}")
    before = contents(folder)
    with pytest.raises(UserError, match=r"^run_dir must be new, empty or a comp.*, got .*out"):
        check(config, folder)
    assert contents(folder) == before


def test_a_folder_that_is_none_or_cannot_be_written_is_refused(make_config, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=r"^run_dir must be a folder, got the file .*file'"):
        check(make_config(), tmp_path / "file")
    with pytest.raises(UserError, match=r"^run_dir must be writable, got .*file/x'"):
        write_plan(make_config(), tmp_path / "file" / "x")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_in_which_a_comparison_goes_on_is_refused_and_left_alone(make_config, tmp_path):
    """Its runs have no results yet: they would be set aside as interrupted."""
    descriptor = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(UserError, match=r"^run_dir must not be in use by another program, got "):
        write_plan(make_config(), tmp_path)
    assert not any(tmp_path.iterdir())
    os.close(descriptor)
    write_plan(make_config(), tmp_path)


def test_a_plan_is_there_as_it_was_where_it_cannot_be_written(make_config, monkeypatch):
    """A full disk would otherwise leave finished runs without the file that says whose they are."""
    folder = new_folder(make_config())
    before = contents(folder)

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match=r"^run_dir must be writable, .*No space left"):
        write_plan(make_config(seeds=[0, 1, 2]), folder)
    assert contents(folder) == before


@pytest.mark.parametrize(
    "content",
    [
        b"", b"a list: [", b"- 1", b"3", b"\xff\xfe", b"arms: plain", b"budget: {}", b"\0",
        b"arms: !!python/object/apply:os.getcwd []", b"[" * 5000,
    ],
)  # fmt: skip
def test_a_plan_that_is_none_is_refused_in_one_sentence_and_left_alone(make_config, content):
    folder = new_folder(make_config())
    (folder / "comparison.yaml").write_bytes(content)
    with pytest.raises(UserError, match=r"^comparison.yaml in .*out.*another name") as refusal:
        check(make_config(), folder)
    assert "\n" not in str(refusal.value)
    assert (folder / "comparison.yaml").read_bytes() == content


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"budget": BudgetConfig(amount=6000)}, "budget"),
        ({"budget": BudgetConfig(axis="steps", amount=5000)}, "budget"),
        ({"budget": BudgetConfig(amount=5000, shares={"aware": 0.5})}, "budget"),
        ({"base": ["experiment=quickstart", "learner.lr=1e-4"]}, "base"),
        ({"max_steps": 12}, "max_steps"),
        ({"arms": {"plain": PLAIN, "aware": ["learner.lr=1e-4"]}}, "arms.aware"),
    ],
)
def test_a_name_that_holds_another_comparison_is_refused(make_config, changes, key):
    folder = new_folder(make_config())
    before = contents(folder)
    with pytest.raises(UserError, match=rf"holds a comparison with another {key} .*another name"):
        check(make_config(**changes), folder)
    assert contents(folder) == before


def test_arms_and_seeds_may_be_added(make_config):
    folder = new_folder(make_config())
    more = make_config(
        seeds=[0, 1, 2],
        arms={"plain": PLAIN, "aware": [], "other": PLAIN},
        budget=BudgetConfig(amount=5000, shares={"other": 0.5}),
    )
    finish(plan_runs(make_config())[0])
    planned = check(more, folder)
    assert len(planned) == 9 and sum(run.summary() is not None for run in planned) == 1


def test_a_finished_run_of_other_settings_is_refused(make_config):
    folder = new_folder(make_config())
    run = plan_runs(make_config())[0]
    finish(run)
    check(make_config(), folder)
    path = run.run_dir / "config.yaml"
    there = OmegaConf.load(path)
    there.learner.lr = 0.25
    OmegaConf.save(there, path)
    with pytest.raises(UserError, match=r"seed-0 was run with other .*learner\.lr is 0\.25 there"):
        check(make_config(), folder)
    there.learner.lr = run.composed.learner.lr
    del there.loop["max_seconds"]
    OmegaConf.save(there, path)
    with pytest.raises(UserError, match=r"max_seconds is 'nothing' there and None now"):
        check(make_config(), folder)
    path.unlink()
    with pytest.raises(UserError, match=r"has no config\.yaml, or move the folder away"):
        check(make_config(), folder)


def test_a_summary_that_cannot_be_read_is_refused(make_config):
    folder = new_folder(make_config())
    run = plan_runs(make_config())[0]
    finish(run, selectable_tokens=None)
    with pytest.raises(UserError, match=r"summary\.json has no selectable_tokens, so it is of"):
        check(make_config(), folder)
    for text, said in (("{", "is not JSON"), ("[1]", "has no results")):
        (run.run_dir / "summary.json").write_text(text)
        with pytest.raises(UserError, match=rf"seed-0': summary\.json {said}, or move the folder"):
            check(make_config(), folder)


def test_metrics_that_are_not_all_there_are_refused(make_config):
    folder = new_folder(make_config())
    run = plan_runs(make_config())[0]
    finish(run, num_lines=1)
    with pytest.raises(UserError, match=r"metrics\.jsonl has 1 steps, and at least 2 steps"):
        check(make_config(), folder)
    for text, said in (
        ('{"step": 1}\n{"step": 2}\n', r"no line of metrics\.jsonl has cost/generated_tokens"),
        ('{"st', r"line 1 of metrics\.jsonl is not JSON"),
        ("", r"metrics\.jsonl has no step"),
    ):
        (run.run_dir / "metrics.jsonl").write_text(text)
        with pytest.raises(UserError, match=rf"{said}.*, or move the folder away to run it again"):
            check(make_config(), folder)
