"""Whose code a configuration names, told without running it."""

import pytest
from omegaconf import OmegaConf

from conf.targets import foreign_code, require_own_settings

EVIL = """\
from pathlib import Path
Path(__file__).with_name("ran").touch()
def score(response_text):
    return 0.0
"""


@pytest.fixture
def evil(tmp_path, monkeypatch):
    """A module that can be imported, and leaves a file behind when it is."""
    path = tmp_path / "evil_module.py"
    path.write_text(EVIL)
    monkeypatch.syspath_prepend(tmp_path)
    yield path
    assert not path.with_name("ran").exists()


def test_our_own_code_is_not_named():
    config = {
        "reward": {"_target_": "rollout.rewards.chain.ChainReward"},
        "scheduler": {"allocator": {"_target_": "cost.draws.allocators.uniform.Uniform"}},
        "objective": {"_target_": "learner.objectives.clipped.ClippedSurrogate"},
    }
    assert foreign_code(OmegaConf.create(config)) == {}


def test_code_of_others_is_named_with_its_file_and_not_run(evil):
    config = OmegaConf.create(
        {
            "task": {"_target_": "evil_module.Task"},
            "reward": {
                "_target_": "rollout.rewards.function.FunctionReward",
                "path": f"{evil}:score",
            },
            "sets": [{"reward": {"_target_": "os.system", "command": "true"}}],
            "made": "${oc.create:{_target_:shutil.which}}",
            "hidden": {"_target_": "cost.state_file.os.system"},
            "absent": {"_target_": "not_there.at_all"},
            "objective": f"{evil}:losses",
            "environment": {"_target_": "rollout.Play", "tools": [f"{evil}:add"]},
        }
    )
    found = foreign_code(config)
    assert found["task evil_module.Task"] == found[f"reward {evil}:score"] == str(evil)
    assert found["absent not_there.at_all"] == "not found"
    assert found[f"objective {evil}:losses"] == found[f"environment.tools[0] {evil}:add"]
    for named in (
        "sets[0].reward os.system",
        "made shutil.which",
        "hidden cost.state_file.os.system",
    ):
        assert named in found


@pytest.mark.parametrize(
    "node",
    [
        {"_target_": "evil_module.score"},
        {"_target_": "os.system", "command": "true"},
        {"_target_": "cost.state_file.os.system", "command": "true"},
        {"_target_": "cost.state_file.load_state", "path": "x"},
        {"_target_": "rollout.rewards.function._make", "path": "x", "settings": b"x"},
        {"_target_": "cost.aggregations.SequenceMean", "x": [{"_target_": "evil_module.score"}]},
        {"_target_": "cost.not_there.Plug"},
        {"_target_": "cost.aggregations.SequenceMean", "path": {"_target_": "os.system"}},
        {"_target_": 3},
        {"x": "${oc.create:{_target_:evil_module.score}}"},
    ],
)
def test_a_run_folder_names_settings_of_ours_or_is_refused(node, evil):
    with pytest.raises(ValueError, match=r"^scheduler.* must (name settings of cost|hold plain)"):
        require_own_settings({"a": node}, "scheduler", "cost")


def test_a_function_of_others_is_no_setting_of_ours(evil):
    node = {"_target_": "rollout.rewards.function.FunctionReward", "path": f"{evil}:score"}
    with pytest.raises(ValueError, match=r"must name settings of rollout, .* none of its code is"):
        require_own_settings(node, "reward", "rollout")


def test_settings_of_ours_pass():
    node = {"a": {"_target_": "cost.aggregations.SequenceMean"}, "b": 3, "c": ["text", None]}
    require_own_settings(node, "scheduler", "cost")
