"""What an engine keeps among temporary files lies in one folder, and is gone with it."""

import getpass
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from multiprocessing import connection
from pathlib import Path

import pytest

from rollout.engines import files
from tests.places import PROJECT


@pytest.fixture
def place(tmp_path, monkeypatch):
    # A name as short as a machine's own.
    short = Path(tempfile.mkdtemp(prefix="t-", dir="/tmp"))
    monkeypatch.setattr(tempfile, "tempdir", str(short))
    monkeypatch.setenv("RAY_RAYLET_PID", "4711")
    for name in ("TMPDIR", "TORCHINDUCTOR_CACHE_DIR"):
        # Set first, so that what comes to be set is taken back.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    files.folder.cache_clear()
    yield short
    files.folder.cache_clear()
    short.rmdir()


def test_what_is_made_by_it_and_its_processes_lies_in_its_folder(place):
    with files.in_folder():
        own = tempfile.mkdtemp()
        told = subprocess.run(
            [sys.executable, "-c", "import tempfile; print(tempfile.gettempdir())"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        # Compiled code is worth keeping.
        assert os.environ["TORCHINDUCTOR_CACHE_DIR"].startswith(f"{place}/torchinductor_")
    assert Path(own).parent == Path(told.stdout.strip()) == Path(files.folder())
    assert Path(files.folder()).parent == place
    assert tempfile.gettempdir() == str(place) and "TMPDIR" not in os.environ
    files.remove()


def test_a_user_whom_the_list_of_users_lacks_gets_a_name(place, monkeypatch):
    def lacking(uid):
        raise KeyError(uid)

    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(pwd, "getpwuid", lacking)
    with files.in_folder():
        assert os.environ["TORCHINDUCTOR_CACHE_DIR"].endswith(f"/torchinductor_uid_{os.getuid()}")
        assert getpass.getuser() == f"uid_{os.getuid()}"
    files.remove()


def test_those_of_killed_engines_are_known_by_the_raylet(place):
    first = files.folder()
    files.folder.cache_clear()
    second = files.folder()
    Path(second, "socket").touch()
    files.remove_left(471)
    assert Path(first).exists()
    files.remove_left(4711)
    assert not any(place.iterdir())


def test_the_next_engine_removes_those_of_processes_that_are_gone(place):
    program = (
        "import os, sys\n"
        "from rollout.engines import files\n"
        "print(files.folder(), flush=True)\n"
        "sys.stdin.read()\n"
        "os._exit(9)\n"
    )
    engines = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=PROJECT,
            env={**os.environ, "TMPDIR": str(place)},
        )
        for _ in range(2)
    ]  # fmt: skip
    gone, lives = (Path(engine.stdout.readline().strip()) for engine in engines)
    engines[0].communicate()
    assert gone.exists() and lives.exists()
    unknown = place / "engine-1-of-others"
    unknown.mkdir()
    assert Path(files.folder()).exists()
    assert not gone.exists() and lives.exists() and unknown.exists()
    engines[1].communicate()
    files.remove()
    shutil.rmtree(lives)
    unknown.rmdir()


def test_a_socket_has_room_wherever_temporary_files_lie(monkeypatch):
    for length in (files.LONGEST, files.LONGEST + 1, 300):
        monkeypatch.setattr(tempfile, "tempdir", "/" + "x" * (length - 1))
        found = f"{files._place()}/engine-4194304-abcdefgh/01234567-89ab-cdef-0123-456789abcdef"
        assert len(found) <= 107
    assert files._place() == Path("/tmp")


def test_the_server_of_forks_listens_there():
    program = (
        "from rollout.engines import files, fork_server\n"
        "fork_server.IMPORTED = ('colorsys',)\n"
        "from multiprocessing import forkserver\n"
        "with files.in_folder():\n"
        "    fork_server.begin(compiling=True)\n"
        "print(files.folder(), forkserver._forkserver._forkserver_address)\n"
        "files.remove()\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=PROJECT
    )
    assert not told.stderr, "nothing is removed twice"
    folder, address = told.stdout.split()
    assert address.startswith(f"{folder}/pymp-")
    assert not Path(folder).exists() and connection.address_type(address) == "AF_UNIX"
