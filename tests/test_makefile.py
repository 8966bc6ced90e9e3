"""What `make` installs where, told by the calls that stand-ins for Python write down."""

import shutil
import subprocess

import pytest

from tests.places import PROJECT

PYTHON = """#!/bin/bash
printf '<%s>' "${0##*/}" "$@" >> calls.txt
echo >> calls.txt
case "$1 $2" in
    "-c "*) [ "${0##*/}" = python ] || exit "${WRONG_PYTHON:-0}" ;;
    "-m venv")
        folder="${!#}"
        [ "$3" = --clear ] && rm -r "$folder"
        mkdir -p "$folder/bin"
        touch "$folder/pyvenv.cfg"
        cp "$0" "$folder/bin/python" ;;
    "-m pip") [ ! -e "${0%/*}/broken" ] ;;
esac
"""


@pytest.fixture
def folder(tmp_path):
    """A project of which `make` sees no more than it needs, and programs in its `path`."""
    (tmp_path / ".ci").mkdir()
    (tmp_path / "path").mkdir()
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(PROJECT / name, tmp_path)
    for name in ("constraints.txt", "constraints-gpu.txt"):
        shutil.copy(PROJECT / ".ci" / name, tmp_path / ".ci")
    write_program(tmp_path / "path" / "python3", PYTHON)
    write_program(tmp_path / "path" / "nvidia-smi", "#!/bin/bash\nexit 9\n")
    return tmp_path


def write_program(path, text):
    path.write_text(text)
    path.chmod(0o755)


def make(folder, *words, **variables):
    """Run make; returns its exit status, the end of its stderr and what Python was called with."""
    environ = {"PATH": f"{folder / 'path'}:/usr/bin:/bin", "HOME": str(folder), **variables}
    ended = subprocess.run(
        ["make", *words], cwd=folder, env=environ, capture_output=True, text=True, timeout=60
    )
    calls = folder / "calls.txt"
    made = calls.read_text().splitlines() if calls.exists() else []
    calls.unlink(missing_ok=True)
    return ended.returncode, ended.stderr, made


def make_environment(folder, torch, name=".venv"):
    packages = folder / name / "lib" / "python3.11" / "site-packages"
    (packages / f"torch-{torch}.dist-info").mkdir(parents=True)
    (packages / "torchvision-0.28.0.dist-info").mkdir()


@pytest.mark.parametrize(
    "words", [["gpu-check"], ["train", "DEVICE=gpu"], ["gpu-check", "DEVICE=cpu"]]
)
def test_packages_for_cpus_are_not_used_for_a_gpu(folder, words):
    make_environment(folder, "2.13.0+cpu")
    status, said, calls = make(folder, *words)
    assert (status, calls) == (2, [])
    sentence = "error: .venv holds the CPU packages, and DEVICE is gpu; use VENV=.venv-gpu"
    assert said.splitlines()[0] == sentence


@pytest.mark.parametrize("torch", ["2.13.0", "2.13.0+cu130"])
def test_packages_for_gpus_are_not_used_on_cpus(folder, torch):
    make_environment(folder, torch)
    (folder / ".venv" / ".ready").touch()
    status, said, calls = make(folder, "install")
    assert (status, calls) == (2, [])
    assert "holds the GPU packages, and DEVICE is cpu; use VENV=.venv-cpu" in said
    assert make(folder, "install", "DEVICE=gpu")[0] == 0


@pytest.mark.parametrize(
    ("words", "has_gpu", "device"),
    [([], False, "cpu"), ([], True, "gpu"), (["DEVICE=gpu"], False, "gpu"),
     (["DEVICE=cpu"], True, "cpu")],
)  # fmt: skip
def test_the_machine_or_the_user_says_for_what(folder, words, has_gpu, device):
    if has_gpu:
        write_program(folder / "path" / "nvidia-smi", "#!/bin/bash\n")
    status, _, calls = make(folder, "install", *words)
    assert status == 0
    installs = [call for call in calls if "<install>" in call and "<pip>=25>" not in call]
    file = {"cpu": ".ci/constraints.txt", "gpu": ".ci/constraints-gpu.txt"}[device]
    assert installs and all(f"<-c><{file}>" in call for call in installs)
    assert f"<.[{device}," in installs[-1]
    assert ("<torch==2.13.0+cpu>" in installs[0]) is (device == "cpu")
    # A GPU's kernels are compiled where there is one.
    assert any("<launch.evaluate>" in call for call in calls) is (has_gpu or device == "cpu")
    assert make(folder, "install", *words) == (0, "", [])


@pytest.mark.parametrize(
    "words", [["install", "DEVICE=gpu"], ["gpu-check"], ["wheels", "WHEELS=wheels"]]
)
def test_what_reads_the_data_of_the_experiments_for_gpus_comes_with_them(folder, words):
    _, _, calls = make(folder, *words)
    assert any("<.[gpu,hub" in call for call in calls)


def test_an_environment_that_does_not_work_is_made_anew_and_another_kept(folder):
    assert make(folder, "install")[0] == 0
    kept = folder / ".venv" / "kept"
    kept.touch()
    for name in ("Makefile", ".venv/bin/broken"):
        (folder / name).touch()
        made = [call for call in make(folder, "install")[2] if "<venv>" in call]
        assert kept.exists() is (name == "Makefile")
        assert made == ([] if name == "Makefile" else ["<python3><-m><venv><--clear><.venv>"])
        (folder / ".venv" / ".ready").unlink()


def test_a_folder_that_is_no_environment_is_not_cleared(folder):
    mine = folder / "mine" / "file"
    mine.parent.mkdir()
    mine.touch()
    calls = make(folder, "install", "VENV=mine")[2]
    assert "<python3><-m><venv><mine>" in calls
    assert mine.exists()


def test_another_python_is_refused_in_a_sentence(folder):
    status, said, calls = make(folder, "install", WRONG_PYTHON="1")
    assert status == 2
    assert said.startswith("error: Python 3.11, 3.12 or 3.13 is needed: make PYTHON=python3.11\n")
    assert not any("<-m>" in call for call in calls)


def test_paths_may_have_spaces(folder):
    words = ["VENV=my env", "WHEELS=my wheels", "MODEL=my model", "OUT=my out.json"]
    status, _, calls = make(folder, "gpu-check", *words)
    assert status == 0
    assert "<python3><-m><venv><my env>" in calls
    assert all("<--find-links><my wheels>" in call for call in calls if "<install>" in call)
    assert "<launch.gpu_check><out=my out.json><model=my model>" in calls[-1]
    assert "<-d><my wheels>" in make(folder, "wheels", *words)[2][0]
    for wanted in (True, False):
        assert bool(make(folder, "install", *words)[2]) is wanted
    make(folder, "clean", *words)
    assert not (folder / "my env").exists()
