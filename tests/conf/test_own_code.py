"""Functions are rewards in every spelling that a configuration has for them."""

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from conf.own_code import with_own_code
from conf.programs import register
from launch.cli.own_code import with_own_files, write_out_names
from launch.cli.refusals import UserError
from launch.program import build, compose_run
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
        return compose(program, with_own_files(arguments))


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
    with_own_code(config)
    assert OmegaConf.to_container(config, resolve=False) == before
    plain = composed()
    assert with_own_code(plain) is plain


@pytest.mark.parametrize(
    ("argument", "written"),
    [
        ("reward=a.py:f", ["reward=function", "++reward.path='a.py:f'"]),
        ("reward=/a b/c.py:K.f", ["reward=function", "++reward.path='/a b/c.py:K.f'"]),
        (
            "+reward@evaluation.sets.x.reward=a.py:f",
            [
                "+reward@evaluation.sets.x.reward=function",
                "++evaluation.sets.x.reward.path='a.py:f'",
            ],
        ),
        ("reward=math", ["reward=math"]),
        ("reward.path=a.py:f", ["reward.path=a.py:f"]),
        ("task.path=a.py:f", ["task.path=a.py:f"]),
        ("reward=a.py", ["reward=a.py"]),
    ],
)
def test_the_short_spelling_is_written_out_and_no_other(argument, written):
    assert with_own_files([argument]) == written


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


PLUGS = """
from dataclasses import dataclass

def rows(number=40):
    for k in range(number):
        yield {"prompt": f"a{k % 9} b+{k}", "answer": k % 10}

async def play(generate, prompt, max_tokens):
    return await generate(prompt.token_ids, max_tokens)

def losses(ratio, advantages):
    return -ratio * advantages

def add(a: int, b: int) -> int:
    '''Add.

    Args:
        a: One.
        b: Other.
    '''

@dataclass(frozen=True)
class Scorer:
    ending: str = "."

    def score(self, prompt_text, response_text, answer):
        return 0.0

@dataclass(frozen=True)
class Flat:
    objective_preserving = True
    keeps_zero_advantage = True
    floor: float = 0.5

    def thin(self, candidates, rng):
        raise NotImplementedError
"""


@pytest.fixture
def plugs(folder):
    (folder / "own_plugs.py").write_text(PLUGS)
    return folder


def chosen(*overrides):
    """As `launch.train` composes and builds it."""
    register()
    return build(compose_run(["experiment=quickstart", "run_dir=x", *overrides]))


@pytest.mark.parametrize(
    ("overrides", "key", "kind"),
    [
        (["task=own_plugs.py:rows"], "task", "FunctionTask"),
        (["task=own_plugs.py:rows", "task.settings.number=60"], "held_out", "FunctionTask"),
        (["environment=own_plugs.py:play"], "environment", "FunctionEnvironment"),
        (["environment._target_=own_plugs.play"], "environment", "FunctionEnvironment"),
        (["objective=own_plugs.py:losses"], "objective", "FunctionObjective"),
        (["objective._target_=own_plugs.losses"], "objective", "FunctionObjective"),
        (["reward=own_plugs.py:Scorer"], "reward", "FunctionReward"),
        (["reward._target_=own_plugs.Scorer", "reward.ending=x"], "reward", "Scorer"),
        (["thinning@scheduler.thinning=own_plugs.py:Flat"], "scheduler.thinning", "Flat"),
        (["thinning=own_plugs.py:Flat"], "scheduler.thinning", "Flat"),
        (
            ["scheduler.thinning._target_=own_plugs.Flat", "scheduler.thinning.floor=0.1"],
            "scheduler.thinning",
            "Flat",
        ),
    ],
    ids=str,
)
def test_every_group_takes_code_of_a_file_or_module(plugs, overrides, key, kind):
    found = chosen(*overrides)
    for name in key.split("."):
        found = getattr(found, name)
    assert type(found).__name__ == kind


def test_nothing_of_the_old_member_is_left(plugs):
    class_of_mine = ["task._target_=own_plugs.Scorer", "held_out._target_=own_plugs.Scorer"]
    composed = compose_run(["experiment=quickstart_two_ends", "run_dir=x", *class_of_mine])
    assert dict(composed.task) == {"_target_": "own_plugs.Scorer"} == dict(composed.held_out)
    written = ["+task.ending=a", *class_of_mine]
    composed = compose_run(["experiment=quickstart_two_ends", "run_dir=x", *written])
    assert dict(composed.task) == {"_target_": "own_plugs.Scorer", "ending": "a"}
    composed = compose_run(
        ["experiment=quickstart_two_ends", "run_dir=x", "task=own_plugs.py:rows"]
    )
    assert "num_prompts" not in composed.task and composed.held_out.path == "own_plugs.py:rows"


def test_tools_are_named_by_their_file(plugs):
    config = OmegaConf.create({"environment": {"tools": ["own_plugs.py:add", {"_target_": "x.Y"}]}})
    tools = with_own_code(config).environment.tools
    assert tools[0] == {
        "_target_": "rollout.tools.own_function.OwnTool",
        "path": "own_plugs.py:add",
    }
    assert tools[1] == {"_target_": "x.Y"}
    # A run folder keeps them so, with their whole path.
    write_out_names(config)
    assert config.environment.tools == tools


def test_what_stands_in_a_plug_is_named_by_its_file_too(plugs):
    inner = {"_target_": "own_plugs.py:Scorer", "_partial_": True, "ending": "x"}
    steps = {"_target_": "rollout.environments.steps.StepGame", "make": inner}
    turns = {"_target_": "rollout.environments.turns.TurnEnvironment", "game": steps}
    listed = {"_target_": "builtins.dict", "all": [inner]}
    made = build(OmegaConf.create({"environment": turns, "listed": listed}))
    for make in (made["environment"].game.make, made["listed"]["all"][0]):
        assert make().ending == "x"


def test_a_folder_of_ones_own_is_passed_on(plugs):
    (plugs / "mine" / "experiment").mkdir(parents=True)
    text = "# @package _global_\ndefaults:\n  - quickstart\n\nseed: 77\n"
    (plugs / "mine" / "experiment" / "ours.yaml").write_text(text)
    for option in (["--config-dir=mine"], ["--config-dir", "mine"], ["-cd", "mine"]):
        assert compose_run([*option, "experiment=ours", "run_dir=x"]).seed == 77
    with pytest.raises(UserError, match=r"--config-dir must name a folder, got 'nothere'"):
        compose_run(["--config-dir=nothere", "experiment=ours", "run_dir=x"])


RECIPE = """
# @package _global_
defaults: [quickstart]
task: own_plugs.py:rows
held_out: {held_out}
reward: own_plugs.py:Scorer
environment: own_plugs.py:play
objective: own_plugs.py:losses
scheduler: {{thinning: own_plugs.py:Flat}}
evaluation: {{sets: {{more: {{task: own_plugs.py:rows, reward: own_plugs.py:Scorer}}}}}}
"""


@pytest.mark.parametrize(
    ("held_out", "splits"),
    [
        ("own_plugs.py:rows", ("train", "held_out")),
        ("{_target_: own_plugs.py:rows, split: held_out}", ("train", "held_out")),
        ("{num_prompts: 20}", ("all", "held_out")),
    ],
)
def test_a_recipe_names_plugs_by_their_file_alone(plugs, held_out, splits):
    (plugs / "experiment").mkdir()
    text = RECIPE.format(held_out=held_out)
    (plugs / "experiment" / "mine.yaml").write_text(text)
    run = chosen(f"--config-dir={plugs}", "experiment=mine")
    assert (run.task.split, run.held_out.split) == splits
    kinds = [run.task, run.reward, run.environment, run.objective, run.scheduler.thinning]
    assert [type(each).__name__ for each in kinds] == [
        "FunctionTask", "FunctionReward", "FunctionEnvironment", "FunctionObjective", "Flat",
    ]  # fmt: skip
    # Settings are typed as for a plug that the command line names.
    run = chosen(
        f"--config-dir={plugs}", "experiment=mine", "reward.settings.ending=x",
        "task.settings.number=9", "scheduler.thinning.floor=0.1",
    )  # fmt: skip
    assert (run.task.split, run.held_out.split) == splits
    assert run.task.settings == {"number": 9} and run.scheduler.thinning.floor == 0.1
    assert run.reward.settings == {"ending": "x"}
    more = run.evaluation.sets["more"]
    assert (more.task.split, more.reward.path) == ("all", f"{plugs}/own_plugs.py:Scorer")
