"""What an evaluation takes of a training: the folder of a run, or an experiment's settings."""

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from conf.programs import register
from conf.schema import EvaluateConfig
from launch.cli.measured import evaluation_of, with_measured
from launch.cli.refusals import UserError
from launch.program import build, compose_run, prepare_run_dir
from tests.composing import composed_by_hydra

register()


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The folder of a run that has ended, in the working directory."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "zwei läufe"
    chosen = ["experiment=jsonl_math", "model.path=before", "task.path=rows.jsonl", "seed=5"]
    composed = compose_run([*chosen, "rollout.max_tokens=77", f"run_dir='{folder}'"])
    prepare_run_dir(folder, composed, "train")
    (folder / "policy").mkdir()
    return folder


def test_a_run_folder_is_measured_on_what_the_run_is_measured_on(run, tmp_path):
    found = with_measured([f"{run}", "evaluation.num_samples=3"])
    with initialize_config_dir(found[1], version_base="1.3"):
        config = build(evaluation_of(compose(found[3], found[4:]), found[4:]))
    assert isinstance(config, EvaluateConfig)
    assert config.model.path == str(run / "policy")
    # Its own questions, which the task of the training says where to find.
    assert (config.held_out.path, config.held_out.split) == ("rows.jsonl", "held_out")
    assert (config.seed, config.rollout.max_tokens, config.evaluation.num_samples) == (5, 77, 3)
    assert config.name == "evaluate" and config.run_dir.startswith("runs/evaluate-")


def test_a_run_folder_is_measured_on_further_sets_too(run):
    sets = ["+evaluation_set@evaluation.sets.mine=dataset", "evaluation.sets.mine.task.path=x"]
    sets += ["task@evaluation.sets.mine.task=gsm8k", "evaluation.sets.mine.task.hub_split=test"]
    found = with_measured([f"{run}", *sets])
    with initialize_config_dir(found[1], version_base="1.3"):
        config = build(evaluation_of(compose(found[3], found[4:]), found[4:]))
    task = config.evaluation.sets["mine"].task
    assert (task.path, task.hub_split, task.extract) == ("x", "test", "after:####")


def test_a_folder_may_be_relative_and_the_command_line_wins(run):
    found = with_measured(["name=mine", "runs/zwei läufe", "model.path=other", "run_dir=there"])
    assert found[1] == str(run)
    assert found[-3:] == ["name=mine", "model.path=other", "run_dir=there"]


def test_without_a_word_nothing_changes():
    arguments = ["experiment=quickstart", "--cfg", "job", "model.path=x"]
    assert with_measured(arguments) == arguments


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere"], r"must be one run folder, which has a config.yaml, .* got 'nowhere'$"),
        (["runs/zwei läufe", "b"], r"must be one run folder, .*, got 'runs/zwei läufe b'$"),
        (
            ["runs/zwei läufe", "run_dir=ä", "experiment=x"],
            "^launch.evaluate runs/zwei läufe takes that run's .*; leave experiment out$",
        ),
        (["runs/zwei läufe", "reward=mine.py:f"], "groups and all; leave reward out$"),
        (["runs/zwei läufe", "-cn", "x"], "configuration is meant; leave -cn out$"),
    ],
)
def test_what_names_no_run_is_refused(run, arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        with_measured(arguments)


def test_a_run_without_a_policy_is_refused_unless_another_is_named(run):
    (run / "policy").rmdir()
    with pytest.raises(UserError, match="must have a policy to measure"):
        with_measured([str(run)])
    assert "model.path=best" in with_measured([str(run), "model.path=best"])


@pytest.mark.parametrize(
    "override",
    [
        "learner.lr=1e-3", "recipe=dapo", "objective=cispo", "length@scheduler.length=pool_mean",
        "rollout.temperature=0.5", "rollout.overlong.penalty=2", "evaluation.every=5",
    ],
)  # fmt: skip
def test_settings_of_a_training_are_refused(override):
    overrides = ["experiment=quickstart", override]
    key = override.partition("=")[0].partition("@")[2] or override.partition("=")[0]
    with pytest.raises(UserError, match=rf"^{key} must be left out: it is of a training"):
        evaluation_of(composed_by_hydra("evaluate", *overrides), overrides)


def test_the_trainings_temperature_counts_where_the_evaluations_follows_it():
    follows = ["evaluation.temperature=${rollout.temperature}", "rollout.temperature=0.5"]
    overrides = ["experiment=quickstart", *follows]
    assert evaluation_of(composed_by_hydra("evaluate", *overrides), overrides).evaluation[
        "temperature"
    ] == 0.5  # fmt: skip


def test_settings_of_the_task_go_through_to_what_is_held_out():
    overrides = ["experiment=jsonl_math", "task.path=mine.jsonl", "+evaluation_set@"
                 "evaluation.sets.other=dataset", "model.path=x"]  # fmt: skip
    found = evaluation_of(composed_by_hydra("evaluate", *overrides), overrides)
    assert found.held_out.path == "mine.jsonl" and list(found.evaluation.sets) == ["other"]
    assert "learner" not in found and OmegaConf.is_struct(found)
    # Measured again from its own record.
    assert evaluation_of(found, []) == found
