"""No secret is in what a run leaves behind: all that happens of one without actors is done here.

Fake secrets stand in the environment and in a reward's settings; then every file, all that was
printed and every command line is searched for them.
"""

from dataclasses import replace
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir, initialize_config_module
from omegaconf import OmegaConf

from conf.programs import register
from conf.submit import KubeRayConfig, SubmitConfig
from launch.cli.refusals import UserError
from launch.jobs.package import pack
from launch.jobs.server import server_address
from launch.jobs.submission import allowed_variables, submit, training
from launch.program import compose_run
from launch.record.open_trackers import open_all
from launch.record.picture import draw_picture
from launch.record.progress import print_plan
from launch.record.report.page import write_page
from launch.record.tracking import RunInfo, Sample
from launch.run.inputs import prepare
from launch.run.plan_text import derived_plan
from launch.study.comparison.checks import check, require_same_settings, write_plan
from launch.study.comparison.plan import compare_config
from tests.launch.programs import call
from tests.launch.record.run_folders import write_run
from tests.places import PROJECT
from tests.processes import command_line, descendants

register()
SECRETS = {
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
    "HF_TOKEN": "hf_fakefakefakefakefakefake",
    "RAY_AUTH_TOKEN": "feedface" * 8,
    "AWS_SECRET_ACCESS_KEY": "fakeAWSsecretAccess/Key+fake",
    "JUDGE": "fake-key-of-a-judge",
}
REWARD = """\
def judge(response_text, answer, api_key="", header=""):
    assert api_key == "fake-key-of-a-judge" and header in ("", f"Bearer {api_key}")
    return 0.0
"""


@pytest.fixture(autouse=True)
def secrets(monkeypatch, tmp_path):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    for name in ("HOME", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))


@pytest.fixture
def judged(tmp_path):
    """Overrides of a run whose reward is given a key."""
    file = tmp_path / "judging.py"
    file.write_text(REWARD)
    return [
        "experiment=quickstart",
        f"run_dir={tmp_path / 'run'}",
        f"reward={file}:judge",
        "+reward.settings.api_key='${oc.env:JUDGE}'",
        "+reward.settings.header='Bearer ${reward.settings.api_key}'",
    ]


def found_in(content):
    content = content if isinstance(content, bytes) else content.encode()
    return [name for name, value in SECRETS.items() if value.encode() in content]


def assert_no_secret_in(folder):
    files = [
        path for path in folder.rglob("*") if path.is_file() and path.suffix not in {".py", ".pyc"}
    ]
    assert files
    assert [(path, found) for path in files if (found := found_in(path.read_bytes()))] == []


def test_a_run_leaves_no_secret_in_files_output_or_command_lines(judged, tmp_path, capfd):
    import wandb

    composed = compose_run([*judged, "tracker=wandb", "~tracker.ray"])
    inputs = prepare(composed)
    print_plan(derived_plan(inputs))
    run_dir = tmp_path / "run"
    info = RunInfo(inputs.config.name, run_dir, inputs.resolved, 2)
    tracker = open_all(inputs.config.tracker, info)
    assert [line for pid in descendants() if found_in(line := command_line(pid))] == []
    tracker.log(1, {"rollout/reward_mean": 0.5})
    tracker.samples(1, [Sample("a1", "b2", "2", "2", 1.0, 2, 0.5, 1.0)])
    tracker.close({"pass_rate_after": 0.5})
    wandb.teardown()
    assert list(run_dir.glob("wandb/offline-run-*/*.wandb"))
    draw_picture(run_dir, None, title=inputs.config.name)
    assert_no_secret_in(tmp_path)
    assert found_in("".join(capfd.readouterr())) == []


def test_a_page_shows_the_reference_and_not_the_secret(judged, tmp_path):
    run_dir = write_run(tmp_path / "made")
    prepare(compose_run(judged))
    (run_dir / "config.yaml").write_text((tmp_path / "run" / "config.yaml").read_text())
    page = write_page([run_dir]).read_text()
    assert "${oc.env:JUDGE}" in page
    assert_no_secret_in(tmp_path)


def test_the_run_folder_runs_again_with_the_key_of_that_time(judged, tmp_path, monkeypatch):
    prepare(compose_run(judged))
    with initialize_config_dir(str(tmp_path / "run"), version_base="1.3"):
        again = compose("config", [f"run_dir={tmp_path / 'again'}"])
    assert again.reward.settings.header == f"Bearer {SECRETS['JUDGE']}"
    monkeypatch.setenv("JUDGE", "another")
    assert again.reward.settings.header == "Bearer another"


@pytest.mark.parametrize(
    "override",
    [
        "+tracker.wandb={_target_: launch.record.wandb_tracker.WandbTracker, api_key: %s}",
        "+reward.settings.api_key=%s",
        "+task.password=%s",
        "+resources.address='ray://me:%s@head:10001'",
        "resources.address=%s@head:6379",
    ],
)
def test_a_secret_on_the_command_line_is_refused_and_not_repeated(override, judged, tmp_path):
    said = call("launch.train", *judged[:3], override % SECRETS["JUDGE"])
    assert said.status == 2
    assert "must not hold" in said.err
    assert said.err.count("\n") == 1
    assert found_in(said.out + said.err) == []
    assert not (tmp_path / "run").exists()


def test_a_setting_that_a_plug_does_not_know_is_named_without_its_value(judged, tmp_path):
    said = call("launch.train", *judged[:3], "+task.api_key='${oc.env:JUDGE}'")
    assert said.status == 2
    assert "api_key" in said.err
    assert found_in(said.out + said.err) == []


def test_a_comparison_and_its_runs_keep_the_reference(judged, tmp_path):
    shared = [each for each in judged if "reward" in each and "header" not in each]
    settings = {"arms": {"plain": [*shared, "recipe=grpo"], "aware": shared}}
    path = tmp_path / "comparisons" / "comparison" / "keys.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("# @package _global_\n" + OmegaConf.to_yaml(settings))
    with initialize_config_module("conf", version_base="1.3"):
        search = f"hydra.searchpath=[file://{path.parents[1]}]"
        overrides = [f"run_dir={tmp_path / 'runs'}", "seeds=[0]", "comparison=keys"]
        config = compare_config(compose("compare", [search, *overrides]))
    folder = Path(config.run_dir)
    write_plan(config, folder)
    planned = check(config, folder)
    first = planned[0]
    prepare(first.composed.copy())
    require_same_settings(first)
    assert_no_secret_in(folder)
    other = first.composed.copy()
    other.reward.settings.api_key = "${oc.env:OTHER,none}"
    with pytest.raises(UserError, match=r"api_key is .*oc\.env:JUDGE.* there"):
        require_same_settings(replace(first, composed=other))


@pytest.mark.parametrize("form", ["ray", "kuberay", "slurm"])
def test_a_job_names_secrets_and_tells_none(form, judged, tmp_path, capsys):
    config = SubmitConfig(
        name="first",
        form=form,
        secrets=[*SECRETS],
        kuberay=KubeRayConfig(claim="shared", mount_path=str(tmp_path)),
    )
    submit(config, judged, {"train": training})
    printed = capsys.readouterr().out
    assert "${oc.env:JUDGE}" in printed
    assert found_in(printed) == []
    # A cluster that runs has them already; the others take them by name.
    assert ("WANDB_API_KEY" in printed) == (form != "ray")


def test_what_is_sent_holds_no_secret(tmp_path):
    pack(PROJECT, tmp_path / "package")
    assert_no_secret_in(tmp_path / "package")


def test_a_variable_with_a_password_in_it_does_not_go_along():
    environ = {"HTTPS_PROXY": "http://me:hush@proxy:3128", "HF_HOME": "/hf"}
    assert allowed_variables(["HF_HOME"], environ) == {"HF_HOME": "/hf"}
    with pytest.raises(UserError, match=r"^env must not hold .* secrets, got HTTPS_PROXY$"):
        allowed_variables(["HF_HOME", "HTTPS_PROXY"], environ)


@pytest.mark.parametrize("by", ["address", "RAY_API_SERVER_ADDRESS"])
def test_a_job_servers_address_holds_no_password(by):
    address = "http://me:hush@head:8265"
    with pytest.raises(UserError, match=r"^address must not hold .* for 'head'$") as refusal:
        server_address(*((address, {}) if by == "address" else (None, {by: address})))
    assert "hush" not in str(refusal.value)
