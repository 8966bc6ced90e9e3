"""Which runs are refused before anything is sent, and what goes along."""

import pytest

from conf.programs import KubeRayConfig, SubmitConfig
from launch.jobs.submission import allowed_variables, checked_run
from launch.program import UserError


def job(**settings):
    settings.setdefault("kuberay", KubeRayConfig(claim="shared"))
    return SubmitConfig(name="first", **settings)


def test_only_allowed_variables_that_are_set_go_along():
    environ = {"HF_HOME": "/hf", "PATH": "/bin", "WANDB_API_KEY": "k"}
    assert allowed_variables(["HF_HOME", "WANDB_MODE"], environ) == {"HF_HOME": "/hf"}


@pytest.mark.parametrize(
    ("settings", "overrides", "sentence"),
    [
        ({}, [], "name the run after `--`"),
        ({}, ["experiment=quickstart"], "run_dir must be an absolute folder that the head keeps"),
        ({}, ["experiment=none"], "Could not find 'experiment/none'"),
        ({}, ["experiment=quickstart", "run_dir=/s", "colour=red"], "Key 'colour' not in"),
        ({}, ["experiment=quickstart", "run_dir=/s", "learner.lr=-1"], "learner.lr must be posit"),
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
    ],
)
def test_a_run_that_cannot_work_is_refused_before_it_is_sent(settings, overrides, sentence):
    with pytest.raises(UserError) as refusal:
        checked_run(job(**settings), overrides)
    assert sentence in str(refusal.value)
    assert "\n" not in str(refusal.value)
