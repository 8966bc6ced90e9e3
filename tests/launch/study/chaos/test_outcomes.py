"""What is read from a run, and what counts as a fault."""

import json
from dataclasses import replace

import numpy as np
import pytest

from launch.record.restarts import note_restart
from launch.study.chaos.outcomes import (
    Trained,
    Trial,
    deviation,
    faults,
    from_json,
    names,
    read_trained,
    to_json,
)
from launch.study.chaos.strikes import Strike
from launch.study.chaos.tables import COLUMNS, row_of, sentence_of

WHOLE = Trial(
    number=4,
    strike=Strike("learner", "SIGKILL", 2, 0.5),
    pid=17,
    at_step=1,
    statuses=(0,),
    named_seconds=0.4,
    named="learner 0 died",
    leftovers=(),
    seconds=60.0,
    trained=Trained(
        steps=(1, 2, 3), tickets=12, failed=0, unscored=0, length=30.0, restarts=1, lost=1
    ),
)


def line(step, **metrics):
    common = {"cost/tickets": 4.0 * step, "rollout/length_mean_tokens": 10.0 * step}
    return json.dumps({"step": step, **common, **metrics}) + "\n"


def test_a_run_folder_says_what_was_trained(tmp_path):
    lines = line(1, **{"rollout/reward_crashed": 2.0}), line(2), line(3)
    (tmp_path / "metrics.jsonl").write_text("".join(lines))
    note_restart(tmp_path, step=1, reason="learner 0 died")
    note_restart(tmp_path, step=2, reason="started again")
    assert read_trained(tmp_path) == Trained(
        steps=(1, 2, 3), tickets=12, failed=0, unscored=2, length=20.0, restarts=2, lost=3
    )


def test_an_evaluation_after_the_last_step_is_no_step(tmp_path):
    late = json.dumps({"step": 1, "time": 1.0, "evaluation/version": 1})
    (tmp_path / "metrics.jsonl").write_text(f"{line(1)}\n{late}\n")
    assert read_trained(tmp_path).steps == (1,)


def test_a_line_that_is_cut_short_counts_for_nothing(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(line(1) + line(2)[:30])
    assert read_trained(tmp_path).steps == (1,)


def test_a_run_that_has_not_begun_has_trained_nothing(tmp_path):
    assert read_trained(tmp_path / "run").tickets == 0


def test_a_whole_trial_has_no_faults():
    assert faults(WHOLE, 3, 12) == []
    assert faults(replace(WHOLE, statuses=(-9, 0)), 3, 12) == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"statuses": (-9, None)}, "hung"),
        ({"statuses": (1, 1)}, "ended with 1"),
        ({"leftovers": ("4711 ray::IDLE",)}, "1 left over"),
        ({"trained": replace(WHOLE.trained, tickets=11)}, "1 tickets lost"),
        ({"trained": replace(WHOLE.trained, tickets=14)}, "2 tickets doubled"),
        ({"trained": replace(WHOLE.trained, steps=(1, 2, 2, 3))}, "steps are not each there once"),
        ({"trained": replace(WHOLE.trained, steps=(1, 3))}, "steps are not each there once"),
        ({"trained": replace(WHOLE.trained, failed=1)}, "1 tickets failed"),
    ],
)
def test_each_fault_is_found(change, fault):
    assert faults(replace(WHOLE, **change), 3, 12) == [fault]


def test_a_trial_survives_its_file():
    for trial in (WHOLE, replace(WHOLE, strike=None, pid=None, statuses=(-9, None))):
        assert from_json(json.loads(json.dumps(to_json(trial)))) == trial


def test_a_line_of_a_step_names_no_reward():
    assert not names("reward", "step 3/6  reward 0.512  uniform 0.5  length 31")
    assert names("reward", "reward process died; 3 responses get weight 0")
    assert names("learner", "error: Learner 0 died; its log is x")
    assert not names("learner", "│ learner seconds      │ 0.5    │")
    assert not names("raylet", "step 3/6  reward 0.512")


def test_lengths_from_one_distribution_deviate_as_a_normal_variable_does():
    rng = np.random.default_rng(0)
    found = [deviation(list(rng.normal(30, 4, 40)), rng.normal(30, 4)) for _ in range(400)]
    assert abs(np.mean(found)) < 0.2
    assert 0.85 < np.std(found) < 1.15
    assert deviation([30.0, 32.0, 31.0], 20.0) > 3


def test_lengths_that_say_nothing_of_their_spread_give_no_deviation():
    assert deviation([30.0], 30.0) is None
    assert deviation([30.0, 30.0], 30.0) is None


def test_a_row_has_every_column():
    assert len(row_of(WHOLE, [])) == len(COLUMNS)
    assert row_of(replace(WHOLE, pid=None), ["hung"])[3] == "never"


def test_only_runs_that_ended_are_compared():
    undisturbed = replace(WHOLE, number=0, strike=None)
    other = replace(WHOLE, trained=replace(WHOLE.trained, length=34.0))
    hung = replace(WHOLE, statuses=(None,), trained=replace(WHOLE.trained, length=900.0))
    said = sentence_of([undisturbed, WHOLE, other, hung])
    assert "32.00 tokens in 2 disturbed runs" in said
    assert "z = +0.58" in said
