"""A preview is asked for in one way, whatever the task."""

import pytest
from omegaconf import OmegaConf

from conf.programs import register
from launch.cli.previewed import drop_preview, is_asked, with_preview
from launch.cli.refusals import UserError
from launch.program import build, compose_run

register()
TASK = """
from dataclasses import dataclass

def rows():
    for n in range(99):
        yield {"prompt": f"a{n} b+1", "answer": n + 1}

@dataclass(frozen=True)
class Mine:
    def prompts(self, tokenizer, *, max_tokens=None, check=None):
        return []
"""


@pytest.mark.parametrize(
    "task", ["chain", "dataset", "mixed", "function", "{}/mine.py:rows", "{}/mine.py:Mine"]
)
def test_every_task_may_be_previewed(task, tmp_path):
    (tmp_path / "mine.py").write_text(TASK)
    chosen = ["experiment=quickstart", f"task={task.format(tmp_path)}"]
    assert not is_asked(compose_run(chosen))
    assert not is_asked(compose_run([*chosen, "task.preview=false"]))
    assert is_asked(compose_run([*chosen, "task.preview=true"]))


@pytest.mark.parametrize(
    "task", ["task=chain", "task={}/mine.py:rows", "task._target_={}/mine.py:Mine"]
)
def test_no_task_is_built_with_it(task, tmp_path):
    (tmp_path / "mine.py").write_text(TASK)
    chosen = ["experiment=quickstart", task.format(tmp_path)]
    asked, plain = (build(compose_run([*chosen, *more])) for more in (["task.preview=true"], []))
    assert asked.task == plain.task


def test_it_is_taken_out_of_what_has_it_and_of_nothing_else():
    config = OmegaConf.create({"task_preview": True, "task": {"preview": 1}})
    OmegaConf.set_struct(config, True)
    drop_preview(config)
    assert config == {"task": {"preview": 1}}
    for task in ("chain", None, "???", {"n": 1}):
        without = OmegaConf.create({"task": task})
        assert not is_asked(without)
        drop_preview(without)
        assert without == OmegaConf.create({"task": task})


@pytest.mark.parametrize("value", ["maybe", "1", "null"])
def test_it_is_true_or_false(value):
    with pytest.raises(UserError, match=r"^task\.preview must be true or false, got "):
        is_asked(compose_run(["experiment=quickstart", f"task.preview={value}"]))


@pytest.mark.parametrize("plus", ["", "+", "++"])
def test_a_task_that_a_recipe_names_by_its_file_may_be_previewed(plus, tmp_path, monkeypatch):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "mine.py").write_text(TASK)
    recipe = "# @package _global_\ndefaults: [quickstart]\ntask: mine.py:rows\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(recipe)
    monkeypatch.chdir(tmp_path)
    config = compose_run(
        [f"--config-dir={tmp_path}", "experiment=mine", f"{plus}task.preview=true"]
    )
    assert is_asked(config)
    assert build(config).task.path == f"{tmp_path}/mine.py:rows"


@pytest.mark.parametrize("program", ["evaluate", "warmstart"])
def test_other_programs_have_no_preview(program):
    """It was called a setting that a class gets with a plus."""
    assert with_preview(["seed=1"], program) == ["seed=1"]
    with pytest.raises(UserError) as refused:
        compose_run(["task.preview=true"], program)
    assert str(refused.value) == (
        "task.preview must be left out here, only launch.train has it, got 'task.preview=true'"
    )
