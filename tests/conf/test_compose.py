"""Every YAML of conf/ composes, builds and travels; the quickstart does not drift unseen."""

import difflib
import pickle
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig, OmegaConf

from conf.evaluation import EvaluationSet
from conf.schema import EvaluateConfig, RunConfig
from conf.secrets import recorded
from launch.program import build
from tests.composing import composed, composed_by_hydra
from tests.places import CONF
from tests.quick_hydra import as_it_comes

RESOLVED = Path(__file__).parent / "quickstart_resolved.yaml"
REGENERATE = (
    "python -m launch.train experiment=quickstart run_dir=runs/quickstart --cfg job --resolve "
    "> tests/conf/quickstart_resolved.yaml"
)
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
ENGINES = ["quickstart_check", "quickstart_engine", "smollm2_engine"]
"""Those that only say what is measured, and by which engine."""
"""Experiments that set an engine and no learner."""
STEPS = [
    "environment=steps",
    "environment.game.make={_target_: hydra.utils.get_class, path: conf.loop.LoopConfig}",
]
"""Where anything stands for an environment with reset and step: building one calls it not."""
NOT_SET = {
    "dataset": ["task.path=questions.jsonl"],
    "mixed": ["+task@task.sets.sums=chain"],
    "function": ["task.path=conf.own_code:group_of"],
    "steps": STEPS,
    "reasoning_gym": ["task.dataset=gcd"],
}
"""What a task asks of the user."""
OWN = {
    "reward": "rollout.rewards.chain:ChainReward",
    "environment": "rollout.environments:SingleTurn",
    "objective": "learner.objectives.cispo:Cispo",
}
"""What a member `function` may name."""
NO_PLUGS = ("experiment", "comparison", "recipe", "profile", "evaluation_set")
"""Folders whose files are no members of a group of plugs."""
ALONE = ("branching", "clipping", "correction", "entropy_control", "reuse", "sizing")
"""Groups whose members ask something of others, or refuse them."""


def groups(program: str) -> dict[str, str]:
    """Group to the override that picks its member, from the program's defaults list."""
    entries = [
        key
        for entry in OmegaConf.load(CONF / f"{program}.yaml").defaults
        if isinstance(entry, DictConfig)
        for key in entry
        if key != "experiment"
    ]
    return {key.split("@")[0]: key for key in entries if key != "task@held_out"}


def overrides_for(group: str, name: str) -> list[str]:
    """What picks a member, with whatever it needs beside it."""
    if group == "task":
        train = name.removesuffix("_held_out")
        own = (CONF / group / f"{train}_held_out.yaml").is_file()
        held_out = [f"task@held_out={train}_held_out"] if own else []
        return [f"task={train}", *held_out, *NOT_SET.get(train, [])]
    if (group, name) == ("reward", "reasoning_gym"):
        return ["reward=reasoning_gym", *overrides_for("task", "reasoning_gym_arithmetic")]
    if (group, name) == ("reward", "sum"):
        return ["reward=sum", "+reward@reward.parts.right=math"]
    if name == "function":
        return [f"{group}=function", f"{group}.path={OWN[group]}"]
    if (group, name) == ("environment", "steps"):
        return STEPS
    if (group, name) == ("environment", "tools"):
        tool = "{_target_: rollout.tools.calculator.Calculator}"
        return ["environment=tools", f"environment.tools=[{tool}]"]
    # Ratios of trainer to engine need the trainer's own log-probabilities.
    needed = ["learner.behaviour=recomputed"] if group == "correction" else []
    if group == "sizing":
        needed = [f"{groups('train')['advantage']}=leave_one_out"]
    return [f"{groups('train')[group]}={name}", *needed]


def runs() -> list[Any]:
    """Members of each group, as many groups in a run as leave each other alone."""
    members: dict[str, list[str]] = {}
    for path in sorted(CONF.glob("*/*.yaml")):
        if path.parent.name not in NO_PLUGS:
            members.setdefault(path.parent.name, []).append(path.stem)
    # A task's run has its held-out half.
    members["task"] = [name for name in members["task"] if not name.endswith("_held_out")]
    found = [
        [(group, name)]
        for group, names in members.items()
        for name in names
        if group in ALONE or (group, name) == ("reward", "reasoning_gym")
    ]
    together = [
        [(group, name) for name in names if [(group, name)] not in found]
        for group, names in members.items()
        if group not in ALONE
    ]
    found += [[each for each in row if each] for row in zip_longest(*together)]
    return [pytest.param(row, id=" ".join(f"{g}/{n}" for g, n in row)) for row in found]


def target_of(group: str, name: str) -> str | None:
    """What a member builds, which it may have from the member that it changes."""
    own: Any = OmegaConf.load(CONF / group / f"{name}.yaml")
    if "_target_" in own or "defaults" not in own:
        return own.get("_target_")
    return target_of(group, own.defaults[0])


@pytest.mark.parametrize("name", sorted({*EXPERIMENTS} - {*ENGINES}))
def test_every_experiment_trains(name):
    config = build(composed("train", f"experiment={name}", "model.path=model"))
    assert isinstance(config, RunConfig)
    assert pickle.loads(pickle.dumps(config)) == config


@pytest.mark.parametrize("name", sorted(EXPERIMENTS))
def test_every_experiment_evaluates(name):
    config = build(composed("evaluate", f"experiment={name}", "model.path=model"))
    assert isinstance(config, EvaluateConfig)
    assert pickle.loads(pickle.dumps(config)) == config


@pytest.mark.parametrize("row", runs())
def test_every_member_of_every_group_builds_and_travels(row):
    picks = [pick for group, name in row for pick in overrides_for(group, name)]
    chosen = composed("train", "experiment=quickstart", *picks)
    places = {group: key.split("@")[-1] for group, key in groups("train").items()}
    for group, name in row:
        # A choice that misses its place would build the default once more.
        found = OmegaConf.select(chosen, places[group]).get("_target_")
        assert found == target_of(group, name), f"{group}/{name}"
        held_out = CONF / group / f"{name}_held_out.yaml"
        if held_out.is_file():
            assert chosen.held_out._target_ == target_of(group, held_out.stem), held_out.stem
    record = OmegaConf.merge(OmegaConf.structured(RunConfig), recorded(chosen))
    config = build(chosen)
    assert isinstance(config, RunConfig)
    assert pickle.loads(pickle.dumps(config)) == config
    assert build(record) == config


def test_every_member_is_in_a_run():
    built = {f"{group}/{name}" for row in runs() for group, name in row.values[0]}
    built |= {f"{each}_held_out" for each in built}
    files = {path.relative_to(CONF).with_suffix("") for path in CONF.glob("*/*.yaml")}
    assert {str(name) for name in files if name.parent.name not in NO_PLUGS} <= built


@pytest.mark.parametrize("program", ["train", "evaluate"])
@pytest.mark.parametrize("name", sorted(path.stem for path in CONF.glob("evaluation_set/*.yaml")))
def test_every_evaluation_set_builds_and_travels(program, name):
    experiment = "quickstart" if program == "train" else "quickstart_engine"
    own = [text.replace("task.", "evaluation.sets.mine.task.") for text in NOT_SET.get(name, [])]
    chosen = f"+evaluation_set@evaluation.sets.mine={name}"
    config = build(composed(program, f"experiment={experiment}", chosen, *own))
    assert isinstance(config.evaluation.sets["mine"], EvaluationSet)
    assert hasattr(config.evaluation.sets["mine"].task, "prompts")
    assert pickle.loads(pickle.dumps(config)) == config


@pytest.mark.parametrize(
    "overrides",
    [
        ["learner.lr=1e-3", "recipe=dapo", "run_dir=x"],
        ["run_dir=x", "~tracker.ray", "+tracker.mine._target_=a.B", "seed=3"],
        ["+task@task.sets.sums=chain", "task=mixed"],
        ["rollout.max_tokens=77", "objective.clip_low=${objective.clip_high}"],
    ],
)
def test_what_tests_compose_is_what_the_command_line_does(overrides, monkeypatch):
    ours = composed("train", "experiment=quickstart", *overrides)
    as_it_comes(monkeypatch)
    assert ours == composed_by_hydra("train", "experiment=quickstart", *overrides)


def test_every_experiment_names_a_model_or_leaves_it_to_the_user():
    for name in EXPERIMENTS:
        config = composed("train", f"experiment={name}")
        assert OmegaConf.is_missing(config.model, "path") == (name in ("jsonl_math", "exercises"))


def test_the_schema_refuses_an_unknown_key():
    with pytest.raises(ConfigCompositionException, match=r"learner\.lrr"):
        composed("train", "experiment=quickstart", "learner.lrr=1")


def test_smollm2_learns_in_bfloat16_with_float32_master_weights():
    config = build(composed("train", "experiment=smollm2_arithmetic"))
    assert config.model.dtype == "bfloat16"
    assert config.learner.zero_stage >= 1
    assert config.reward.dataset == config.task.dataset == config.held_out.dataset
    assert config.reward.extract == "last_number"


def test_the_quickstart_resolves_to_the_stored_file():
    config = composed("train", "experiment=quickstart", "run_dir=runs/quickstart")
    ours = OmegaConf.to_yaml(config, resolve=True, sort_keys=True).splitlines()
    stored = OmegaConf.to_yaml(OmegaConf.load(RESOLVED), sort_keys=True).splitlines()
    changes = "\n".join(difflib.unified_diff(stored, ours, "stored", "now", lineterm="", n=2))
    assert ours == stored, f"the quickstart changed; if meant so, run\n  {REGENERATE}\n{changes}"
