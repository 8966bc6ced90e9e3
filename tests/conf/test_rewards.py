"""Functions are rewards in every spelling that a configuration has for them."""

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from conf.programs import register
from conf.rewards import with_functions
from launch.program import UserError, build, with_reward_files
from rollout.rewards.function import FunctionReward
from rollout.rewards.types import Score

FILE = """
def scored(response_text, answer, strict=False):
    return response_text == answer and not strict

def made():
    return Made()

class Made:
    def score(self, prompt_text, response_text, answer):
        return 0.5
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "spelled_rewards.py").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def composed(*overrides, program="train"):
    register()
    arguments = ["experiment=quickstart", *overrides]
    with initialize_config_module("conf", version_base="1.3"):
        return compose(program, with_reward_files(arguments))


@pytest.mark.parametrize("program", ["train", "evaluate"])
@pytest.mark.parametrize(
    "spelling",
    [
        ["reward=function", "reward.path=spelled_rewards.py:scored"],
        ["reward=function", "reward.path=spelled_rewards:scored"],
        ["reward=spelled_rewards.py:scored"],
        ["reward='spelled_rewards.py:scored'"],
        ["reward=./spelled_rewards.py:scored"],
        ["reward._target_=spelled_rewards.scored"],
        ["reward._target_=spelled_rewards.Made"],
        ["reward._target_=spelled_rewards.made"],
    ],
    ids=" ".join,
)
def test_a_reward_of_a_file_or_module_is_built(folder, spelling, program):
    experiment = [] if program == "train" else ["experiment=quickstart_engine"]
    config = build(composed(*spelling, *experiment, program=program))
    expected = 0.5 if "ade" in spelling[-1] else 1.0
    found = config.reward.score("what", "5", "5")
    assert getattr(found, "reward", found) == expected


def test_settings_of_a_function_travel_with_it(folder):
    spellings = (
        ["reward._target_=spelled_rewards.scored", "+reward.strict=true"],
        ["reward=spelled_rewards.py:scored", "+reward.settings.strict=true"],
    )
    for spelling in spellings:
        reward = build(composed(*spelling)).reward
        assert isinstance(reward, FunctionReward) and reward.settings == {"strict": True}
        assert reward.score("what", "5", "5") == Score(0.0)


def test_sets_may_have_functions_too(folder):
    own = "+reward@evaluation.sets.mine.reward=spelled_rewards.py:scored"
    config = build(composed("+evaluation_set@evaluation.sets.mine=chain_two_ends", own))
    assert config.evaluation.sets["mine"].reward.path == f"{folder}/spelled_rewards.py:scored"
    named = ["+evaluation.sets.mine.reward._target_=spelled_rewards.scored"]
    config = build(
        composed(
            "+evaluation_set@evaluation.sets.mine=dataset",
            "evaluation.sets.mine.task.path=x.jsonl",
            *named,
        )
    )
    assert config.evaluation.sets["mine"].reward.path == "spelled_rewards:scored"


def test_what_is_composed_stays_as_it_is(folder):
    config = composed("reward._target_=spelled_rewards.scored")
    before = OmegaConf.to_container(config, resolve=False)
    with_functions(config)
    assert OmegaConf.to_container(config, resolve=False) == before
    plain = composed()
    assert with_functions(plain) is plain


@pytest.mark.parametrize(
    ("argument", "written"),
    [
        ("reward=a.py:f", ["reward=function", "reward.path='a.py:f'"]),
        ("reward=/a b/c.py:K.f", ["reward=function", "reward.path='/a b/c.py:K.f'"]),
        (
            "+reward@evaluation.sets.x.reward=a.py:f",
            [
                "+reward@evaluation.sets.x.reward=function",
                "evaluation.sets.x.reward.path='a.py:f'",
            ],
        ),
        ("reward=math", ["reward=math"]),
        ("reward.path=a.py:f", ["reward.path=a.py:f"]),
        ("task.path=a.py:f", ["task.path=a.py:f"]),
        ("reward=a.py", ["reward=a.py"]),
    ],
)
def test_the_short_spelling_is_written_out_and_no_other(argument, written):
    assert with_reward_files([argument]) == written


@pytest.mark.parametrize(
    ("spelling", "told"),
    [
        ("reward=nowhere.py:f", r"^reward\.path must name a file .*, got '.*/nowhere\.py:f'$"),
        ("reward=spelled_rewards.py:g", r"^reward\.path must name a function .* not g, got"),
        ("reward._target_=spelled_rewards.missing", r"^reward"),
    ],
)
def test_what_is_not_there_is_refused_with_its_key(folder, spelling, told):
    with pytest.raises(UserError, match=told) as refusal:
        build(composed(spelling))
    assert "\n" not in str(refusal.value)
