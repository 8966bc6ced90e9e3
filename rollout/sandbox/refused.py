"""System calls that untrusted code does not get, by a filter that all it starts inherits.

    program(machine) -> instructions -> refuse_calls -> the kernel, at every call

A refused call fails as if there were no permission; what is not on the list is allowed. The filter
is classic BPF over `struct seccomp_data` (linux/seccomp.h): each instruction looks at one word of
the call, skips some that follow, or returns what is to be done.
"""

import ctypes
import errno
import itertools
import os

from rollout.sandbox.isolate import LIBC, NEW_OTHERS, NEW_USER, check

MACHINES = ("x86_64", "aarch64")
_UNCOUNTED = "holds memory that is in no address space, and so in no limit"
_NAMESPACE = "gives rights over a machine of its own, and with them file systems in memory"
_RARE = "a part of the kernel that has had many faults and is of no use to a program"
REFUSED = {
    "memfd_create": ((319, 279), _UNCOUNTED),
    "memfd_secret": ((447, 447), _UNCOUNTED),
    "shmget": ((29, 194), _UNCOUNTED),
    "semget": ((64, 190), _UNCOUNTED),
    "msgget": ((68, 186), _UNCOUNTED),
    "vmsplice": ((278, 75), _UNCOUNTED),
    "unshare": ((272, 97), _NAMESPACE),
    "setns": ((308, 268), _NAMESPACE),
    "mount": ((165, 40), _NAMESPACE),
    "fsopen": ((430, 430), _NAMESPACE),
    "io_uring_setup": ((425, 425), _RARE),
    "bpf": ((321, 280), _RARE),
    "perf_event_open": ((298, 241), _RARE),
    "userfaultfd": ((323, 282), _RARE),
    "ptrace": ((101, 117), _RARE),
    "add_key": ((248, 217), _RARE),
    "request_key": ((249, 218), _RARE),
    "keyctl": ((250, 219), _RARE),
}
"""Name -> numbers on `MACHINES`, why it is refused."""
LEAVING_GROUP = {"setsid": (112, 157), "setpgid": (109, 154)}
"""Those that put a process where a signal to the sandbox's group does not reach it."""
_CLONE, _CLONE3, _SECCOMP = (56, 220), (435, 435), (317, 277)
_AUDITED = (0xC000003E, 0xC00000B7)
"""What the kernel calls the machines in `seccomp_data.arch`."""
_SECOND_TABLE = 0x40000000
"""On x86_64 the same calls have other numbers from here on (x32)."""
_NUMBER, _ARCH, _FIRST_ARGUMENT = 0, 4, 16
"""Offsets in `seccomp_data`; of the argument its lower half, where flags of clone are."""
_LOAD, _RETURN, _EQUAL, _AT_LEAST, _ANY_BIT = 0x20, 0x06, 0x15, 0x35, 0x45
_ALLOW, _FAIL = 0x7FFF0000, 0x00050000
Instruction = tuple[int, int, int, int]
"""Code, instructions skipped if it is true, if it is not, and a value."""


def program(machine: str, *, keep_group: bool) -> list[Instruction]:
    """Write the filter for a machine.

    Args:
        machine: As `os.uname` says.
        keep_group: Whether a process that wants to leave its group is told that it has, and stays.

    Raises:
        OSError: If the machine's numbers are not known.
    """
    if machine not in MACHINES:
        raise OSError(errno.ENOSYS, f"no filter of system calls for {machine}")
    mine = MACHINES.index(machine)
    written = [(_LOAD, 0, 0, _ARCH), (_EQUAL, 1, 0, _AUDITED[mine]), _fail(errno.EPERM)]
    written += [(_LOAD, 0, 0, _NUMBER), *_if(_AT_LEAST, _SECOND_TABLE, errno.EPERM)]
    for numbers, _ in REFUSED.values():
        written += _if(_EQUAL, numbers[mine], errno.EPERM)
    if keep_group:
        for pair in LEAVING_GROUP.values():
            written += _if(_EQUAL, pair[mine], 0)
    # Its flags are out of sight; told that it is not there, the C library takes clone.
    written += _if(_EQUAL, _CLONE3[mine], errno.ENOSYS)
    written += [(_EQUAL, 0, 3, _CLONE[mine]), (_LOAD, 0, 0, _FIRST_ARGUMENT)]
    written += _if(_ANY_BIT, NEW_USER | NEW_OTHERS, errno.EPERM)
    return [*written, (_RETURN, 0, 0, _ALLOW)]


def _if(test: int, value: int, number: int) -> list[Instruction]:
    return [(test, 0, 1, value), _fail(number)]


def _fail(number: int) -> Instruction:
    return (_RETURN, 0, 0, _FAIL | number)


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint16),
        ("if_true", ctypes.c_uint8),
        ("if_false", ctypes.c_uint8),
        ("value", ctypes.c_uint32),
    )


def refuse_calls(*, keep_group: bool) -> None:
    """Refuse calls to this process and to all that it starts, for good.

    It must have given up new rights before (`rollout.sandbox.isolate.give_up_rights`).

    Raises:
        OSError: If the system has no such filters.
    """
    machine = os.uname().machine
    written = program(machine, keep_group=keep_group)
    instructions = (_Instruction * len(written))(*itertools.starmap(_Instruction, written))
    whole = _Filter(len(written), ctypes.addressof(instructions))
    number = _SECCOMP[MACHINES.index(machine)]
    check(LIBC.syscall(number, 1, 0, ctypes.byref(whole)), "filter of system calls")
