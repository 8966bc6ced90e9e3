"""What a run folder says of places holds after a job's own folder is gone."""

from omegaconf import OmegaConf

from launch.run.kept_paths import keep_paths
from tests.places import CHAIN_MODEL, PROJECT


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
    assert config.environment.tools[0].path == f"{tmp_path}/mine.py:f"
    assert config.task.path == "rollout.own_code:find" == config.held_out.path
    assert OmegaConf.is_interpolation(config.held_out, "path")
