"""What a run may go on with, and which settings stay as they were."""

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from conf.keys import defaults_of
from conf.schema import RunConfig
from launch.cli.refusals import UserError
from launch.record.checkpoint import MANIFEST, RUN, SCHEDULER, partial_folder, seal
from launch.run.resume import ABSENT, AUTO, about, changes, check_stays, find_checkpoint
from tests.composing import composed

SETTINGS = {
    "name": "a",
    "seed": 0,
    "loop": {"num_steps": 8, "max_staleness": 1},
    "learner": {"lr": 1e-5, "deepspeed": {}},
    "tracker": {"console": {"most": 3}},
}
PROMPTS = [
    SimpleNamespace(token_ids=np.array(ids), answer=answer)
    for ids, answer in (([1, 2], "3"), ([4], "5"))
]


def write_checkpoint(run_dir, step, described):
    partial = partial_folder(run_dir, step)
    for name in (SCHEDULER, RUN):
        (partial / name).write_bytes(b"content")
    return seal(partial, step, described)


@pytest.fixture
def saved(tmp_path):
    return write_checkpoint(tmp_path / "run", 4, about(SETTINGS, PROMPTS))


def changed(saved, key, value):
    """Return the changes of the same run with another value of one setting."""
    now = about(SETTINGS, PROMPTS)
    return changes(saved, now | {"settings": now["settings"] | {key: value}})


def test_the_same_run_has_no_changes(saved, tmp_path):
    assert changes(saved, about(SETTINGS, PROMPTS)) == {}
    # What is read back is the same, too.
    assert changes(find_checkpoint(AUTO, tmp_path / "run"), about(SETTINGS, PROMPTS)) == {}


@pytest.mark.parametrize(
    "key",
    [
        "name", "run_dir", "resume", "loop.num_steps", "loop.max_seconds", "loop.save_every",
        "loop.batch_deadline_seconds", "evaluation.every", "held_out.path", "tracker.mine.level",
        "checkpoint.every_steps", "checkpoint.grace_seconds", "resources.num_engines",
        "parity.every", "rollout.engine.max_num_seqs", "rollout.max_retries", "task.path",
        "model.path", "learner.num_threads", "rollout.ticket_deadline_seconds",
    ],
)  # fmt: skip
def test_how_long_a_run_is_and_where_it_runs_may_change(saved, key):
    ((found, (_, new)),) = changed(saved, key, "other").items()
    assert (found, new) == (key, "other")


def test_a_setting_that_the_run_did_not_have_is_as_it_is_by_itself(saved):
    assert changed(saved, "model.stop_strings", []) == {}
    assert changed(saved, "rollout.reward_concurrency", 16) == {}
    with pytest.raises(UserError, match=r"^model\.stop_strings must stay \[\] in a run"):
        changed(saved, "model.stop_strings", ["User:"])
    with pytest.raises(UserError, match=r"^reward\.own must stay '\(not set\)' in a run"):
        changed(saved, "reward.own", 1)


def test_a_setting_that_is_no_number_stays_what_it_is(tmp_path):
    settings = SETTINGS | {"learner": {"lr": float("nan")}}
    saved = write_checkpoint(tmp_path / "run", 4, about(settings, PROMPTS))
    assert changes(saved, about(SETTINGS | {"learner": {"lr": float("nan")}}, PROMPTS)) == {}


@pytest.mark.parametrize(
    ("key", "new", "may"),
    [
        ("reward.path", "there/mine.py:exact", True),
        ("reward.path", "mine.py:lenient", False),
        ("objective.path", "mine:other", False),
        ("held_out.path", "mine.py:other", True),
    ],
)
def test_a_function_may_move_and_not_become_another(tmp_path, key, new, may):
    old = "mine.py:exact"
    saved = write_checkpoint(tmp_path / "run", 4, about(SETTINGS | {key: old}, PROMPTS))
    if may:
        assert changed(saved, key, new) == {key: (old, new)}
    else:
        with pytest.raises(UserError, match=rf"^{key} must stay 'mine.py:exact' in a run that"):
            changed(saved, key, new)


@pytest.mark.parametrize(
    "key",
    [
        "seed", "loop.max_staleness", "learner.lr", "learner.deepspeed", "objective._target_",
        "scheduler.tickets_per_step", "task.num_prompts", "rollout.max_tokens", "model.dtype",
        "names", "loop.num_steps_more", "my.run_dir",
    ],
)  # fmt: skip
def test_what_is_learned_and_how_may_not_change(saved, key):
    old = saved.about["settings"].get(key, defaults_of(RunConfig).get(key, ABSENT))
    sentence = (
        f"{key} must stay {old!r} in a run that goes on, got 'other'; begin a new run to change it"
    )
    with pytest.raises(UserError, match=f"^{re.escape(sentence)}"):
        changed(saved, key, "other")


def test_a_setting_that_is_gone_is_told_of(saved):
    now = about(SETTINGS, PROMPTS)
    gone = {key: value for key, value in now["settings"].items() if key != "tracker.console.most"}
    assert changes(saved, now | {"settings": gone}) == {"tracker.console.most": (3, ABSENT)}
    gone = {key: value for key, value in now["settings"].items() if key != "seed"}
    with pytest.raises(UserError, match=r"^seed must stay 0 .*, got '\(not set\)'"):
        changes(saved, now | {"settings": gone})


@pytest.mark.parametrize(
    "prompts",
    [
        PROMPTS[:1],
        PROMPTS[::-1],
        [PROMPTS[0], SimpleNamespace(token_ids=np.array([4]), answer="6")],
        [PROMPTS[0], SimpleNamespace(token_ids=np.array([9]), answer="5")],
        # The same tokens, cut elsewhere.
        [
            SimpleNamespace(token_ids=np.array(ids), answer=a)
            for ids, a in (([1], "3"), ([2, 4], "5"))
        ],
    ],
)
def test_other_prompts_are_refused_by_name(saved, prompts):
    with pytest.raises(UserError, match=r"^task must give the same prompts .*step-00000004$"):
        changes(saved, about(SETTINGS, prompts))


def test_the_width_of_token_ids_is_no_other_prompt():
    narrow = [
        SimpleNamespace(token_ids=prompt.token_ids.astype(np.int32), answer=prompt.answer)
        for prompt in PROMPTS
    ]
    assert about(SETTINGS, narrow) == about(SETTINGS, PROMPTS)


def test_settings_are_told_apart_by_their_full_keys():
    settings = about(SETTINGS, PROMPTS)["settings"]
    assert settings["learner.deepspeed"] == {} and settings["tracker.console.most"] == 3


def test_a_folder_without_a_checkpoint_is_begun_or_refused(tmp_path):
    assert find_checkpoint(AUTO, tmp_path) is None
    with pytest.raises(UserError, match=r"^resume must be a run folder with a checkpoint, got "):
        find_checkpoint(str(tmp_path), tmp_path)


def test_a_damaged_checkpoint_is_passed_over_and_the_last_one_refused(saved, tmp_path, capsys):
    newer = write_checkpoint(tmp_path / "run", 5, about(SETTINGS, PROMPTS))
    (newer.path / RUN).write_bytes(b"damaged")
    assert find_checkpoint(AUTO, tmp_path / "run") == replace(saved)
    assert "a checkpoint is passed over: " in capsys.readouterr().out
    (saved.path / MANIFEST).write_text("{}")
    with pytest.raises(
        UserError, match=r"must have a whole checkpoint to go on from; .*begin anew"
    ):
        find_checkpoint(AUTO, tmp_path / "run")


def test_a_folder_that_cannot_be_read_is_no_run_to_begin_anew(saved, tmp_path, monkeypatch):
    def stale(path):
        raise OSError(116, "Stale file handle", str(path))

    monkeypatch.setattr(Path, "iterdir", stale)
    with pytest.raises(
        UserError, match=r"^resume needs to read the .*Stale file handle.*try again"
    ):
        find_checkpoint(AUTO, tmp_path / "run")


def test_a_folder_named_by_the_time_is_none_to_go_on_in():
    with pytest.raises(UserError, match=r"^resume=auto needs a run_dir that stays the same; name"):
        check_stays(composed("train", "experiment=quickstart", "resume=auto"))
    check_stays(composed("train", "experiment=quickstart", "resume=auto", "run_dir=runs/mine"))
    check_stays(composed("train", "experiment=quickstart"))
