"""The job's settings, what is refused before anything is sent, and the printed forms."""

import http.server
import os
import re
import shlex
import stat
import subprocess
import sys
import threading
import tomllib
from importlib.metadata import distributions, entry_points
from pathlib import Path

import pytest
import yaml

from conf.programs import KubeRayConfig, NodeConfig, SlurmConfig, SubmitConfig
from conf.resources import ResourcesConfig
from launch.jobs.check import lacking
from launch.jobs.forms import RAY_USER, kuberay_manifest, ray_line, slurm_script
from launch.jobs.nodes import Nodes, nodes_for
from launch.jobs.package import metadata_files, pack, packed_files
from launch.jobs.server import connect, server_address
from launch.jobs.submission import allowed_variables, checked_run
from launch.program import UserError
from launch.submit import split_arguments
from tests.places import PROJECT

AWKWARD = ["experiment=quickstart", 'name="it\'s $HOME (a)"', "run_dir=/shared/a b", "x=${y}"]
COMMAND = ["python", "-m", "launch.train", *AWKWARD]
GPU_NODES = Nodes(count=2, cpus=32, gpus=8, memory_gib=256)


def job(**settings):
    settings.setdefault("kuberay", KubeRayConfig(claim="shared"))
    return SubmitConfig(name="first", **settings)


# What goes where


def test_arguments_split_at_the_first_dashes():
    assert split_arguments(["a=1", "--", "b=2", "--", "c"]) == (["a=1"], ["b=2", "--", "c"])
    assert split_arguments(["a=1"]) == (["a=1"], [])


def test_only_allowed_variables_that_are_set_go_along():
    environ = {"HF_HOME": "/hf", "PATH": "/bin", "WANDB_API_KEY": "k"}
    assert allowed_variables(["HF_HOME", "WANDB_MODE"], environ) == {"HF_HOME": "/hf"}


@pytest.mark.parametrize(
    ("address", "environ", "expected"),
    [
        ("http://head:8265/", {"RAY_ADDRESS": "http://other:1"}, "http://head:8265"),
        (None, {"RAY_API_SERVER_ADDRESS": "https://h", "RAY_ADDRESS": "http://o"}, "https://h"),
        (None, {"RAY_ADDRESS": "http://o:1"}, "http://o:1"),
        (None, {"RAY_ADDRESS": "10.0.0.1:6379"}, "http://127.0.0.1:8265"),
        (None, {}, "http://127.0.0.1:8265"),
    ],
)
def test_the_address_given_wins_over_the_environment(address, environ, expected):
    assert server_address(address, environ) == expected


@pytest.mark.parametrize("address", ["ray://head:10001", "head:8265", "http://", "http://h:port"])
def test_an_address_that_is_no_job_server_is_refused(address):
    with pytest.raises(UserError, match=r"^address must be the job server's"):
        server_address(address, {})


# Machines


@pytest.mark.parametrize(
    ("asked", "node", "count"),
    [
        ({}, {}, 1),
        ({"num_engines": 7}, {}, 1),
        ({"num_engines": 8}, {}, 2),
        # An engine lies on one machine: two of 5 GPUs do not share 8, and learners fill the rest.
        ({"num_engines": 2, "tensor_parallel_size": 5, "num_learners": 6}, {}, 2),
        ({"num_engines": 2, "tensor_parallel_size": 5, "num_learners": 7}, {}, 3),
        # CPUs may be what runs out, with and without GPUs.
        ({"num_engines": 4, "engine_cpus": 16.0}, {"cpus": 32}, 3),
        ({"num_engines": 3, "num_learners": 1}, {"gpus": 0, "cpus": 2}, 2),
        ({"num_engines": 3, "num_learners": 1, "use_gpu": False}, {"cpus": 2}, 2),
    ],
)
def test_machines_hold_what_the_run_asks_for(asked, node, count):
    nodes = nodes_for(ResourcesConfig(**asked), NodeConfig(**node))
    assert nodes.count == count
    assert nodes.gpus == (0 if asked.get("use_gpu") is False else node.get("gpus", 8))


@pytest.mark.parametrize(
    ("asked", "node", "sentence"),
    [
        ({"tensor_parallel_size": 9}, {}, "resources.tensor_parallel_size must not exceed"),
        ({"engine_cpus": 33.0}, {}, "resources.engine_cpus must not exceed node.cpus = 32, got 33"),
        ({"learner_cpus": 33.0}, {}, "resources.learner_cpus must not exceed node.cpus"),
        ({"use_gpu": True}, {"gpus": 0}, "node.gpus must be at least 1"),
    ],
)
def test_a_machine_too_small_for_one_part_is_refused(asked, node, sentence):
    with pytest.raises(UserError, match=sentence):
        nodes_for(ResourcesConfig(**asked), NodeConfig(**node))


# Forms


def test_the_ray_line_is_one_shell_command_with_the_same_job():
    line = ray_line(job(), AWKWARD, "http://h:8265", {"HF_HOME": "/a b"})
    words = shlex.split(line)
    assert words[:4] == ["RAY_AUTH_MODE=token", "ray", "job", "submit"]
    assert words[words.index("--") + 1 :] == COMMAND
    assert words[words.index("--submission-id") + 1] == "first"
    environment = yaml.safe_load(words[words.index("--runtime-env-json") + 1])
    assert environment == {"env_vars": {"HF_HOME": "/a b"}}
    assert "--no-wait" in ray_line(job(follow=False), AWKWARD, "http://h:8265", {})


def test_the_rayjob_has_one_head_and_the_workers_that_the_run_needs():
    manifest = yaml.safe_load(kuberay_manifest(job(), AWKWARD, GPU_NODES, {"HF_HOME": "/hf"}))
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", "RayJob")
    assert manifest["metadata"]["name"] == "first"
    spec = manifest["spec"]
    assert shlex.split(spec["entrypoint"]) == COMMAND
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["backoffLimit"] == 0
    assert yaml.safe_load(spec["runtimeEnvYAML"]) == {"env_vars": {"HF_HOME": "/hf"}}
    cluster = spec["rayClusterSpec"]
    (workers,) = cluster["workerGroupSpecs"]
    assert workers["replicas"] == workers["minReplicas"] == workers["maxReplicas"] == 2
    head = cluster["headGroupSpec"]
    # Nothing is placed on the head, which has no GPU.
    assert head["rayStartParams"]["num-cpus"] == "0"
    for group, gpus in ((head, None), (workers, 8)):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert container["image"] == "cost-aware-rl"
        assert container["resources"]["limits"].get("nvidia.com/gpu") == gpus
        assert pod["securityContext"]["runAsNonRoot"] is True
        mounts = {mount["name"] for mount in container["volumeMounts"]}
        assert mounts == {volume["name"] for volume in pod["volumes"]}


def test_the_rayjob_refers_to_secrets_and_holds_none(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "very-secret-token")
    monkeypatch.setenv("WANDB_API_KEY", "very-secret-key")
    text = kuberay_manifest(job(secrets=["WANDB_API_KEY"]), AWKWARD, GPU_NODES, {})
    assert "very-secret" not in text
    cluster = yaml.safe_load(text)["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token", "secretName": "cost-aware-rl-token"}
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        (variable,) = group["template"]["spec"]["containers"][0]["env"]
        assert variable["name"] == "WANDB_API_KEY"
        assert variable["valueFrom"]["secretKeyRef"]["key"] == "WANDB_API_KEY"


def test_a_rayjob_on_cpus_asks_for_no_gpu():
    nodes = Nodes(count=1, cpus=4, gpus=0, memory_gib=8)
    assert "nvidia" not in kuberay_manifest(job(), AWKWARD, nodes, {})


def run_slurm(script, tmp_path):
    """Run a batch script as Slurm would, with programs that only say how they were called."""
    folder = tmp_path / "bin"
    folder.mkdir()
    programs = {
        "scontrol": "printf 'node7\\nnode8\\n'",
        "srun": 'printf "%s\\n" "$@" > srun.txt; printf "%s" "$RAY_AUTH_TOKEN" > token.txt',
    }
    for name, text in programs.items():
        path = folder / name
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    (tmp_path / "activate").write_text("")
    (tmp_path / "job.sh").write_text(script)
    python = Path(sys.executable).parent
    environ = {
        "PATH": f"{folder}:{python}:/usr/bin:/bin",
        "SLURM_JOB_ID": "12345",
        "SLURM_JOB_NODELIST": "node[7-8]",
        "HOME": "/home/me",
    }
    subprocess.run(["bash", "job.sh"], cwd=tmp_path, env=environ, check=True)
    return (tmp_path / "srun.txt").read_text().splitlines(), (tmp_path / "token.txt").read_text()


def test_the_slurm_script_runs_the_same_command_with_a_token_of_its_own(tmp_path):
    script = slurm_script(job(slurm=SlurmConfig(activate="./activate")), AWKWARD, GPU_NODES)
    words, token = run_slurm(script, tmp_path)
    at = words.index("--")
    assert words[at + 1] == "env"
    address = words[words.index("--address") + 1]
    assert words[at + 2] == f"RAY_ADDRESS={address}"
    assert words[at + 3 :] == COMMAND
    assert address.startswith("node7:")
    assert words[words.index("--min-nodes") + 1] == "2"
    assert words[words.index("--num-gpus") + 1] == "8"
    assert len(token) == 64
    assert token not in script


def test_the_slurm_script_exports_the_allowed_names_only():
    config = job(env=["HF_HOME"], secrets=["WANDB_API_KEY"], slurm=SlurmConfig(partition="gpu"))
    script = slurm_script(config, AWKWARD, GPU_NODES)
    options = dict(
        line.removeprefix("#SBATCH --").split("=", 1)
        for line in script.splitlines()
        if line.startswith("#SBATCH") and "=" in line
    )
    assert options["export"] == "HOME,USER,HF_HOME,WANDB_API_KEY"
    assert (options["nodes"], options["gpus-per-node"], options["partition"]) == ("2", "8", "gpu")
    assert "account" not in options
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0


# The package


def test_the_packed_folder_is_an_installed_project(tmp_path):
    """With the folder on the path, Python finds the entry points that installing would make."""
    size = pack(PROJECT, tmp_path)
    assert 0 < size < 100e6
    (found,) = distributions(path=[str(tmp_path)])
    assert found.name == "cost-aware-rl"
    (packed,) = found.entry_points
    assert packed in entry_points(group="vllm.general_plugins")
    code = (
        "import importlib.metadata as m, launch, pathlib;"
        "(p,) = [e for e in m.entry_points(group='vllm.general_plugins')"
        " if e.name == 'cost_aware_rl'];"
        "print(p.dist.locate_file(''), pathlib.Path(launch.__file__).parents[1])"
    )
    environ = {"PYTHONPATH": str(tmp_path), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, cwd="/", capture_output=True, text=True
    )
    assert done.stdout.split() == [str(tmp_path)] * 2, done.stderr


def test_what_git_tracks_and_new_sources_are_packed(tmp_path):
    project = tmp_path / "project"
    project.mkdir()
    for name, text in {
        "pyproject.toml": '[project]\nname = "a-b"\nversion = "1.0"\n',
        ".gitignore": "ignored.py\n",
        "known.txt": "",
        "new.py": "",
        "ignored.py": "",
        "secret.env": "KEY=1",
        "deleted.py": "",
    }.items():
        (project / name).write_text(text)
    git = ["git", "-C", str(project)]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "pyproject.toml", "known.txt", "deleted.py"], check=True)
    (project / "deleted.py").unlink()
    assert packed_files(project) == ["known.txt", "new.py", "pyproject.toml"]
    packed = tmp_path / "packed"
    packed.mkdir()
    pack(project, packed)
    assert sorted(path.name for path in packed.iterdir()) == [
        "a_b-1.0.dist-info",
        "known.txt",
        "new.py",
        "pyproject.toml",
    ]


def test_a_folder_that_is_no_checkout_is_refused(tmp_path):
    with pytest.raises(UserError, match="is no checkout"):
        pack(tmp_path, tmp_path)


def test_metadata_hold_every_entry_point():
    files = metadata_files(
        '[project]\nname = "a"\nversion = "2"\n'
        '[project.entry-points.g]\nx = "m:f"\ny = "m:g"\n[project.entry-points.h]\nz = "m:h"\n'
    )
    assert files["a-2.dist-info/entry_points.txt"] == "[g]\nx = m:f\ny = m:g\n\n[h]\nz = m:h\n"


def test_a_python_that_lacks_something_is_found_out():
    project = (PROJECT / "pyproject.toml").read_text()
    assert lacking(project) == []
    asked = (
        '[project]\ndependencies = ["no-such-package==1", "ray[default]==0.1", "numpy>=2,<3"]\n'
        '[project.entry-points."vllm.general_plugins"]\ncost_aware_rl = "a:b"\nnone = "a:b"\n'
    )
    found = lacking(asked)
    assert found[0] == "no-such-package==1"
    assert found[1].startswith("ray[default]==0.1 (has ")
    assert found[2:] == ["entry point vllm.general_plugins:none"]


def test_the_check_says_what_a_bare_python_lacks():
    """It runs where nothing is installed: no site-packages at all."""
    done = subprocess.run(
        [sys.executable, "-S", "-m", "launch.jobs.check"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "lacks deepspeed==" in done.stderr
    assert len(done.stderr.splitlines()) == 1


# The image


def test_the_images_pins_are_those_of_the_project():
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    for extra, file in (("cpu", "constraints.txt"), ("gpu", "constraints-gpu.txt")):
        lines = (PROJECT / ".ci" / file).read_text().splitlines()
        pins = dict(line.replace("_", "-").split("==") for line in lines if "==" in line)
        asked = project["dependencies"] + project["optional-dependencies"][extra]
        for requirement in asked:
            if "==" in requirement:
                name, pin = re.sub(r"\[.*\]", "", requirement).split("==")
                assert pins[name] == pin, f"{file}: {name}"


def test_the_image_runs_as_a_user_without_rights_and_holds_no_secret():
    lines = (PROJECT / "Dockerfile").read_text().splitlines()
    users = [line.split()[1] for line in lines if line.startswith("USER")]
    assert users == [str(RAY_USER)]
    assert not any(line.startswith(("ARG", "ENV")) and "TOKEN" in line for line in lines)
    ignored = (PROJECT / ".dockerignore").read_text().splitlines()
    assert {".git", ".venv", ".env*", "runs"} <= set(ignored)


# What is refused


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
    ],
)
def test_a_run_that_cannot_work_is_refused_before_it_is_sent(settings, overrides, sentence):
    with pytest.raises(UserError) as refusal:
        checked_run(job(**settings), overrides)
    assert sentence in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: SubmitConfig(name="My run"), "name must be at most 47 lower-case"),
        (lambda: SubmitConfig(name="a" * 48), "name must be at most 47 lower-case"),
        (lambda: SubmitConfig(name="a", form="pbs"), "form must be one of"),
        (lambda: SubmitConfig(name="a", env=["A B"]), "env must hold names of environment var"),
        (lambda: SubmitConfig(name="a", env=["MY_API_KEY"]), "put the name into secrets"),
        (lambda: SlurmConfig(partition="a\n#SBATCH --x"), "slurm.partition must be letters"),
        (lambda: KubeRayConfig(claim="A_b"), "kuberay.claim must be lower-case"),
        (lambda: NodeConfig(gpus=-1), "node.gpus must not be negative"),
    ],
)
def test_settings_outside_their_range_name_their_key(make, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}|{sentence}"):
        make()


class Answer(http.server.BaseHTTPRequestHandler):
    """A server that gives one answer to everything."""

    status, body = 404, b""

    def do_GET(self):
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def answering(monkeypatch):
    """Start a server that answers with a status; returns its address."""
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0123456789abcdef0123456789abcdef")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")
    servers = []

    def start(status, body=b""):
        handler = type("Given", (Answer,), {"status": status, "body": body})
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "sentence"),
    [
        (401, b"Unauthorized", "asks for a token and none was sent"),
        (403, b"Forbidden", "refused the token of RAY_AUTH_TOKEN or ~/.ray/auth_token"),
        (404, b"", "is no job server of Ray"),
        (500, b"", "is no job server of Ray"),
        (200, b"<html>", "is no job server of Ray"),
        (200, b'{"version": "4", "ray_version": "1.0.0"}', "is no job server of Ray"),
        (200, b'{"other": 1}', "is no job server of Ray"),
    ],
)
def test_what_answers_instead_of_a_job_server_is_named(answering, status, body, sentence):
    with pytest.raises(UserError) as refusal:
        connect(answering(status, body))
    message = str(refusal.value)
    assert sentence in message
    assert "\n" not in message
    assert "0123456789abcdef" not in message


def test_nobody_answering_is_one_sentence(monkeypatch):
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")
    with pytest.raises(UserError, match=r"^no job server answers at 'http://127.0.0.1:9' \(addr"):
        connect("http://127.0.0.1:9")
