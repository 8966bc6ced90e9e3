import errno
import subprocess
import sys

import pytest
from omegaconf import DictConfig, OmegaConf

from conf.schema import RunConfig
from launch.cli.refusals import NothingToDoError, RunError, UserError
from launch.program import build, prepare_run_dir, run_program, start
from tests.composing import composed
from tests.places import PROJECT


def quickstart(*overrides: str) -> DictConfig:
    return composed("train", "experiment=quickstart", *overrides)


def test_build_gives_the_schema_with_plugs_built():
    config = build(quickstart("task.num_prompts=3"))
    assert isinstance(config, RunConfig)
    assert config.task.num_prompts == 3


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        # The schema's own checks know their key.
        (["learner.lr=-1"], "learner.lr must be positive, got -1.0"),
        (
            ["rollout.engine.max_num_seqs=0"],
            "rollout.engine.max_num_seqs must be at least 1, got 0",
        ),
        # A plug knows its kind only, and is found where the configuration holds it.
        (["task.num_prompts=0"], "task.num_prompts must be at least 1, got 0"),
        (["held_out.num_prompts=0"], "held_out.num_prompts must be at least 1, got 0"),
        (["scheduler.allocator.floor=2"], "scheduler.allocator.floor must lie in (0, 1], got 2"),
        (
            ["scheduler.utility.prior.ridge=-1"],
            "scheduler.utility.prior.ridge must be positive, got -1",
        ),
        (["tracker=wandb", "tracker.wandb.mode=x"], "tracker.wandb.mode must be offline or online"),
        # Wrong types and unknown settings of a plug.
        (["task.num_prompts=many"], "task.num_prompts must be a whole number, got 'many'"),
        (["task.num_prompts=2.5"], "task.num_prompts must be a whole number, got 2.5"),
        (["objective.clip_low=null"], "objective.clip_low must be a number, got None"),
        (["objective.clip_low=true"], "objective.clip_low must be a number, got True"),
        (["objective.dual_clip=[3]"], "objective.dual_clip must be a number, got [3]"),
        (
            ["scheduler.thinning.keep_zero_advantage=1"],
            "scheduler.thinning.keep_zero_advantage must be true or false, got 1",
        ),
        (
            ["scheduler.utility.prior.ridge=wide"],
            "scheduler.utility.prior.ridge must be a number, got 'wide'",
        ),
        (
            ["learner.optimizer.betas=0.9"],
            "learner.optimizer.betas must be a list, such as [A,B], got 0.9",
        ),
        (
            ["+task.colour=red"],
            "task.colour must be left out: ChainTask has no such setting; there",
        ),
        (["+objective.clip_lo=0.1"], "did you mean objective.clip_low?"),
        (
            ["objective=function", "objective.path=losses.py:f", "+objective.width=0.3"],
            "objective.path names go under objective.settings, as objective.settings.width; got",
        ),
        (
            [
                "environment=tools",
                "environment.tools=[{_target_: rollout.tools.python.PythonTool, x: 1}]",
            ],
            "environment.tools[0]: rollout.tools.python.PythonTool does not fit",
        ),
        (
            ["environment=tools", "environment.tools=[my_tools.py:longest]"],
            "environment.tools[0]: tool.path must name a file that can be read on every node",
        ),
        # Plugs that do not exist.
        (["task._target_=nowhere.Task"], "task: nowhere.Task does not fit (No module named"),
        (["task._target_=rollout.tasks.chain.No"], "task: rollout.tasks.chain.No does not fit"),
        # Values that nobody gave.
        (["task=dataset", "task@held_out=dataset_held_out"], "task.path must be set, got ???"),
        (["reward=reasoning_gym"], "'held_out.dataset' not found; set it"),
    ],
)
def test_build_refuses_with_one_line_that_names_the_key(overrides, sentence):
    with pytest.raises(UserError) as refusal:
        build(quickstart(*overrides))
    message = str(refusal.value)
    assert sentence in message
    assert "\n" not in message
    assert "full_key" not in message


def test_the_run_folder_holds_the_resolved_configuration(tmp_path):
    config = OmegaConf.create({"one": 1, "two": "${one}"})
    folder = prepare_run_dir(tmp_path / "a" / "run", config, "train")
    written = OmegaConf.load(folder / "config.yaml")
    assert written.one == written.two == 1
    assert written.defaults[0] == "train_schema"


def test_an_empty_run_folder_is_taken(tmp_path):
    prepare_run_dir(tmp_path, OmegaConf.create(), "train")
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_a_used_run_folder_is_refused_and_left_alone(tmp_path):
    (tmp_path / "config.yaml").write_text("mine")
    with pytest.raises(UserError, match=r"run_dir must be new or empty, got '.*'; choose another"):
        prepare_run_dir(tmp_path, OmegaConf.create(), "train")
    assert (tmp_path / "config.yaml").read_text() == "mine"


TAKE = """
import sys, time
from pathlib import Path
from omegaconf import OmegaConf
from launch.program import prepare_run_dir
prepare_run_dir(Path(sys.argv[1]), OmegaConf.create({"seed": 1}), "train")
print("there", flush=True)
time.sleep(100)
"""


def test_a_start_that_came_to_nothing_leaves_its_folder_free_as_soon_as_it_has_ended(tmp_path):
    first = subprocess.Popen(
        [sys.executable, "-c", TAKE, str(tmp_path)], cwd=PROJECT, stdout=subprocess.PIPE
    )
    with first:
        assert first.stdout.readline() == b"there\n"
        for again in (False, True):
            with pytest.raises(UserError, match="run_dir must not be in use by another program"):
                prepare_run_dir(tmp_path, OmegaConf.create(), "train", again=again)
        first.kill()
    assert OmegaConf.load(tmp_path / "config.yaml").seed == 1
    prepare_run_dir(tmp_path, OmegaConf.create({"seed": 2}), "train")
    assert OmegaConf.load(tmp_path / "config.yaml").seed == 2
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(UserError, match="run_dir must be new or empty"):
        prepare_run_dir(tmp_path, OmegaConf.create(), "train")


def test_where_nobody_knows_whether_a_start_goes_on_its_folder_counts_as_used(
    tmp_path, monkeypatch
):
    def no_locks(descriptor, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    prepare_run_dir(tmp_path, OmegaConf.create(), "train")
    with pytest.raises(UserError, match="run_dir must be new or empty"):
        prepare_run_dir(tmp_path, OmegaConf.create(), "train")
    prepare_run_dir(tmp_path, OmegaConf.create(), "train", again=True)


def test_a_run_folder_that_cannot_be_made_is_refused(tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    for path in (file, file / "run"):
        with pytest.raises(UserError, match=r"run_dir must be writable, got '.*file.*': \w+"):
            prepare_run_dir(path, OmegaConf.create(), "train")
    assert file.read_text() == "mine"


def missing_value() -> None:
    str(OmegaConf.create({"model": {"path": "???"}}).model.path)


def unreachable_engine() -> None:
    raise RunError("engine 0 died")


def at_its_end() -> None:
    raise NothingToDoError("the run is at its end")


def wrong_lr() -> None:
    raise UserError("learner.lr must be positive, got -1.0")


@pytest.mark.parametrize(
    ("program", "status", "line"),
    [
        (wrong_lr, 2, "error: learner.lr must be positive, got -1.0\n"),
        (missing_value, 2, "error: model.path must be set, got ???\n"),
        (unreachable_engine, 1, "error: engine 0 died\n"),
        (lambda: None, 0, ""),
        (at_its_end, 0, ""),
    ],
)
def test_a_program_ends_in_one_line_and_a_status(program, status, line, capsys):
    with pytest.raises(SystemExit) as ended:
        run_program(program)
    assert ended.value.code == status
    assert capsys.readouterr().err == line


def test_a_bug_keeps_its_traceback():
    def bug() -> None:
        raise KeyError("bug")

    with pytest.raises(KeyError):
        run_program(bug)


def test_a_word_is_refused_where_none_is_taken(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train", "seed=1", "learner.lr"])
    with pytest.raises(SystemExit) as ended:
        start(lambda: pytest.fail("the program was started"))
    assert ended.value.code == 2
    line = "error: settings must be written as KEY=VALUE, got 'learner.lr'\n"
    assert capsys.readouterr().err == line


def test_options_may_stand_among_overrides(monkeypatch):
    given = ["experiment=quickstart", "--cfg", "hydra", "seed=1"]
    monkeypatch.setattr(sys, "argv", ["train", *given])
    with pytest.raises(SystemExit) as ended:
        start(lambda: None)
    assert ended.value.code == 0
    assert sys.argv[1:] == ["experiment=quickstart", "seed=1", "--cfg", "hydra"]
