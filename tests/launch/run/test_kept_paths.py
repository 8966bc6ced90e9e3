"""What a run folder says of places holds after a job's own folder is gone."""

import json

from omegaconf import OmegaConf

from launch.run.kept_paths import keep_paths
from rollout.tasks.rows import Rows
from tests.places import CHAIN_MODEL, PROJECT

DATA = "rollout.tasks.dataset.DatasetTask"
EXAMPLE = next((PROJECT / "conf" / "examples").glob("*.jsonl"))


def test_paths_of_the_project_are_relative_to_it_and_others_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").touch()
    config = OmegaConf.create(
        {
            "model": {"path": "given"},
            "reward": {"_target_": "rollout.rewards.function.FunctionReward", "path": "mine.py:f"},
            "objective": {"_target_": f"{PROJECT}/rollout/own_code.py:find"},
            "environment": {
                "_target_": "mine.Play",
                "path": "mine.py:f",
                "game": {"make": {"_target_": "mine.py:f"}},
                "tools": [
                    {"_target_": "rollout.tools.own_function.OwnTool", "path": "mine.py:f"},
                    {"_target_": "rollout.tools.calculator.Calculator"},
                ],
            },
            "task": {
                "_target_": "rollout.tasks.function.FunctionTask",
                "path": "rollout.own_code:find",
            },
            "held_out": {
                "_target_": "rollout.tasks.function.FunctionTask",
                "path": "${task.path}",
            },
        }
    )
    keep_paths(config, str(CHAIN_MODEL))
    assert config.model.path == "rollout/tasks/chain_model"
    assert config.reward.path == f"{tmp_path}/mine.py:f"
    assert config.objective._target_ == "rollout/own_code.py:find"
    assert config.environment.path == "mine.py:f"
    assert config.environment.game.make._target_ == f"{tmp_path}/mine.py:f"
    assert config.environment.tools[0].path == f"{tmp_path}/mine.py:f"
    assert config.task.path == "rollout.own_code:find" == config.held_out.path
    assert OmegaConf.is_interpolation(config.held_out, "path")


def test_data_is_found_from_any_folder(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / "here" / name).write_text('{"prompt": "1 + 1", "answer": 2}\n')
    monkeypatch.chdir(tmp_path / "here")
    paths = {
        "file": "a.jsonl",
        "pattern": "*.jsonl",
        "project": f"{PROJECT}/conf/examples/{EXAMPLE.name}",
        "hub": "openai/gsm8k",
    }
    sets = {name: {"_target_": DATA, "path": path} for name, path in paths.items()}
    config = OmegaConf.create(
        {
            "model": {"path": "given"},
            "environment": None,
            "task": {"_target_": "rollout.tasks.mixed.MixedTask", "sets": sets},
            "held_out": {"_target_": DATA, "path": "${task.sets.file.path}"},
            "evaluation": {"sets": {"mine": {"task": {"_target_": DATA, "path": "b.jsonl"}}}},
        }
    )
    keep_paths(config, str(CHAIN_MODEL))
    monkeypatch.chdir(tmp_path)
    kept = {name: data.path for name, data in config.task.sets.items()}
    assert kept["project"] == f"conf/examples/{EXAMPLE.name}"
    assert kept["hub"] == paths["hub"]
    assert OmegaConf.is_interpolation(config.held_out, "path")
    assert len(list(Rows(config.held_out.path).read())) == 1
    assert len(list(Rows(config.evaluation.sets.mine.task.path).read())) == 1
    assert len(list(Rows(kept["pattern"]).read())) == 2
    _, row = next(Rows(kept["project"]).read())
    assert row == json.loads(EXAMPLE.open().readline())
