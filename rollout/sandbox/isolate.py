"""What a process gives up before it runs untrusted code: the machine around it, rights, resources.

Runs inside a sandbox's first process, as `rollout.sandbox.init` calls it; the standard library
only. Linux system calls stand with their constants, since Python 3.11 has few of them by name.
"""

import contextlib
import ctypes
import os
import resource
import signal
import stat
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

NEW_USER = 0x10000000
NEW_OTHERS = 0x20000 | 0x2000000 | 0x4000000 | 0x8000000 | 0x20000000 | 0x40000000
"""Namespaces of mounts, cgroups, host names, System V objects, processes and the network."""
_MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_PRIVATE = 2, 4, 4096, 16384, 1 << 18
_MNT_DETACH = 2
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 36, 38
_SYS_MOUNT_SETATTR = 442
_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_SYS_CAPSET = {"x86_64": 126, "aarch64": 91}
LIBC = ctypes.CDLL(None, use_errno=True)
SCRATCH = "/scratch"
FILES_PER_MIB = 256
"""Of the scratch folder."""
DEVICES = ("null", "zero", "urandom")
_STACK_MIB = 120
"""Below a process's stack the kernel leaves 128 free."""
NOBODY = 1000
"""What a user who is not root is called inside."""


def check(result: int, what: str) -> None:
    """Raise what a call of the C library has failed with, if it has."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
    result = LIBC.mount(
        source.encode(),
        target.encode(),
        kind.encode() if kind else None,
        ctypes.c_ulong(flags),
        data.encode(),
    )
    check(result, f"mount {target}")


def _read_only(path: str, *, with_children: bool) -> None:
    attributes = (ctypes.c_uint64 * 4)(1 | 2 | 4, 0, 0, 0)
    flags = 0x8000 if with_children else 0
    result = LIBC.syscall(
        _SYS_MOUNT_SETATTR, -100, path.encode(), flags, ctypes.byref(attributes), 32
    )
    check(result, f"mount_setattr {path}")


def leave_the_machine(shown: Sequence[str], scratch_mib: int) -> None:
    """Enter namespaces in which only some folders are there to read, and no network.

    Args:
        shown: Paths that are shown, read-only, where they are.
        scratch_mib: Size of the one folder that can be written.

    Raises:
        OSError: If the system refuses.
    """
    _unshare()
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    _mount("tmpfs", "/tmp", "tmpfs", _MS_NOSUID | _MS_NODEV, "size=1m,mode=755")
    os.chdir("/tmp")
    os.mkdir("old")
    check(LIBC.syscall(_SYS_PIVOT_ROOT[os.uname().machine], b".", b"old"), "pivot_root")
    os.chdir("/")
    for path in shown:
        _show(path)
    os.makedirs("/dev", exist_ok=True)
    for name in DEVICES:
        with open(f"/dev/{name}", "wb"):
            pass
        _mount(f"/old/dev/{name}", f"/dev/{name}", None, _MS_BIND)
    os.mkdir(SCRATCH)
    check(LIBC.umount2(b"/old", _MNT_DETACH), "umount the machine's files")
    os.rmdir("/old")
    _read_only("/", with_children=False)
    # Files take memory of the kernel's that is no part of their size.
    size = f"size={scratch_mib}m,nr_inodes={FILES_PER_MIB * scratch_mib},mode=1777"
    _mount("tmpfs", SCRATCH, "tmpfs", _MS_NOSUID | _MS_NODEV, size)
    os.chdir(SCRATCH)


def _unshare() -> None:
    if os.geteuid() == 0 and LIBC.unshare(NEW_OTHERS) == 0:
        return
    user, group = os.geteuid(), os.getegid()
    check(LIBC.unshare(NEW_USER | NEW_OTHERS), "unshare")
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{NOBODY} {user} 1"),
        ("gid_map", f"{NOBODY} {group} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def _show(path: str) -> None:
    source = f"/old{path}"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.islink(source):
        os.symlink(os.readlink(source), path)
        return
    if stat.S_ISDIR(os.stat(source).st_mode):
        os.makedirs(path, exist_ok=True)
    else:
        with open(path, "wb"):
            pass
    _mount(source, path, None, _MS_BIND | _MS_REC)
    _read_only(path, with_children=True)


def supervise(child: int) -> NoReturn:
    """Wait for a child's end or for SIGTERM, end all that is left, and end with its code."""
    signal.signal(signal.SIGTERM, lambda *_: _end(child, 128 + signal.SIGTERM))
    status = 0
    while True:
        try:
            ended, status = os.waitpid(-1, 0)
        except ChildProcessError:
            break
        if ended == child:
            break
    code = os.waitstatus_to_exitcode(status)
    _end(None, code if code >= 0 else 128 - code)


def _end(child: int | None, code: int) -> NoReturn:
    listed = f"/proc/self/task/{os.getpid()}/children"
    while True:
        children = [child] if child else []
        with contextlib.suppress(OSError), open(listed) as file:
            children = [int(pid) for pid in file.read().split()]
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            os._exit(code)


def fork_supervised(*, own_processes: bool) -> None:
    """Return in a child of which this process, which never returns, takes care.

    Args:
        own_processes: Whether the child is the first of a namespace of processes. It then stays as
            the one whom nothing inside can kill, and a grandchild returns.
    """
    LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    parent = os.getpid()
    child = os.fork()
    if child:
        supervise(child)
    LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if not own_processes and os.getppid() != parent:
        os._exit(1)
    if own_processes and (grandchild := os.fork()):
        while True:
            ended, status = os.wait()
            if ended == grandchild:
                code = os.waitstatus_to_exitcode(status)
                # All that is left in the namespace ends with its first process.
                os._exit(code if code >= 0 else 128 - code)


def give_up_rights(user: int) -> None:
    """Become nobody, for good.

    Args:
        user: Whom root becomes: a number that no other sandbox has, for processes are counted by
            user.
    """
    # Root's user is bound by no number of processes.
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    else:
        header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
        number = _SYS_CAPSET[os.uname().machine]
        result = LIBC.syscall(number, ctypes.byref(header), ctypes.byref(none))
        check(result, "capset")
    LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def limit_resources(limits: Mapping[str, Any]) -> None:
    """Bound what this process may use, for good.

    Args:
        limits: The fields of `rollout.sandbox.config.SandboxConfig`.
    """
    mib = 2**20
    for kind, most in (
        (resource.RLIMIT_CPU, limits["cpu_seconds"]),
        (resource.RLIMIT_AS, limits["memory_mib"] * mib),
        (resource.RLIMIT_FSIZE, limits["scratch_mib"] * mib),
        (resource.RLIMIT_NOFILE, limits["open_files"]),
        (resource.RLIMIT_NPROC, limits["processes"]),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        resource.setrlimit(kind, (most, most))
    # Deep recursion is usual in programs. The stack is part of the address space.
    most = resource.getrlimit(resource.RLIMIT_STACK)[1]
    stack = min(_STACK_MIB, limits["memory_mib"] // 2) * mib
    if most == resource.RLIM_INFINITY or stack < most:
        resource.setrlimit(resource.RLIMIT_STACK, (stack, most))
