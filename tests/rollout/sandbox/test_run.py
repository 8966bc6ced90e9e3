"""What untrusted code tries in a sandbox ends there, in every form that this machine has."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from rollout.sandbox import run as module
from rollout.sandbox.config import SandboxConfig
from rollout.sandbox.run import Outcome, SandboxError, fault_of, finish, run, started, working_form
from tests.places import PROJECT

FORMS = ("bubblewrap", "namespaces", "weak")
ISOLATED = FORMS[:2]
# The clock begins with the code: however slow a sandbox starts, a little of the code is run.
SHORT = SandboxConfig(wall_seconds=0.2, output_kib=64)
LONG = SandboxConfig(wall_seconds=60.0, cpu_seconds=30, output_kib=64)


def skip_unless_here(form):
    if fault := fault_of(form):
        pytest.skip(f"{form} does not work here: {fault}")


def ran(form, code, config=LONG, mode="program", stdin=""):
    skip_unless_here(form)
    code = textwrap.dedent(code)
    with started(code, config, mode=mode, stdin=stdin, form=form) as sandbox:
        return finish(sandbox, config)


@pytest.mark.parametrize("form", FORMS)
def test_a_program_reads_writes_fails_and_ends_as_anywhere(form):
    read = ran(form, "import math, sys\nprint(math.prod(map(int, input().split())))", stdin="6 7\n")
    assert read == Outcome("42\n", "", 0, "exit")
    failed = ran(form, "print(1)\ndef f():\n    return 1 / 0\nf()")
    assert (failed.stdout, failed.code, failed.ok) == ("1\n", 1, False)
    assert 'File "code.py", line 3, in f' in failed.stderr and "rollout" not in failed.stderr
    assert ran(form, "import sys; sys.exit(3)").code == 3
    assert ran(form, "print(1)\nexit()\nprint(2)") == Outcome("1\n", "", 0, "exit")
    assert ran(form, "quit(3)").code == 3
    assert ran(form, "import os; os.kill(os.getpid(), 11)").code == 128 + signal.SIGSEGV


def test_a_program_knows_its_file_and_prints_numbers_of_any_length():
    assert ran("weak", "print(len(str(10**5000)), __file__)").stdout == "5001 code.py\n"


def test_a_cell_shows_what_its_last_line_is_worth():
    assert ran("weak", "x = 6\nx * 7", mode="cell").stdout == "42\n"
    assert ran("weak", "x = 6\nNone", mode="cell").stdout == ""
    told = ran("weak", "x = (", mode="cell").stderr
    assert told.startswith('  File "code.py", line 1\n') and "SyntaxError" in told


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="Python itself bounds such recursion")
@pytest.mark.parametrize("form", FORMS)
def test_recursion_through_a_cache_may_be_deep(form):
    code = """
    import functools, sys
    sys.setrecursionlimit(10**6)
    @functools.cache
    def count(n): return n and 1 + count(n - 1)
    print(count(100_000))
    """
    assert ran(form, code).stdout == "100000\n"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("code", "ended"),
    [
        ("while True: pass", "time"),
        ("import time; time.sleep(1000)", "time"),
        ("import signal\nsignal.signal(15, lambda *a: 0)\nwhile True: pass", "time"),
        ("while True: print('x' * 1000)", "output"),
        ("import sys\nwhile True: sys.stderr.write('x' * 1000)", "output"),
    ],
)  # fmt: skip
def test_what_has_no_end_is_ended(form, code, ended):
    outcome = ran(form, code, SHORT if ended == "time" else LONG)
    assert outcome.ended == ended and not outcome.ok
    assert len(outcome.stdout) <= 64 * 1024


@pytest.mark.parametrize("form", FORMS)
def test_resources_are_limited(form):
    assert "MemoryError" in ran(form, "x = bytearray(10 * 2**30)").stderr
    assert "File too large" in ran(
        form,
        """
        import signal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        with open("big", "wb") as file:
            for _ in range(100):
                file.write(bytes(2**20))
                file.flush()
        """,
    ).stderr.replace("No space left on device", "File too large")
    assert "Too many open files" in ran(form, "a = [open('f', 'w') for _ in range(1000)]").stderr
    slow = SandboxConfig(wall_seconds=60, cpu_seconds=1)
    assert ran(form, "while True: pass", slow).code in (128 + signal.SIGKILL, 128 + signal.SIGXCPU)


def test_files_without_content_are_few():
    outcome = ran(
        "namespaces",
        """
        import os
        for number in range(100_000):
            os.close(os.open(str(number), os.O_CREAT | os.O_WRONLY))
        """,
    )
    assert "No space left on device" in outcome.stderr


@pytest.mark.parametrize("form", FORMS)
def test_a_fork_bomb_has_few_processes_and_leaves_none(form):
    if form == "weak" and os.geteuid() != 0:
        pytest.skip("without namespaces the limit counts all that this user runs")
    config = SandboxConfig(wall_seconds=60.0, processes=8)
    code = """
    import os, time
    made = 0
    try:
        for _ in range(100):
            if os.fork() == 0:
                os.setsid()
                time.sleep(1000)
            made += 1
    except OSError as error:
        print(error.strerror, made < 8, flush=True)
    while True: print("It is ended for what it says, with all that it began.")
    """
    skip_unless_here(form)
    with started(textwrap.dedent(code), config, mode="program", form=form) as sandbox:
        outcome = finish(sandbox, config)
    assert outcome.stdout.startswith("Resource temporarily unavailable True\n")
    assert outcome.ended == "output"
    deadline = time.monotonic() + 20
    while (left := processes_of(sandbox.user)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left
    bomb = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"
    assert ran(form, bomb, SHORT).ended == "time"


def test_what_has_lost_its_first_process_is_ended_all_the_same():
    code = """
    import os, time
    if os.fork() == 0:
        os.setsid()
    print(os.getpid(), flush=True)
    time.sleep(1000)
    """
    skip_unless_here("weak")
    with started(textwrap.dedent(code), SHORT, mode="program", form="weak") as sandbox:
        left = [int(sandbox.process.stdout.readline()) for _ in range(2)]
        # As code does where it has the same user.
        os.kill(sandbox.process.pid, signal.SIGKILL)
        assert finish(sandbox, SHORT).ended == "time"
    deadline = time.monotonic() + 20
    while (alive := [pid for pid in left if is_there(pid)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive


def is_there(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def processes_of(user):
    """Where root runs the tests, each sandbox has a user of its own."""
    listed = subprocess.run(["ps", "-eo", "uid=,pid="], capture_output=True, text=True).stdout
    return [line for line in listed.splitlines() if line.split()[0] == str(user)]


SECRET = "the tests of the run"


@pytest.mark.parametrize("form", ISOLATED)
def test_nothing_of_the_machine_can_be_read_or_written(form, tmp_path, monkeypatch):
    tmp_path.chmod(0o777)
    (tmp_path / "run.json").write_text(SECRET)
    (tmp_path / "run.json").chmod(0o666)
    monkeypatch.setenv("API_KEY", SECRET)
    outcome = ran(
        form,
        f"""
        import glob, os, pathlib
        assert "API_KEY" not in os.environ, os.environ
        for path in ({str(tmp_path / "run.json")!r}, "/etc/passwd", "/root/.bashrc",
                     f"/proc/{{os.getppid()}}/environ", {str(PROJECT / "README.md")!r}):
            try:
                open(path).read()
            except OSError:
                continue
            raise SystemExit(f"{{path}} can be read")
        for folder in ("/", "/usr", "/etc", "/dev", os.path.dirname(os.__file__)):
            try:
                open(folder + "/mine", "w")
            except OSError:
                continue
            raise SystemExit(f"{{folder}} can be written")
        pathlib.Path("mine").write_text("yes")
        print(os.listdir())
        """,
    )
    assert (outcome.stdout, outcome.stderr, outcome.code) == ("['mine']\n", "", 0)


@pytest.mark.parametrize("form", ISOLATED)
def test_nobody_is_reached(form):
    skip_unless_here(form)
    with subprocess.Popen(
        [sys.executable, "-c", "import socket, time; s = socket.create_server(('127.0.0.1', 0));"
         "print(s.getsockname()[1], flush=True); time.sleep(100)"],
        stdout=subprocess.PIPE, text=True,
    ) as server:  # fmt: skip
        port = int(server.stdout.readline())
        outcome = ran(
            form,
            f"""
            import socket
            for address in (("127.0.0.1", {port}), ("10.255.255.1", 80)):
                try:
                    socket.create_connection(address, timeout=1)
                except OSError as error:
                    print(error.errno in (101, 111))
            """,
        )
        server.kill()
    assert outcome.stdout == "True\nTrue\n"


@pytest.mark.parametrize("form", FORMS)
def test_what_kills_all_it_can_kills_nobody_else(form):
    code = """
    import os, signal
    for victim in (os.getppid(), 1, -1):
        try:
            os.kill(victim, signal.SIGKILL)
        except OSError:
            pass
    print("alive", flush=True)
    """
    if form == "weak" and os.geteuid() != 0:
        pytest.skip("without namespaces all of this user's processes can be reached")
    assert ran(form, code).stdout == "alive\n"


@pytest.mark.parametrize("form", FORMS)
def test_rights_are_given_up_for_good(form):
    outcome = ran(
        form,
        """
        import ctypes, os, resource
        print(os.getuid() != 0, ctypes.CDLL(None).unshare(0x20000), ctypes.CDLL(None).setuid(0))
        try:
            resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
        except ValueError:
            print("limited")
        """,
    )
    assert outcome.stdout == "True -1 -1\nlimited\n"


def test_where_no_form_works_the_settings_are_named(monkeypatch):
    monkeypatch.setattr(module, "fault_of", lambda form: "" if form == "weak" else "not here")
    with pytest.raises(SandboxError, match=r"sandbox\.form=auto .* sandbox\.allow_weak=true") as no:
        working_form("auto", False)
    assert "\n" not in str(no.value)
    assert working_form("auto", True) == "weak"


def test_a_sandbox_that_cannot_be_set_up_is_no_fault_of_the_code():
    impossible = SandboxConfig(memory_mib=1, wall_seconds=5)
    skip_unless_here("namespaces")
    monkey = SandboxConfig(scratch_mib=1)
    assert run("print(1)", monkey).ok
    assert not run("x = bytearray(2**23)", impossible).ok


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"form": "docker"}, r"^sandbox\.form must be one of auto.*got 'docker'"),
        ({"wall_seconds": 0}, r"^sandbox\.wall_seconds must be positive, got 0"),
        ({"processes": 0}, r"^sandbox\.processes must be at least 1, got 0"),
    ],
)
def test_bad_settings_are_refused(settings, told):
    with pytest.raises(ValueError, match=told):
        SandboxConfig(**settings)
