"""What a user can get wrong, driven as a user does: one sentence, before anything is started.

Every refusal below comes out of `prepare`, which runs before a cluster is joined, and leaves no run
folder behind.
"""

import asyncio
import json
import os
import shutil
import subprocess
import sys

import pytest

from conf.resources import ResourcesConfig
from launch.cli.refusals import UserError
from launch.run.cluster import connect
from launch.run.inputs import prepare
from launch.run.placement import PlacementError, reserve
from tests.composing import composed
from tests.places import CHAIN_MODEL, PROJECT

JSONL = ("task=dataset", "task@held_out=dataset_held_out", "++held_out.split=all", "task.split=all")
GOOD = {"prompt": "a1 b+2", "answer": "3"}
ALSO_GOOD = {"prompt": "a1 b+3", "answer": "4"}


@pytest.fixture
def prepared(tmp_path):
    """Prepares a quickstart with changes, as `python -m launch.train` does."""

    def prepare_with(*overrides):
        all_overrides = ["experiment=quickstart", f"run_dir={tmp_path / 'run'}", *overrides]
        return prepare(composed("train", *all_overrides))

    return prepare_with


@pytest.fixture
def questions(tmp_path):
    """Writes a file of questions and gives the overrides that read it."""

    def write(*rows, name="questions.jsonl"):
        path = tmp_path / name
        lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
        path.write_text("".join(f"{line}\n" for line in lines))
        return [*JSONL, f"task.path={path}"]

    return write


def assert_refused(prepared, overrides, *parts, tmp_path):
    with pytest.raises(UserError) as refusal:
        prepared(*overrides)
    message = str(refusal.value)
    for part in parts:
        assert part in message
    assert "\n" not in message
    assert not (tmp_path / "run").exists()


def test_good_input_makes_the_run_folder(prepared, questions, tmp_path):
    inputs = prepared(*questions(GOOD, ALSO_GOOD))
    assert [len(inputs.prompts), len(inputs.sets["held_out"])] == [2, 2]
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.yaml"]


@pytest.mark.parametrize(
    ("rows", "parts"),
    [
        ([], ["task.path has no rows", "questions.jsonl"]),
        (["", "  "], ["task.path has no rows", "questions.jsonl"]),
        ([GOOD, '{"prompt": "a1'], ["questions.jsonl:2 is not JSON", "write one object a line"]),
        ([GOOD, "", "[]"], ["questions.jsonl:3 must be a JSON object"]),
        ([{"prompt": "a1 b+2"}], ["questions.jsonl:1 has no answer", "name it in task.answer"]),
        ([{"answer": "3"}], ["questions.jsonl:1 must have one of the columns prompt, messages"]),
        (
            [GOOD, {"prompt": "a1 b+3", "answer": [" "]}],
            ["questions.jsonl:2 needs a number, a boolean or a text that is not blank in answer"],
        ),
        ([{**GOOD, "prompt": " "}], ["questions.jsonl:1 needs a text that is not blank in prompt"]),
        (
            [GOOD, ALSO_GOOD, {**GOOD, "answer": "5"}],
            [
                "questions.jsonl:3 repeats the prompt of",
                "questions.jsonl:1",
                "another answer",
                "duplicates=skip",
            ],
        ),
        ([GOOD, GOOD], ["questions.jsonl:2 repeats the prompt of", "duplicates=skip"]),
        (
            [GOOD, {"prompt": "a1 b*3", "answer": "three"}],
            ["questions.jsonl:2 has an answer that the reward refuses", "whole number", "'three'"],
        ),
        (
            [GOOD, {"prompt": "a1" + " b+3" * 100, "answer": "3"}],
            ["questions.jsonl:2 is longer than the 256 tokens", "model.max_model_len", "got 40"],
        ),
    ],
)
def test_a_bad_file_is_refused_with_its_line(prepared, questions, tmp_path, rows, parts):
    assert_refused(prepared, questions(*rows), *parts, tmp_path=tmp_path)


def test_an_answer_that_math_verify_cannot_parse_is_refused(prepared, questions, tmp_path):
    bad = questions({"prompt": "1/2 + 1/3?", "answer": r"\frac{5}{6}"}, {**GOOD, "answer": "?"})
    parts = ("questions.jsonl:2", "math-verify finds no expression", "'?'")
    assert_refused(prepared, [*bad, "reward=math"], *parts, tmp_path=tmp_path)


def test_a_missing_file_is_refused(prepared, tmp_path):
    overrides = [*JSONL, f"task.path={tmp_path / 'none.jsonl'}"]
    parts = ("task.path cannot be read (No such file or directory)", "none.jsonl")
    assert_refused(prepared, overrides, *parts, tmp_path=tmp_path)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)])
def test_what_is_no_regular_file_is_refused_and_not_waited_for(prepared, tmp_path, make):
    make(tmp_path / "questions.jsonl")
    overrides = [*JSONL, f"task.path={tmp_path / 'questions.jsonl'}"]
    parts = ("task.path ", "regular file", "questions.jsonl")
    assert_refused(prepared, overrides, *parts, tmp_path=tmp_path)


@pytest.mark.parametrize("number", [0, 100_000_000, 10**17])
def test_a_generator_makes_no_absurd_number(prepared, tmp_path, number):
    parts = ("task.num_prompts must be at ", f"got {number}")
    assert_refused(prepared, [f"task.num_prompts={number}"], *parts, tmp_path=tmp_path)


def test_a_held_out_split_without_a_question_is_refused(prepared, questions, tmp_path):
    overrides = [*questions(GOOD), "held_out.split=held_out"]
    parts = ("held_out: all of the 1 questions of", "lower task.held_out_one_in", "held_out.path=")
    assert_refused(prepared, overrides, *parts, tmp_path=tmp_path)


@pytest.mark.parametrize(
    ("key", "row"),
    [("long_prompts", {"prompt": "a1" + " b+3" * 100, "answer": "3"}), ("duplicates", GOOD)],
)
def test_long_and_repeated_prompts_are_skipped_and_counted_on_demand(
    prepared, questions, caplog, key, row
):
    inputs = prepared(
        *questions(GOOD, row, ALSO_GOOD), f"++task.{key}=skip", f"++held_out.{key}=skip"
    )
    assert [prompt.text for prompt in inputs.prompts] == ["a1 b+2", "a1 b+3"]
    counts = {"long_prompts": "1 over 256 tokens (first: ", "duplicates": "1 repeated (first: "}
    assert f"2 prompts; left out: {counts[key]}" in caplog.text


def test_a_missing_model_is_refused(prepared, tmp_path):
    parts = ("model.path must be a Hugging Face folder", "nothing", "python -m launch.warmstart")
    assert_refused(prepared, [f"model.path={tmp_path / 'nothing'}"], *parts, tmp_path=tmp_path)


def test_a_model_without_a_chat_template_is_refused_where_one_is_needed(
    prepared, questions, tmp_path
):
    model = shutil.copytree(CHAIN_MODEL, tmp_path / "model")
    (model / "chat_template.jinja").unlink()
    overrides = [f"model.path={model}", *questions(GOOD, ALSO_GOOD)]
    parts = ("the tokenizer in", "has no chat template", "task.chat=false")
    assert_refused(prepared, overrides, *parts, tmp_path=tmp_path)
    inputs = prepared(*overrides, "++task.chat=false", "++held_out.chat=false")
    assert inputs.tokenizer.decode(inputs.prompts[0].token_ids) == "a1 b+2"


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["learner.num_minibatches=17"], ["learner.num_minibatches", "tickets_per_step = 16"]),
        (["learner.row_tokens=256"], ["learner.row_tokens", "model.max_model_len = 512"]),
        (["rollout.max_tokens=512"], ["rollout.max_tokens", "model.max_model_len = 512"]),
        (["scheduler.group_size=0"], ["scheduler.group_size", "got 0"]),
        (["scheduler.tickets_per_step=-1"], ["scheduler.tickets_per_step", "got -1"]),
        (["scheduler.tickets_per_step=100000"], ["at most 1920 for the 192 prompts", "got 100000"]),
        (["rollout.top_p=0.9"], ["rollout.top_p must be 1.0 for training"]),
    ],
)
def test_sizes_that_do_not_fit_each_other_are_refused(prepared, tmp_path, overrides, parts):
    assert_refused(prepared, overrides, *parts, tmp_path=tmp_path)


def test_a_run_folder_that_cannot_be_written_is_refused(prepared, tmp_path):
    (tmp_path / "file").write_text("mine")
    overrides = [f"run_dir={tmp_path / 'file' / 'run'}"]
    assert_refused(prepared, overrides, "run_dir must be writable", tmp_path=tmp_path)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_used_run_folder_is_refused_and_left_as_it_is(prepared, tmp_path):
    prepared()
    (tmp_path / "run" / "metrics.jsonl").touch()
    before = (tmp_path / "run" / "config.yaml").read_bytes()
    with pytest.raises(UserError, match=r"run_dir must be new or empty, got '.*'; choose another$"):
        prepared("seed=1")
    assert (tmp_path / "run" / "config.yaml").read_bytes() == before


def test_more_than_the_cluster_has_is_refused_with_both_numbers(prepared, monkeypatch):
    resources = prepared("resources.num_engines=3", "resources.use_gpu=true").config.resources
    monkeypatch.setattr("ray.available_resources", lambda: {"CPU": 16.0, "GPU": 2.0})
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 16.0, "GPU": 2.0})
    with pytest.raises(PlacementError) as refusal:
        asyncio.run(reserve(resources))
    message = str(refusal.value)
    assert (
        "asks for 3 GPUs (3 engines, 1 learners, 1 of each on shared GPUs), the cluster has 2 f"
        in message
    )
    assert "lower resources.num_engines" in message
    assert isinstance(refusal.value, UserError)


@pytest.mark.parametrize("address", ["127.0.0.1:{}", "ray://127.0.0.1:{}", "127.0.0.1:99999"])
def test_a_cluster_that_does_not_answer_is_named(address, free_port):
    address = address.format(free_port)
    with pytest.raises(UserError, match=r"^no Ray cluster answers at '.*RAY_ADDRESS"):
        connect(ResourcesConfig(address=address))


def run_program(module, *arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=cwd, env=os.environ | {"PYTHONPATH": str(PROJECT)},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("module", "arguments", "parts"),
    [
        (
            "launch.train",
            ["experiment=quickstart", "learner.lrr=1"],
            ["learner.lrr is not a setting; did you mean learner.lr?"],
        ),
        ("launch.train", ["experiment=quickstart", "learner.lr=fast"], ["learner.lr", "'fast'"]),
        ("launch.train", ["experiment=quickstrat"], ["quickstrat", "quickstart_engine"]),
        ("launch.train", ["objective=ppo"], ["objective has no member 'ppo'", "clipped_surrogate"]),
        ("launch.evaluate", ["learner.lr=1", "model.path=x"], ["learner.lr must be left out"]),
    ],
)
def test_hydra_refuses_what_it_does_not_know_without_a_traceback(
    module, arguments, parts, tmp_path
):
    result = run_program(module, *arguments, cwd=tmp_path)
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    assert len(result.stderr.splitlines()) <= 25
    for part in parts:
        assert part in result.stderr


@pytest.mark.parametrize(
    ("module", "arguments", "line"),
    [
        ("launch.train", [], "error: model.path must be set, got ???\n"),
        ("launch.evaluate", [], "error: model.path must be set, got ???\n"),
        (
            "launch.train",
            ["experiment=quickstart", "learner.lr=-1"],
            "error: learner.lr must be positive, got -1.0\n",
        ),
        (
            "launch.evaluate",
            ["experiment=quickstart_check", "held_out.num_prompts=0"],
            "error: held_out.num_prompts must be at least 1, got 0\n",
        ),
    ],
)
def test_a_refusal_is_one_line_and_status_2(module, arguments, line, tmp_path):
    result = run_program(module, *arguments, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (2, line)
    assert not (tmp_path / "runs").exists()
