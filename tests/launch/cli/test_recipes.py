"""Members of the command line are whole, and its recipe wins over the experiment."""

from functools import cache

import pytest
from omegaconf import OmegaConf

from conf.programs import register
from launch.cli.recipes import with_whole_members
from launch.cli.refusals import UserError
from launch.program import compose_run

register()
MINE = """
# @package _global_
defaults:
  - {parent}
  - override /thinning@scheduler.thinning: priced

reward: {{_target_: mine.Reward, strict: true}}
environment: mine.py:play
scheduler:
  thinning: {{min_probability: 0.3}}
  clipping: {{_target_: mine.Clipping}}
"""


@pytest.fixture
def folder(tmp_path):
    """A folder of configurations with a recipe, and one built on it."""
    (tmp_path / "experiment").mkdir()
    (tmp_path / "reward").mkdir()
    for name, parent in (("mine", "quickstart"), ("above", "mine")):
        text = MINE if name == "mine" else "# @package _global_\ndefaults: [{parent}]\n"
        (tmp_path / "experiment" / f"{name}.yaml").write_text(text.format(parent=parent))
    (tmp_path / "reward" / "ours.yaml").write_text("_target_: ours.Reward\nscale: 2\n")
    return tmp_path


def plug(config, key):
    return OmegaConf.to_container(OmegaConf.select(config, key), resolve=False)


@cache
def of_its_file(key, member, *more):
    """A member with nothing but the quickstart around it."""
    return plug(compose_run(["experiment=quickstart", member, *more]), key)


@pytest.mark.parametrize("recipe", ["mine", "above"])
@pytest.mark.parametrize(
    ("key", "member"),
    [
        ("reward", "reward=math"),
        ("reward", "reward=chain"),
        ("environment", "environment=single_turn"),
        ("scheduler.thinning", "thinning@scheduler.thinning=cost_aware"),
    ],
)
def test_another_member_has_nothing_of_the_recipes(folder, recipe, key, member):
    found = compose_run([f"--config-dir={folder}", f"experiment={recipe}", member])
    assert plug(found, key) == of_its_file(key, member)


def test_the_recipes_own_member_keeps_its_settings(folder):
    member = "thinning@scheduler.thinning=priced"
    found = compose_run([f"--config-dir={folder}", "experiment=above", member])
    assert found.scheduler.thinning.min_probability == 0.3


def test_what_the_command_line_sets_stays(folder):
    found = compose_run(
        [
            f"--config-dir={folder}",
            "experiment=mine",
            "thinning@scheduler.thinning=cost_aware",
            "scheduler.thinning.min_probability=0.2",
            "reward=ours",
            "reward.scale=3",
        ]
    )
    assert found.scheduler.thinning.min_probability == 0.2
    assert found.reward == {"_target_": "ours.Reward", "scale": 3}


def test_no_member_is_no_plug(folder):
    found = compose_run(
        [f"--config-dir={folder}", "experiment=mine", "~clipping@scheduler.clipping"]
    )
    assert found.scheduler.clipping is None


@pytest.mark.parametrize("recipe", ["grpo", "dr_grpo", "gvm_raft", "informed"])
def test_a_recipe_has_its_members_over_any_experiment(folder, recipe):
    """Its thinning, where the experiment chooses another, and its objective and settings of it."""
    text = """
# @package _global_
defaults:
  - mine
  - override /objective: cispo
  - override /aggregation@scheduler.aggregation: prompt_mean
objective: {max_ratio: 7.0}
scheduler: {allocator: mine.py:Mine}
"""
    (folder / "experiment" / "below.yaml").write_text(text)
    found = compose_run([f"--config-dir={folder}", "experiment=below", f"recipe={recipe}"])
    plain = compose_run(["experiment=quickstart", f"recipe={recipe}"])
    for key in ("objective", "scheduler.aggregation", "scheduler.allocator"):
        assert plug(found, key) == plug(plain, key), key
    assert found.scheduler.thinning._target_ == plain.scheduler.thinning._target_
    assert found.reward == {"_target_": "mine.Reward", "strict": True}
    chosen = ["objective=gspo", "objective.clip_low=0.1"]
    found = compose_run([f"--config-dir={folder}", "experiment=below", f"recipe={recipe}", *chosen])
    assert plug(found, "objective") == of_its_file("objective", *chosen)


TAILORED = """
# @package _global_
defaults: [countdown_qwen_3b_4gpu, override /objective: cispo]
"""
ITSELF = """
# @package _global_
defaults: [below, override /recipe: gspo]
objective: {clip_high: 0.01}
rollout: {overlong: {buffer_share: 0.1, penalty: 2.0}}
environment: mine.py:play
"""
ABOVE = "# @package _global_\ndefaults: [itself]\nlearner: {num_minibatches: 8}\n"
NAMED = """
# @package _global_
defaults: [gspo, override /sizing@scheduler.sizing: null]
learner: {num_minibatches: 2}
environment: theirs.py:play
scheduler: {length: {prior_visits: 3.0}}
rollout: {overlong: {buffer_share: 0.3}}
"""


@pytest.fixture
def tailored(folder):
    """Experiments each built on the one before: below any recipe, choosing one, changing it."""
    texts = {"below": TAILORED, "itself": ITSELF, "above_itself": ABOVE}
    for name, text in texts.items():
        (folder / "experiment" / f"{name}.yaml").write_text(text)
    (folder / "recipe").mkdir()
    (folder / "recipe" / "named.yaml").write_text(NAMED)
    return folder


@pytest.mark.parametrize(
    "experiment",
    ["countdown_qwen_3b_4gpu", "dapo_17k_qwen_32b_32gpu", "dapo_17k_qwen_math_7b_16gpu"],
)
def test_a_recipe_has_its_settings_over_any_experiment(experiment):
    chosen = [f"experiment={experiment}", "recipe=gspo"]
    assert compose_run(chosen).learner.num_minibatches == 4
    assert compose_run([*chosen, "learner.num_minibatches=16"]).learner.num_minibatches == 16
    assert compose_run([*chosen, "learner={num_minibatches: 8}"]).learner.num_minibatches == 8


@pytest.mark.parametrize(("recipe", "bounds"), [("gvm_raft", (0.2, 0.4)), ("dapo", (0.2, 0.28))])
def test_a_recipes_member_has_nothing_of_what_an_experiment_sets_of_the_same(
    folder, recipe, bounds
):
    """Set by the recipe's file, or by the member's."""
    text = (
        "# @package _global_\ndefaults: [quickstart]\nobjective: {clip_low: 0.1, clip_high: 0.1}\n"
    )
    (folder / "experiment" / "tuned.yaml").write_text(text)
    chosen = [f"--config-dir={folder}", "experiment=tuned", f"recipe={recipe}"]
    found = compose_run(chosen).objective
    assert (found.clip_low, found.clip_high) == bounds
    assert compose_run([*chosen, "objective.clip_high=0.3"]).objective.clip_high == 0.3


@pytest.mark.parametrize("named", [[], ["recipe=gspo"]])
def test_an_experiment_that_chooses_a_recipe_may_change_it(tailored, named):
    """And what it is built on may not; it makes no difference that the recipe is named again."""
    found = compose_run([f"--config-dir={tailored}", "experiment=itself", *named])
    assert plug(found, "objective") == of_its_file(
        "objective", "objective=gspo", "objective.clip_high=0.01"
    )
    assert found.learner.num_minibatches == 4
    found = compose_run([f"--config-dir={tailored}", "experiment=above_itself", *named])
    assert found.learner.num_minibatches == 8


def test_another_recipe_takes_the_place_of_the_experiments(tailored):
    chosen = [f"--config-dir={tailored}", "experiment=above_itself"]
    found = compose_run([*chosen, "recipe=grpo"])
    assert plug(found, "objective") == of_its_file("objective", "objective=clipped_symmetric")
    assert found.learner.num_minibatches == 8
    found = compose_run([*chosen, "recipe=named"])
    assert plug(found, "objective") == of_its_file("objective", "objective=gspo")
    assert found.environment == {"_target_": "theirs.py:play"}
    assert found.learner.num_minibatches == 2
    assert (found.rollout.overlong.buffer_share, found.rollout.overlong.penalty) == (0.3, 2.0)


def test_a_recipe_wins_in_what_it_sets_of_a_plug_that_it_does_not_choose(tailored):
    text = """
# @package _global_
defaults: [quickstart, override /sizing@scheduler.sizing: priced]
scheduler: {length: {prior_visits: 7.0, decay: 0.5}, sizing: {alignment: 0.3}}
"""
    (tailored / "experiment" / "tuned.yaml").write_text(text)
    chosen = [f"--config-dir={tailored}", "experiment=tuned", "recipe=named"]
    found = compose_run(chosen).scheduler
    assert (found.length.prior_visits, found.length.decay) == (3.0, 0.5)
    assert found.sizing is None


def test_a_recipe_within_an_experiment_is_replaced_too(tailored):
    text = "# @package _global_\ndefaults: [quickstart, /recipe/gspo]\nlearner: {num_epochs: 2}\n"
    (tailored / "experiment" / "within.yaml").write_text(text)
    chosen = [f"--config-dir={tailored}", "experiment=within"]
    found = compose_run([*chosen, "recipe=grpo"])
    assert plug(found, "objective") == of_its_file("objective", "objective=clipped_symmetric")
    assert with_whole_members([*chosen, "recipe=gspo"], "train") == [*chosen, "recipe=gspo"]


def test_an_evaluation_is_not_refused_for_a_recipes_settings_of_a_training(tailored):
    text = """
# @package _global_
defaults: [above_itself, override /branching@rollout.branching: agentic_aepo]
rollout: {temperature: 0.5}
evaluation: {temperature: "${rollout.temperature}"}
"""
    (tailored / "experiment" / "branching.yaml").write_text(text)
    text = """
# @package _global_
defaults: [named, override /branching@rollout.branching: null]
rollout: {temperature: 0.7}
"""
    (tailored / "recipe" / "warm.yaml").write_text(text)
    chosen = [f"--config-dir={tailored}", "experiment=branching", "recipe=warm"]
    undone = with_whole_members(chosen, "evaluate")[: -len(chosen)]
    measured = ("environment", "rollout.temperature")
    assert undone and all(each.lstrip("+~").startswith(measured) for each in undone)
    assert compose_run(chosen, "evaluate").rollout.temperature == 0.7


def test_a_file_built_on_another_has_its_members_whole(folder):
    """Members that it chooses, classes that it names, and members in the place of those."""
    named = """
# @package _global_
defaults: [/experiment/jsonl_math, override /task: gsm8k, override /task@held_out: gsm8k_held_out]
task: {max_prompts: 9}
scheduler: {allocator: {_target_: mine.Allocator}}
tracker: {jsonl: {most_samples: 5}}
"""
    above = """
# @package _global_
defaults: [named, override /allocator@scheduler.allocator: knapsack]
scheduler: {allocator: {max_samples: 5}}
"""
    (folder / "experiment" / "named.yaml").write_text(named)
    (folder / "experiment" / "built.yaml").write_text(above)
    found = compose_run([f"--config-dir={folder}", "experiment=named", "tracker=wandb"])
    assert plug(found, "task") == of_its_file("task", "task=gsm8k", "task.max_prompts=9")
    assert plug(found, "scheduler.allocator") == {"_target_": "mine.Allocator"}
    assert found.tracker.jsonl.most_samples == 5
    undone = with_whole_members([f"--config-dir={folder}", "experiment=named"], "evaluate")
    assert undone and not any("scheduler" in each for each in undone)
    found = compose_run([f"--config-dir={folder}", "experiment=built"])
    chosen = ["allocator@scheduler.allocator=knapsack", "scheduler.allocator.max_samples=5"]
    assert plug(found, "scheduler.allocator") == of_its_file("scheduler.allocator", *chosen)


def test_a_recipes_member_named_again_has_nothing_of_the_experiments(folder):
    text = "# @package _global_\nscheduler: {thinning: {min_probability: 0.3}}\n"
    (folder / "experiment" / "tuned.yaml").write_text(text)
    chosen = ["recipe=grpo", "thinning@scheduler.thinning=keep_all"]
    found = compose_run([f"--config-dir={folder}", "experiment=tuned", "model.path=x", *chosen])
    assert plug(found, "scheduler.thinning") == {"_target_": "cost.thinning.thinning.KeepAll"}


def test_a_class_on_the_command_line_has_nothing_of_the_member():
    found = compose_run(["experiment=quickstart", "scheduler.allocator={_target_: mine.Mine}"])
    assert plug(found, "scheduler.allocator") == {"_target_": "mine.Mine"}


def test_a_file_that_would_be_passed_over_is_refused(folder):
    (folder / "experiment" / "quickstart.yaml").write_text("# @package _global_\nname: mine\n")
    with pytest.raises(UserError, match=r"project's is taken; choose another.*quickstart.yaml'"):
        with_whole_members([f"--config-dir={folder}", "experiment=quickstart"], "train")


def test_a_preset_is_not_read_from_the_recipes_file():
    found = compose_run(["experiment=jsonl_math", "task=gsm8k"])
    assert plug(found, "task") == of_its_file("task", "task=gsm8k")
    assert plug(found, "held_out") == of_its_file("held_out", "task=gsm8k")


@pytest.mark.parametrize(
    ("experiment", "members"),
    [
        ("smollm2_mixed", ["math", "calculator", "dataset"]),
        ("exercises", ["math", "mixed"]),
        ("quickstart_check", ["mixed"]),
    ],
)
def test_values_of_all_kinds_are_restored(experiment, members):
    """Templates, lists, mappings and interpolations."""
    for member in members:
        found = compose_run([f"experiment={experiment}", f"task={member}"])
        assert plug(found, "task") == of_its_file("task", f"task={member}"), member


@pytest.mark.parametrize(
    "arguments",
    [
        ["reward=math"],
        ["experiment=quickstart", "reward=math"],
        ["experiment=smollm2_engine", "reward.extract=none"],
        ["experiment=smollm2_engine", "reward=reasoning_gym"],
        ["experiment=nowhere", "reward=math"],
        ["recipe=dr_grpo", "--cfg", "job"],
    ],
)
def test_nothing_is_undone_where_nothing_is_in_the_way(arguments):
    assert with_whole_members(arguments, "train") == arguments
