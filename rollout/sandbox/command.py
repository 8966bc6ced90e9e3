"""The command that starts a sandbox, and what of the machine is shown in it."""

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from rollout.sandbox.config import SandboxConfig
from rollout.sandbox.isolate import DEVICES, SCRATCH

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": SCRATCH, "TMPDIR": SCRATCH, "LANG": "C.UTF-8"}


def shown_paths() -> list[str]:
    """Paths that code may read: Python, what it needs, and this package."""
    fixed = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache")
    paths = [path for path in fixed if os.path.exists(path)]
    own = [os.path.realpath(sys.base_prefix), sys.base_prefix, str(Path(__file__).parent)]
    return paths + [p for p in dict.fromkeys(own) if not p.startswith("/usr/") and p != "/usr"]


def command(
    form: str, config: SandboxConfig, job_fd: int, ready_fd: int, link: int
) -> Sequence[str]:
    """Return what starts a sandbox: Python, and what is around it in a form that has that.

    Args:
        form: Which.
        config: Its limits.
        job_fd: See `rollout.sandbox.init.main`, as of the others.
        ready_fd: Where it says that it is set up.
        link: A connection; -1 for none.
    """
    return [*_around(form, config), *_python(form, job_fd, ready_fd, link)]


def _python(form: str, job_fd: int, ready_fd: int, link: int) -> list[str]:
    start = (
        f"import sys; sys.path.append({str(ROOT)!r}); from rollout.sandbox.init import main; "
        f"sys.path.pop(); main({form!r}, {job_fd}, {ready_fd}, {link})"
    )
    python = os.path.join(sys.base_prefix, "bin", f"python3.{sys.version_info.minor}")
    # Numbers of many digits are read and printed as by the judges that tests come from.
    return [python, "-I", "-S", "-B", "-X", "int_max_str_digits=0", "-c", start]


def _around(form: str, config: SandboxConfig) -> Sequence[str]:
    if form != "bubblewrap":
        return ()
    # It is started without this process's environment, and so without its PATH.
    words = [shutil.which("bwrap") or "bwrap", "--die-with-parent", "--new-session", "--clearenv"]
    words += [
        "--unshare-ipc",
        "--unshare-pid",
        "--unshare-net",
        "--unshare-uts",
        "--unshare-cgroup-try",
    ]
    if os.geteuid() == 0:
        # Root needs no namespace of users, but the right to become somebody else.
        words += ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        words += ["--unshare-user"]
    for name, value in ENVIRONMENT.items():
        words += ["--setenv", name, value]
    # What leads to a folder that is shown would be as closed as it is outside, where it is root's.
    above = {str(folder) for path in shown_paths() for folder in Path(path).parents} - {"/"}
    for folder in sorted(above):
        words += ["--perms", "0755", "--dir", folder]
    for path in shown_paths():
        link = os.path.islink(path)
        words += ["--symlink", os.readlink(path), path] if link else ["--ro-bind", path, path]
    size = config.scratch_mib * 2**20
    for name in DEVICES:
        words += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
    words += ["--perms", "1777", "--size", str(size), "--tmpfs", SCRATCH]
    return [*words, "--chdir", SCRATCH, "--remount-ro", "/", "--"]
