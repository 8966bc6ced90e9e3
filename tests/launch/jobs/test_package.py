"""What a job takes along, and the pins of the image that takes its place."""

import os
import re
import subprocess
import sys
import tomllib
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution, distributions, entry_points

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from launch.cli.refusals import UserError
from launch.jobs.package import MAX_BYTES, metadata_files, own_files, pack, packed_files
from tests.places import PROJECT


def test_the_packed_folder_is_an_installed_project(tmp_path):
    """With the folder on the path, Python finds the entry points that installing would make."""
    number, size = pack(PROJECT, tmp_path)
    assert number > 500 and 0 < size < 100e6
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
        "first/config.yaml": "",
        "first/metrics.jsonl": "",
        "mine/new.yaml": "",
    }.items():
        (project / name).parent.mkdir(exist_ok=True)
        (project / name).write_text(text)
    git = ["git", "-C", str(project)]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "pyproject.toml", "known.txt", "deleted.py"], check=True)
    (project / "deleted.py").unlink()
    taken = ["known.txt", "mine/new.yaml", "new.py", "pyproject.toml"]
    assert packed_files(project) == taken
    packed = tmp_path / "packed"
    packed.mkdir()
    pack(project, packed)
    assert sorted(path.name for path in packed.iterdir()) == [
        "a_b-1.0.dist-info",
        "known.txt",
        "mine",
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


def test_what_is_pinned_takes_every_python_that_the_project_takes():
    """Debian 12 has Python 3.11.2, Ubuntu 24.04 has 3.12.3."""
    lines = (PROJECT / ".ci" / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line)
    asked = 0
    for name, pin in pins.items():
        with suppress(PackageNotFoundError):
            found = distribution(name)
            takes = SpecifierSet(found.metadata.get("Requires-Python") or "")
            if found.version == pin:
                asked += 1
                for python in ("3.11.0", "3.12.0", "3.13.0"):
                    assert python in takes, f"{name} {pin} needs Python {takes}"
    assert asked > 100


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_the_pins_are_one_version_each_for_every_python(python):
    for file in ("constraints.txt", "constraints-gpu.txt"):
        lines = (PROJECT / ".ci" / file).read_text().splitlines()
        pins = [Requirement(line) for line in lines if not line.startswith("#")]
        names = [
            pin.name
            for pin in pins
            if pin.marker is None or pin.marker.evaluate({"python_version": python})
        ]
        assert len(set(names)) == len(names) == len({pin.name for pin in pins})


def test_the_users_folder_goes_along_and_replaces_nothing(tmp_path):
    project, own, target = (tmp_path / name for name in ("project", "own", "target"))
    for folder, files in {
        project: {"pyproject.toml": '[project]\nname = "a"\nversion = "2"\n', "conf/a.yaml": "a"},
        own: {
            "mine.py": "", "conf/a.yaml": "b", "conf/b.yaml": "", "rows.jsonl": "", "key.pem": "",
            ".env": "", ".git/x.py": "", "runs/r/config.yaml": "", "venv/pyvenv.cfg": "",
            "venv/lib/y.py": "", "mine/config.yaml": "", "mine/metrics.jsonl": "",
            "models/a/model.safetensors.index.json": "", "models/a/c.yaml": "",
            "models/mine.py": "", "b/model.safetensors": "", "b/c.yaml": "",
        },
        target: {},
    }.items():  # fmt: skip
        folder.mkdir()
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
    subprocess.run(["git", "init", "-q"], cwd=project, check=True)
    subprocess.run(["git", "add", "."], cwd=project, check=True)
    kept = ["conf/a.yaml", "conf/b.yaml", "mine.py", "models/mine.py", "rows.jsonl"]
    assert own_files(own) == kept
    pack(project, target, own)
    assert (target / "mine.py").exists() and (target / "conf" / "b.yaml").exists()
    assert (target / "conf" / "a.yaml").read_text() == "a"
    os.truncate(own / "rows.jsonl", MAX_BYTES + 1)
    with pytest.raises(UserError, match=r"must not exceed 100 MiB, .* largest is 'rows\.jsonl'"):
        pack(project, target, own)
