"""Folders of somebody else are data: run folders, comparisons and models that would run code."""

import io
import json
import os
import shutil
import sys

import pytest
import yaml
from omegaconf import OmegaConf

from conf.programs import BudgetConfig, CompareConfig, register
from conf.secrets import recorded
from launch.cli.refusals import UserError
from launch.record.report.page import write_page
from launch.record.run_folder import MOST_BYTES, read_config, read_steps
from launch.record.trace import write_trace
from launch.run.model_folder import load_tokenizer
from launch.study.comparison.checks import require_same_settings
from launch.study.comparison.plan import plan_runs
from launch.study.simulation.check import compare
from launch.study.simulation.measured import MeasuredRun
from launch.study.simulation.profile_file import fit_profile
from tests.launch.programs import call
from tests.launch.record.run_folders import write_run
from tests.launch.study.simulation.test_fit import TRUE
from tests.launch.study.simulation.test_fit import write_run as write_simulated_run
from tests.places import CHAIN_MODEL, PROJECT

register()
CODE = """\
from pathlib import Path
Path(__file__).with_name("ran").touch()
def run(*_, **__):
    return None
def score(response_text):
    return 0.0
"""


@pytest.fixture
def evil(tmp_path, monkeypatch):
    """What a folder may name: a module that leaves a file behind when it is only imported."""
    folder = tmp_path / "code"
    folder.mkdir()
    path = folder / "evil_code.py"
    path.write_text(CODE)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "evil_code", raising=False)
    yield path
    assert not (folder / "ran").exists()


@pytest.fixture
def targets(evil, tmp_path):
    """Settings that would run it, or a program."""
    return [
        {"_target_": "evil_code.run"},
        {"_target_": "os.system", "command": f"touch {evil.with_name('ran')}"},
        {"_target_": "rollout.rewards.function.FunctionReward", "path": f"{evil}:score"},
        {"_target_": "cost.state_file.os.system", "command": "true"},
        {"made": "${oc.create:{_target_:evil_code.run}}"},
    ]


def write_config(path, content):
    OmegaConf.save(OmegaConf.create(content), path)


def change(folder, **settings):
    path = folder / "config.yaml"
    write_config(path, yaml.safe_load(path.read_text()) | settings)


def test_a_page_and_a_trace_run_nothing_that_a_run_folder_names(targets, tmp_path):
    for number, target in enumerate(targets):
        folder = write_run(tmp_path / f"run-{number}", num_steps=5)
        change(folder, reward=target, tracker={"x": target}, scheduler={"allocator": target})
        assert next(iter(target.values())).split("_code")[0] in write_page([folder]).read_text()
        write_trace(folder, None)


@pytest.mark.parametrize("number", range(5))
def test_a_check_builds_settings_of_ours_alone(number, targets, tmp_path):
    run = write_simulated_run(tmp_path / "run")
    change(run.folder, scheduler=run.config["scheduler"] | {"allocator": targets[number]})
    with pytest.raises(UserError, match=r"scheduler settings that do not build.*scheduler") as said:
        compare(TRUE, MeasuredRun.read(str(run.folder)))
    assert "\n" not in str(said.value)


@pytest.mark.parametrize("number", range(5))
def test_a_fit_builds_tasks_of_ours_alone_and_no_reward(number, targets, tmp_path, monkeypatch):
    monkeypatch.setattr("launch.study.simulation.profile_file.fit", lambda run, tokens: TRUE)
    run = write_simulated_run(tmp_path / "run")
    model = {"path": str(CHAIN_MODEL), "max_model_len": 600}
    change(run.folder, model=model, task=targets[number], reward=targets[number])
    with pytest.raises(UserError, match=r"has a task that is not built: task.* must"):
        fit_profile(str(run.folder), str(tmp_path / "profile.yaml"))
    task = {"_target_": "rollout.tasks.chain.ChainTask", "num_prompts": 64}
    change(run.folder, task=task)
    fit_profile(str(run.folder), str(tmp_path / "profile.yaml"))
    assert (tmp_path / "profile.yaml").stat().st_size > 500


def test_a_comparison_reads_finished_runs_as_values(targets, tmp_path):
    arms = {"plain": ["recipe=grpo"]}
    config = CompareConfig(
        name="them", run_dir=str(tmp_path / "runs"), base=["experiment=quickstart"], arms=arms,
        seeds=[0], budget=BudgetConfig(axis="steps", amount=2),
    )  # fmt: skip
    (run,) = plan_runs(config)
    run.composed.model.path = str(CHAIN_MODEL.relative_to(PROJECT))
    for target in targets:
        run.run_dir.mkdir(parents=True, exist_ok=True)
        write_config(run.run_dir / "config.yaml", recorded(run.composed) | {"reward": target})
        with pytest.raises(UserError, match=r"was run with other settings .*reward\."):
            require_same_settings(run)


@pytest.mark.parametrize(
    "text",
    [
        "a: !!python/object/apply:os.system ['touch ran']",
        "a: !!python/name:os.system",
        "a: &a [x, x]\nb: [*a]",
        "\n".join(
            ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
            + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
        ),
        "[" * 100_000,
    ],
)
def test_a_configuration_is_plain_values_each_written_out(text, tmp_path):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=r"config\.yaml is not YAML of plain values"):
        read_config(tmp_path)


def test_a_file_without_an_end_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "config.yaml")
    (tmp_path / "metrics.jsonl").symlink_to("/dev/zero")
    with pytest.raises(UserError, match=r"config\.yaml is no file with an end"):
        read_config(tmp_path)
    with pytest.raises(UserError, match=r"metrics\.jsonl is no file with an end"):
        read_steps(tmp_path)


def test_a_file_too_large_is_not_read(tmp_path):
    with (tmp_path / "config.yaml").open("wb") as file:
        file.truncate(MOST_BYTES[".yaml"] + 1)
    with pytest.raises(UserError, match=r"config\.yaml has more than 1 MiB, which no run writes"):
        read_config(tmp_path)


@pytest.fixture
def model(tmp_path, evil):
    """A model of a kind whose tokenizer transformers does not know, with code of its own."""
    folder = tmp_path / "model"
    shutil.copytree(CHAIN_MODEL, folder)
    shutil.copy(evil, folder / "evil_code.py")
    settings = json.loads((folder / "config.json").read_text())
    auto_map = {"AutoConfig": "evil_code.run", "AutoModelForCausalLM": "evil_code.run"}
    settings |= {"model_type": "arcee", "auto_map": auto_map}
    (folder / "config.json").write_text(json.dumps(settings))
    path = folder / "tokenizer_config.json"
    tokenizer = json.loads(path.read_text())
    tokenizer |= {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil_code.run"] * 2}}
    path.write_text(json.dumps(tokenizer))
    return folder


def test_a_tokenizers_own_code_is_not_even_asked_for(model, monkeypatch, tmp_path):
    """transformers would ask on the terminal, and run it where the answer is y."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 9))
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    with pytest.raises(UserError, match=r"^model\.path must hold a tokenizer that loads"):
        load_tokenizer(str(model))
    assert sys.stdin.tell() == 0
    assert not (model / "ran").exists()


def test_a_chat_template_reaches_nothing(model):
    shutil.rmtree(model)
    shutil.copytree(CHAIN_MODEL, model)
    (model / "chat_template.jinja").write_text(
        "{{ messages.__class__.__mro__[-1].__subclasses__() }}"
    )
    tokenizer = load_tokenizer(str(model))
    with pytest.raises(Exception, match="unsafe"):
        tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False)


@pytest.mark.parametrize("program", ["launch.train", "launch.evaluate"])
def test_a_configuration_that_is_run_says_whose_code_before(program, tmp_path):
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "mine.py").write_text(CODE + "raise SystemExit('imported')")
    experiment = "quickstart" if program == "launch.train" else "quickstart_check"
    done = call(
        program, f"experiment={experiment}", f"run_dir={tmp_path / 'run'}",
        f"reward={folder / 'mine.py'}:score",
    )  # fmt: skip
    path = folder / "mine.py"
    assert done.out == f"runs code from outside this project: reward {path}:score ({path})\n"
    assert done.status == 2 and "imported" in done.err


def test_a_configuration_of_ours_says_nothing(tmp_path):
    done = call(
        "launch.train", "experiment=quickstart", f"run_dir={tmp_path}", "task.num_prompts=0"
    )
    assert (done.status, done.out) == (2, "")


def test_a_program_of_the_system_is_no_plug(tmp_path):
    """Hydra itself refuses to call it."""
    done = call(
        "launch.train", "experiment=quickstart", f"run_dir={tmp_path / 'run'}",
        "reward._target_=os.system", f"+reward.command='touch {tmp_path / 'ran'}'",
    )  # fmt: skip
    assert done.status == 2 and done.err.startswith("error: reward: ")
    assert "reward os.system (" in done.out
    assert not (tmp_path / "ran").exists()
