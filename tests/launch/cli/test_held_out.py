"""What is held out where a task is chosen."""

import pytest
from omegaconf import OmegaConf

from conf.keys import CONF
from conf.programs import register
from launch.cli.held_out import with_held_out
from launch.program import compose_run
from tests.composing import composed

register()


def test_a_chosen_task_brings_its_own_held_out_questions():
    config = compose_run(
        ["experiment=jsonl_math", "task=gsm8k", "task.path=a.jsonl", "held_out.path=b.jsonl"]
    )
    # All of the test file, not one question in five of it.
    assert (config.held_out.path, config.held_out.split) == ("b.jsonl", "all")
    assert config.held_out.extract == config.task.extract == "after:####"


def test_what_is_held_out_of_a_mixture_is_chosen_as_its_file_says():
    comment = [
        line for line in (CONF / "task/mixed.yaml").read_text().splitlines() if line[0] == "#"
    ]
    examples = [line.split() for line in comment if line.startswith("#   ")]
    (_, *sets), (_, *path), (_, *single), (_, *several), (_, *split) = examples
    mixture = ["experiment=jsonl_math", "model.path=model", *sets, *path]
    one = compose_run([*mixture, *single])
    assert (one.held_out.hub_split, one.held_out.extract) == ("test", "after:####")
    both = compose_run([*mixture, *several, *split])
    assert OmegaConf.to_container(both.held_out, resolve=True)["sets"]["B"]["split"] == "held_out"


@pytest.mark.parametrize(
    "overrides",
    [
        ["task=gsm8k", "task@held_out=math_held_out"],
        ["task=gsm8k", "held_out._target_=mine.Questions"],
        ["task=mixed"],
        ["experiment=quickstart", "task.num_prompts=3"],
        ["task@evaluation.sets.mine.task=gsm8k"],
    ],
)
def test_others_that_are_chosen_stay(overrides):
    assert with_held_out(overrides, "train") == overrides


@pytest.mark.parametrize("program", ["train", "evaluate", "bench"])
def test_the_last_choice_counts(program):
    chosen = ["task=gsm8k", "seed=1", "task=math"]
    assert with_held_out(chosen, program) == [*chosen, "task@held_out=math_held_out"]


@pytest.mark.parametrize("program", ["variance", "predict", "warmstart"])
def test_a_program_that_holds_nothing_out_takes_the_task_alone(program):
    assert with_held_out(["task=gsm8k"], program) == ["task=gsm8k"]


@pytest.mark.parametrize("task", ["gsm8k", "{folder}/rows.py:rows"])
def test_a_task_alone_composes(tmp_path, task):
    (tmp_path / "rows.py").write_text("def rows():\n    yield {'prompt': '1?', 'answer': 1}\n")
    config = compose_run([f"task={task.format(folder=tmp_path)}"], "variance")
    assert config.task._target_.startswith("rollout.tasks.")


def test_a_task_of_the_users_brings_its_own_too(tmp_path):
    (tmp_path / "task").mkdir()
    for name in ("my-sums", "my-sums_held_out"):
        (tmp_path / "task" / f"{name}.yaml").write_text("_target_: mine.Sums\n")
    own = ["task=my-sums", "task@held_out=my-sums_held_out"]
    assert with_held_out(own[:1], "train", [str(tmp_path)]) == own
    named = f"--config-dir={tmp_path}"
    assert with_held_out([named, own[0]], "train") == [named, *own]
    assert with_held_out(own[:1], "train") == own[:1]


def test_what_is_asked_of_a_generator_is_asked_of_the_held_out_questions_too():
    chosen = ["task=reasoning_gym", "task@held_out=reasoning_gym_held_out", "task.dataset=gcd"]
    config = composed("train", "model.path=x", *chosen, "task.instruction=Be brief.")
    assert (config.held_out.dataset, config.held_out.instruction) == ("gcd", "Be brief.")
