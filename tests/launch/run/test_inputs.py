import shutil
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
from omegaconf import OmegaConf
from transformers import AutoTokenizer

from conf.programs import register
from launch.cli.refusals import UserError
from launch.program import compose_run
from launch.run.inputs import (
    PROJECT,
    check_environment,
    load_prompts,
    read_inputs,
    say_trained_on,
    say_whose_code,
)
from launch.run.model_folder import load_tokenizer
from rollout.environments.tools import ToolEnvironment
from rollout.rewards.chain import ChainReward
from rollout.rewards.code import CodeReward
from rollout.sandbox import run as sandbox
from rollout.tasks.dataset import DatasetTask
from rollout.tools.python import PythonTool

CHAIN_MODEL = PROJECT / "rollout/tasks/chain_model"


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(CHAIN_MODEL)


@pytest.fixture
def model(tmp_path):
    """A copy of the shipped model to break."""
    return shutil.copytree(CHAIN_MODEL, tmp_path / "model")


@pytest.fixture
def task(tmp_path):
    """Makes a task of a file with these lines."""

    def make(*lines, **settings):
        path = tmp_path / "questions.jsonl"
        path.write_text("".join(f"{line}\n" for line in lines))
        return DatasetTask(path=str(path), **settings)

    return make


def test_prompts_are_numbered_and_tokenised(task, tokenizer):
    two = task('{"prompt": "a1 b+2", "answer": "3"}', '{"prompt": "a1 b+3", "answer": "4"}')
    prompts = load_prompts(two, tokenizer, ChainReward(), 100)
    assert [(p.index, p.text, p.answer) for p in prompts] == [
        (0, "a1 b+2", "3"),
        (1, "a1 b+3", "4"),
    ]


def test_a_reward_of_ones_own_needs_no_check(task, tokenizer):
    class Plain:
        def score(self, prompt_text, response_text, answer):
            return 1.0

    one = task('{"prompt": "a1 b+2", "answer": "whatever"}')
    (prompt,) = load_prompts(one, tokenizer, Plain(), 100)
    assert prompt.answer == "whatever"


def test_a_refusal_names_the_key_of_the_task_it_concerns(task, tokenizer, tmp_path):
    bad = task('{"prompt": "a1 b+2", "answer": "3"}', "{")
    with pytest.raises(UserError, match=r"^task: .*questions\.jsonl:2 is not JSON"):
        load_prompts(bad, tokenizer, ChainReward(), 100)
    with pytest.raises(UserError, match=r"^held_out: .*questions\.jsonl:2 is not JSON"):
        load_prompts(bad, tokenizer, ChainReward(), 100, key="held_out")
    missing = DatasetTask(path=str(tmp_path / "none.jsonl"))
    with pytest.raises(UserError, match=r"^held_out\.path cannot be read \(No such file"):
        load_prompts(missing, tokenizer, ChainReward(), 100, key="held_out")


def test_a_template_that_refuses_is_told_as_such(task, model):
    template = "{{ raise_exception('no system messages') }}"
    (model / "chat_template.jinja").write_text(template)
    one = task('{"prompt": "a1 b+2", "answer": "3"}')
    with pytest.raises(UserError, match=r"chat template of model\.path .*'no system messages'"):
        load_prompts(one, load_tokenizer(str(model)), ChainReward(), 100)


def test_responses_that_leave_no_room_for_prompts_are_refused(task, tokenizer):
    one = task('{"prompt": "a1 b+2", "answer": "3"}')
    with pytest.raises(
        UserError, match=r"^rollout\.max_tokens .*model\.max_model_len, got -88 tok"
    ):
        load_prompts(one, tokenizer, ChainReward(), -88)


def test_a_machine_without_a_sandbox_is_told_before_code_is_run(task, tokenizer, monkeypatch):
    monkeypatch.setattr(sandbox, "fault_of", lambda form: "not here")
    tests = '{"asserts": ["assert f() == 1"], "reference": "def f(): return 1"}'
    one = task(f'{{"prompt": "Write f.", "answer": {tests}}}')
    told = r"^sandbox\.form=auto works on this machine in no form .*sandbox\.allow_weak=true"
    with pytest.raises(UserError, match=told):
        load_prompts(one, tokenizer, CodeReward(), 100)
    config = SimpleNamespace(
        environment=ToolEnvironment([PythonTool()], role="user", describe="none"),
        model=SimpleNamespace(path=str(CHAIN_MODEL), stop_strings=[]),
    )
    with pytest.raises(UserError, match=told):
        check_environment(config, tokenizer)


def configured(path, address):
    reward = {"_target_": "rollout.rewards.function.FunctionReward", "path": f"{path}:score"}
    return OmegaConf.create({"resources": {"address": address}, "reward": reward})


def test_what_the_nodes_of_a_joined_cluster_need_is_said(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    one, other = (tmp_path / f"{name}.py" for name in ("one", "other"))
    say_whose_code(configured(one, None), configured(other, None))
    (line,) = capsys.readouterr().out.splitlines()
    assert line.endswith(f": reward {one}:score ({one}), reward {other}:score ({other})")
    say_whose_code(configured(one, "10.0.0.1:6379"))
    _, needed = capsys.readouterr().out.splitlines()
    assert needed.startswith("every node of the cluster must find these files")
    # What came with a job lies beside the project.
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    say_whose_code(configured(PROJECT / "mine.py", None))
    assert len(capsys.readouterr().out.splitlines()) == 1


@dataclass(frozen=True)
class Hanging:
    """A reward whose check does not end."""

    def check(self, answer):
        while True:
            pass


def test_a_check_that_hangs_is_refused_with_the_row(task, tokenizer):
    made = task('{"question": "1+1", "answer": "2"}')
    with pytest.raises(
        UserError, match=r"questions\.jsonl:1 .*check took longer than 0\.1 seconds.*got '2'"
    ):
        load_prompts(made, tokenizer, Hanging(), 99, reward_seconds=0.01)


def test_what_is_measured_and_trained_on_is_said(capsys):
    asked = [SimpleNamespace(token_ids=np.array(ids)) for ids in ([1, 2], [3], [4])]
    say_trained_on(asked[:2], {"held_out": asked[2:], "mine": asked[1:]})
    assert capsys.readouterr().out == (
        "evaluation.sets.mine: 1 of its 2 prompts are trained on too\n"
    )


def test_a_reference_is_looked_for_before_anything_is_started(tmp_path):
    register()
    chosen = ["learner.reference.path=nowhere", "learner.reference.kl_coefficient=0.1"]
    chosen += ["thinning@scheduler.thinning=keep_all", f"run_dir={tmp_path}/run"]
    with pytest.raises(UserError, match=r"^learner\.reference\.path must be a folder"):
        read_inputs(compose_run(["experiment=quickstart", *chosen]))
