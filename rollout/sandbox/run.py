"""Runs code that nobody trusts, and says what it wrote and how it ended.

    run(code) -> bubblewrap or namespaces -> rollout.sandbox.init -> the code -> Outcome

Each run has a session and a process group of its own, a file system with Python and nothing else,
read-only but for an empty scratch folder, no network, no environment, a user that owns nothing, the
limits of `SandboxConfig`, and not the system calls that `rollout.sandbox.refused` lists. When it
ends, is late or writes too much, all of it is killed.

Defended: everything that user, kernel and limits keep apart. Not defended: a fault of the kernel
itself, in calls that are not refused; memory beyond `memory_mib` x `processes` in all, to which
comes what the kernel holds for open files (of a socket, up to twice net.core.wmem_max bytes) and,
in bubblewrap's form, for empty files in the scratch folder; other programs' share of processors.
The weak form keeps the limits of each process and, where the kernel has filters, the refused calls;
without these a process that leaves its group, and kills the one that watches it, outlives its time.
"""

import contextlib
import json
import os
import secrets
import selectors
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache

from rollout.sandbox.command import ENVIRONMENT, command, shown_paths
from rollout.sandbox.config import SandboxConfig

_FIRST_USER, _NUM_USERS = 2**30, 2**29
_START_SECONDS = 30.0
"""On a machine that is busy a start may take seconds; it is no part of the code's time."""
_END_SECONDS = 5.0
"""For ending all that a sandbox started; what holds it up is killed then."""


class SandboxError(RuntimeError):
    """The sandbox could not be set up, which says nothing about the code."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended.

    Example: print("hello", end="") in a sandbox.

        Outcome(stdout="hello", stderr="", code=0, ended="exit")
    """

    stdout: str
    stderr: str
    code: int
    """Exit code; 128 and the signal if one ended it."""
    ended: str
    """"exit", "time" or "output": by itself, or because it was late or wrote too much."""

    @property
    def ok(self) -> bool:
        """Whether it ended by itself and without complaint."""
        return self.ended == "exit" and self.code == 0


@dataclass(slots=True, eq=False)
class Started:
    """A sandbox at work."""

    process: subprocess.Popen[bytes]
    ready: int
    """Where its first process says that all is set up."""
    user: int
    """Whom root becomes in it."""


def run(code: str, config: SandboxConfig, *, stdin: str = "", mode: str = "program") -> Outcome:
    """Run a program in a sandbox; blocks until it has ended.

    Args:
        code: Python.
        config: The limits.
        stdin: What it reads.
        mode: See `rollout.sandbox.init`.

    Raises:
        SandboxError: If no sandbox can be set up here, with what to do.
    """
    with started(code, config, stdin=stdin, mode=mode) as sandbox:
        return finish(sandbox, config)


@contextlib.contextmanager
def started(
    code: str,
    config: SandboxConfig,
    *,
    mode: str,
    stdin: str = "",
    link: int = -1,
    form: str | None = None,
) -> Iterator[Started]:
    """Start a sandbox; at the end of the block nothing is left of it.

    Args:
        code: Python.
        config: The limits.
        mode: See `rollout.sandbox.init`.
        stdin: What it reads.
        link: A socket that it inherits; -1 for none.
        form: One of the forms; None for what `working_form` finds.
    """
    form = form or working_form(config.form, config.allow_weak)
    user = _FIRST_USER + secrets.randbelow(_NUM_USERS)
    job = {
        "mode": mode,
        "code": code,
        "limits": asdict(config),
        "user": user,
        "shown": shown_paths(),
    }
    # Nobody reads what a module writes whose functions are called; a full pipe would hold it up.
    heard = subprocess.DEVNULL if mode == "serve" else subprocess.PIPE
    ours, theirs = os.pipe()
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, ours)
        scratch = None
        try:
            job_fd = stack.enter_context(_in_memory(json.dumps(job)))
            stdin_fd = stack.enter_context(_in_memory(stdin))
            if form == "weak":
                scratch = tempfile.mkdtemp(prefix="sandbox-")
                stack.callback(shutil.rmtree, scratch, ignore_errors=True)
                if os.geteuid() == 0:
                    os.chown(scratch, user, user)
            process = subprocess.Popen(
                command(form, config, job_fd, theirs, link),
                stdin=stdin_fd,
                stdout=heard,
                stderr=heard,
                pass_fds=[job_fd, theirs, *([link] if link >= 0 else [])],
                env=ENVIRONMENT | ({"HOME": scratch, "TMPDIR": scratch} if scratch else {}),
                cwd=scratch or "/",
                start_new_session=True,
            )
        finally:
            os.close(theirs)
        stack.callback(_kill, process)
        yield Started(process, ours, user)


def finish(sandbox: Started, config: SandboxConfig) -> Outcome:
    """Read what a sandbox writes until it ends, is late, or writes too much.

    Raises:
        SandboxError: If it could not be set up.
    """
    process = sandbox.process
    assert process.stdout is not None and process.stderr is not None
    written = {process.stdout: bytearray(), process.stderr: bytearray()}
    most, ended, ready = config.output_kib * 1024, "exit", False
    deadline = time.monotonic() + _START_SECONDS
    with selectors.DefaultSelector() as selector:
        selector.register(sandbox.ready, selectors.EVENT_READ)
        for file in written:
            selector.register(file, selectors.EVENT_READ)
        while len(selector.get_map()) > 0 and ended == "exit":
            events = selector.select(max(deadline - time.monotonic(), 0))
            if not events and time.monotonic() >= deadline:
                ended = "time"
            for key, _ in events:
                chunk = os.read(key.fd, 65536)
                if not chunk:
                    selector.unregister(key.fileobj)
                elif key.fd == sandbox.ready:
                    ready, deadline = True, time.monotonic() + config.wall_seconds
                else:
                    written[key.fileobj] += chunk  # type: ignore[index]
                    if len(written[key.fileobj]) > most:  # type: ignore[index]
                        ended = "output"
    if ended == "exit":
        _ends_within(process, max(deadline - time.monotonic(), 0.1))
    _kill(process)
    stdout, stderr = (bytes(each[:most]).decode(errors="replace") for each in written.values())
    if not ready:
        raise SandboxError(stderr.strip()[-300:] or f"it took longer than {_START_SECONDS:g} s")
    code = process.returncode
    return Outcome(stdout, stderr, code if code >= 0 else 128 - code, ended)


def working_form(wanted: str, allow_weak: bool) -> str:
    """Return the form of sandbox that this machine has, once tried.

    Args:
        wanted: `SandboxConfig.form`.
        allow_weak: Whether limits alone will do.

    Raises:
        SandboxError: If none works, with why and what to do.
    """
    forms = ("bubblewrap", "namespaces") if wanted == "auto" else (wanted,)
    faults = []
    for form in forms:
        fault = fault_of(form)
        if not fault:
            return form
        faults.append(f"{form}: {fault}")
    if allow_weak and not (fault := fault_of("weak")):
        return "weak"
    raise SandboxError(
        f"sandbox.form={wanted} works on this machine in no form ({'; '.join(faults)}): install "
        "bubblewrap, allow user namespaces, or set sandbox.allow_weak=true to run code of the "
        "policy with limits alone"
    )


@cache
def fault_of(form: str) -> str:
    """Say why a form of sandbox does not work here; "" if it does."""
    if form == "bubblewrap" and shutil.which("bwrap") is None:
        return "there is no bwrap"
    config = SandboxConfig()
    try:
        with started("print(6 * 7)", config, mode="program", form=form) as sandbox:
            outcome = finish(sandbox, config)
    except (SandboxError, OSError) as error:
        return " ".join(str(error).split())
    return "" if outcome.stdout == "42\n" else f"a first program wrote {outcome.stderr[-200:]!r}"


@contextlib.contextmanager
def _in_memory(text: str) -> Iterator[int]:
    descriptor = os.memfd_create("job")
    try:
        body = memoryview(text.encode(errors="surrogatepass"))
        while body:
            body = body[os.write(descriptor, body) :]
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a sandbox with all that is in its group; harmless when it has been ended.

    Its first process may be dead already, killed by what it ran; it is taken away only after the
    others, for until then no other group has its number.
    """
    if process.returncode is None:
        os.kill(process.pid, signal.SIGTERM)
        _ends_within(process, _END_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for file in (process.stdout, process.stderr):
        if file is not None:
            file.close()


def _ends_within(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Wait for a process to end, and leave it to be taken away."""
    deadline, pause = time.monotonic() + seconds, 0.0005
    while time.monotonic() < deadline:
        if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG):
            return
        time.sleep(pause)
        pause = min(2 * pause, 0.05)
