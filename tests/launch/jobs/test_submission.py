"""Which runs are refused before anything is sent, and what goes along."""

from pathlib import Path

import pytest

from conf.programs import register
from conf.submit import KubeRayConfig, SubmitConfig
from launch.cli.refusals import UserError
from launch.jobs.submission import allowed_variables, checked_run, resuming, submit, training
from launch.program import compose_run
from launch.study.comparison.checks import first_run

register()
READERS = {"train": training, "compare": first_run}
ONE_ARM = ["~arms.ours", "~arms.ours_pass_rate"]
"""Composing takes time, and each arm is composed."""
COMPARISON = ["comparison=utilities", *ONE_ARM, "budget.amount=4000", "run_dir=/shared/c"]


def job(**settings):
    settings.setdefault("kuberay", KubeRayConfig(claim="shared"))
    return SubmitConfig(name="first", **settings)


def test_only_allowed_variables_that_are_set_go_along():
    environ = {"HF_HOME": "/hf", "PATH": "/bin", "WANDB_API_KEY": "k"}
    assert allowed_variables(["HF_HOME", "WANDB_MODE"], environ) == {"HF_HOME": "/hf"}


@pytest.mark.parametrize(
    ("settings", "overrides", "sentence"),
    [
        ({}, [], "name what to run after `--`, such as -- experiment=quickstart"),
        ({}, ["experiment=quickstart"], "run_dir must be an absolute folder that the head keeps"),
        ({}, ["experiment=none"], "experiment has no member 'none'"),
        ({}, ["experiment=quickstart", "run_dir=/s", "colour=red"], "Key 'colour' not in"),
        ({}, ["experiment=quickstart", "run_dir=/s", "learner.lr=-1"], "learner.lr must be posit"),
        (
            {},
            ["experiment=quickstart", "run_dir=/s", "resume=/runs/a"],
            "resume must be auto, which jobs have by themselves, got '/runs/a'; give",
        ),
        (
            {"form": "kuberay", "kuberay": KubeRayConfig()},
            ["experiment=quickstart", "run_dir=/shared/a"],
            "kuberay.claim must name the PersistentVolumeClaim",
        ),
        (
            {"form": "kuberay"},
            ["experiment=quickstart", "run_dir=/sharedother/a"],
            "run_dir must lie under kuberay.mount_path = '/shared'",
        ),
        (
            {"form": "kuberay"},
            ["experiment=quickstart", "run_dir=/shared/../etc"],
            "run_dir must lie under kuberay.mount_path = '/shared'",
        ),
        ({"program": "compare"}, [], "such as -- comparison=baselines run_dir="),
        ({"program": "compare"}, COMPARISON[:-1], "run_dir must be an absolute folder that the"),
        (
            {"program": "compare", "form": "kuberay"},
            [*COMPARISON[:-1], "run_dir=/elsewhere"],
            "run_dir must lie under kuberay.mount_path = '/shared'",
        ),
        ({"program": "compare"}, ["comparison=none"], "comparison has no member 'none'"),
        (
            {"program": "compare"},
            [*COMPARISON, "+arms.odd=[learner.lr=-1]"],
            "learner.lr must be positive",
        ),
        ({"program": "compare"}, [*COMPARISON, "+arms.odd=[learner.colour=1]"], "arms.odd: "),
        (
            {"program": "compare"},
            [*COMPARISON, "base=[experiment=quickstart,resources.max_engines=4]"],
            "resources.max_engines must be null in a comparison",
        ),
        (
            {"program": "compare"},
            [*COMPARISON, "+arms.odd=[model.max_model_len=100]"],
            "arms must share model",
        ),
        (
            {"program": "compare"},
            [*COMPARISON, "max_steps=1", "budget.amount=100_000_000_000"],
            "budget.amount must be within reach of some arm",
        ),
    ],
)
def test_a_run_that_cannot_work_is_refused_before_it_is_sent(settings, overrides, sentence):
    with pytest.raises(UserError) as refusal:
        job_of = job(**settings)
        checked_run(job_of, overrides, READERS[job_of.program])
    assert sentence in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_every_try_of_a_job_has_the_same_folder_and_goes_on_in_it():
    overrides = ["experiment=quickstart", """run_dir="/läufe/it's a b/${name}-${now:%f}\""""]
    run = checked_run(job(), overrides)
    sent = resuming("train", overrides, run)
    again = compose_run(sent)
    assert again.run_dir == run.run_dir and run.run_dir.startswith("/läufe/it's a b/")
    assert again.resume == "auto" and again.name == run.name
    # Whoever gives one has it.
    chosen = ["experiment=quickstart", "run_dir=/a", "resume=null"]
    assert compose_run(resuming("train", chosen, checked_run(job(), chosen))).resume is None


def test_a_slurm_job_without_a_folder_gets_one_that_stays():
    overrides = ["experiment=quickstart"]
    run = checked_run(job(form="slurm"), overrides)
    assert resuming("train", overrides, run) == [
        *overrides,
        f"run_dir='{run.run_dir}'",
        "resume=auto",
    ]
    assert "${" not in run.run_dir


@pytest.mark.parametrize("form", ["ray", "kuberay", "slurm"])
def test_every_form_gives_the_run_the_time_to_leave_and_lets_it_go_on(form, capsys):
    overrides = ["experiment=quickstart", "run_dir=/shared/a", "checkpoint.grace_seconds=45"]
    submit(job(form=form), overrides, READERS)
    text = capsys.readouterr().out
    assert "resume=auto" in text and "150" in text
    assert ("RAY_JOB_STOP_WAIT_TIME_S" in text) == (form != "slurm")


@pytest.mark.parametrize("form", ["ray", "kuberay", "slurm"])
def test_a_comparison_goes_on_by_itself_in_the_same_folder(form, capsys):
    overrides = ["comparison=utilities", "name=first", "run_dir=/shared/${name}", *ONE_ARM]
    submit(job(form=form, program="compare"), overrides, READERS)
    text = capsys.readouterr().out
    assert "python -m launch.compare comparison=utilities name=first" in text
    assert "/shared/first" in text and "resume=" not in text and "launch.train" not in text


def test_a_comparison_asks_for_the_machines_of_its_arms(tmp_path, monkeypatch):
    """Own code of an arm is found in the folder where the program is called."""
    (tmp_path / "mine.py").write_text("def score(prompt, response, answer):\n    return 1.0\n")
    monkeypatch.chdir(tmp_path)
    base = "base=[experiment=quickstart,resources.num_engines=3,reward=mine.py:score]"
    run = checked_run(job(program="compare"), [*COMPARISON, base], first_run)
    assert (run.run_dir, run.resources.num_engines) == ("/shared/c", 3)


class Server:
    """Takes a job in the place of Ray's server."""

    def submit_job(self, **job):
        self.job = job
        self.shipped = sorted(
            str(path.relative_to(job["runtime_env"]["working_dir"]))
            for path in Path(job["runtime_env"]["working_dir"]).rglob("*.py")
        )


@pytest.mark.parametrize(
    ("program", "overrides"),
    [
        ("train", ["experiment=quickstart", "reward=mine.py:score", "run_dir=/shared/c"]),
        ("compare", [*COMPARISON, "base=[experiment=quickstart,reward=mine.py:score]"]),
    ],
)
def test_own_code_goes_along_and_the_way_back_to_the_job_is_said(
    program, overrides, tmp_path, monkeypatch, capsys
):
    (tmp_path / "mine.py").write_text("def score(prompt, response, answer):\n    return 1.0\n")
    monkeypatch.chdir(tmp_path)
    server = Server()
    monkeypatch.setattr("launch.jobs.submission.connect", lambda address: server)
    address = "http://head:8265"
    submit(job(program=program, address=address, follow=False), overrides, READERS)
    assert f"exec python -m launch.{program} " in server.job["entrypoint"]
    assert "mine.py" in server.shipped and "launch/compare.py" in server.shipped
    said = capsys.readouterr().out
    # Ray's own programs send the token only when asked to, and the dashboard asks for it.
    assert f"RAY_AUTH_MODE=token ray job logs --address {address} --follow first" in said
    assert f"dashboard: {address}, which asks for the token: `ray get-auth-token` prints" in said
