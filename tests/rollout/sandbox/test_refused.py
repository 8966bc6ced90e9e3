"""The filter refuses what is on its list, on every machine, and lets everything else through."""

import errno
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from rollout.sandbox.refused import LEAVING_GROUP, MACHINES, REFUSED, program
from tests.places import PROJECT
from tests.rollout.sandbox.test_run import FORMS, ran, skip_unless_here

ALLOW = 0x7FFF0000
ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}
CLONE = {"x86_64": 56, "aarch64": 220}
NEW_USER, THREAD_FLAGS = 0x10000000, 0x3D0F00


def decided(instructions, number, *, arch, first=0):
    """Run a filter as the kernel does; return the error that a call gets, None if it is made."""
    seen = {0: number, 4: arch, 16: first}
    at = loaded = 0
    while True:
        code, if_true, if_false, value = instructions[at]
        at += 1
        if code == 0x20:
            loaded = seen[value]
        elif code == 0x06:
            return None if value == ALLOW else value - 0x50000
        else:
            true = {0x15: loaded == value, 0x35: loaded >= value, 0x45: bool(loaded & value)}[code]
            at += if_true if true else if_false


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("keep_group", [False, True])
def test_what_is_listed_is_refused_and_nothing_else(machine, keep_group):
    written, mine = program(machine, keep_group=keep_group), MACHINES.index(machine)
    refused = {numbers[mine]: errno.EPERM for numbers, _ in REFUSED.values()}
    refused[435] = errno.ENOSYS
    if keep_group:
        refused |= {numbers[mine]: 0 for numbers in LEAVING_GROUP.values()}
    for number in range(1000):
        assert decided(written, number, arch=ARCH[machine]) == refused.get(number), number


@pytest.mark.parametrize("machine", MACHINES)
def test_no_other_way_leads_to_the_same_calls(machine):
    written = program(machine, keep_group=False)
    for number in range(1000):
        # As 32-bit programs do, and on x86_64 by the second table.
        assert decided(written, number, arch=0x40000003) == errno.EPERM
        assert decided(written, number | 0x40000000, arch=ARCH[machine]) == errno.EPERM


@pytest.mark.parametrize("machine", MACHINES)
def test_a_process_begins_others_but_no_namespace(machine):
    def clone(flags):
        return decided(
            program(machine, keep_group=False), CLONE[machine], arch=ARCH[machine], first=flags
        )

    assert clone(THREAD_FLAGS) is None and clone(17) is None
    for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, NEW_USER, 0x20000000, 0x40000000):
        assert clone(17 | flag) == errno.EPERM


@pytest.mark.parametrize("machine", MACHINES)
def test_numbers_are_those_of_the_kernel(machine):
    if not HEADERS[machine].exists():
        pytest.skip(f"there is no {HEADERS[machine]}")
    listed = dict(re.findall(r"#define __NR_(\w+)\s+(\d+)", HEADERS[machine].read_text()))
    mine = MACHINES.index(machine)
    known = {name: numbers for name, (numbers, _) in REFUSED.items()} | LEAVING_GROUP
    for name, numbers in known.items():
        assert int(listed.get(name, numbers[mine])) == numbers[mine], name
    assert int(listed["clone"]) == CLONE[machine] and int(listed["clone3"]) == 435


def test_a_machine_whose_numbers_are_not_known_has_no_filter():
    with pytest.raises(OSError, match="no filter of system calls for riscv64"):
        program("riscv64", keep_group=False)


@pytest.mark.parametrize("form", FORMS)
def test_refused_calls_fail_in_all_that_code_starts(form):
    mine = MACHINES.index(os.uname().machine)
    numbers = {name: pair[mine] for name, (pair, _) in REFUSED.items()}
    outcome = ran(
        form,
        f"""
        import ctypes, os
        libc = ctypes.CDLL(None, use_errno=True)
        for name, number in {numbers!r}.items():
            if libc.syscall(number, 0, 0, 0, 0, 0, 0) != -1 or ctypes.get_errno() != 1:
                print(name, ctypes.get_errno())
        if libc.syscall({CLONE[os.uname().machine]}, {NEW_USER | 17}, 0, 0, 0, 0) == 0:
            os._exit(0)
        print(ctypes.get_errno(), flush=True)
        if os.fork() == 0:
            os.memfd_create("a")
        os.wait()
        """,
    )
    assert outcome.stdout == "1\n" and "PermissionError" in outcome.stderr


@pytest.mark.parametrize("form", FORMS)
def test_programs_do_what_they_do_elsewhere(form):
    if "ModuleNotFoundError" in ran(form, "import asyncio").stderr:
        pytest.skip("who is not root may not read this Python")
    outcome = ran(
        form,
        """
        import asyncio, multiprocessing, os, socket, subprocess, sys, tempfile, threading
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(3) as threads:
            assert list(threads.map(abs, [-1, -2])) == [1, 2]
        assert subprocess.run(["/bin/echo", "a"], capture_output=True).stdout == b"a\\n"
        assert subprocess.run("exit 3", shell=True, start_new_session=True).returncode == 3
        ours, theirs = multiprocessing.Pipe()
        child = multiprocessing.get_context("fork").Process(target=theirs.send, args=("b",))
        child.start()
        assert ours.recv() == "b"
        child.join()

        async def echo():
            made = await asyncio.create_subprocess_exec("/bin/echo", "c", stdout=-1)
            return (await made.communicate())[0]

        assert asyncio.run(echo()) == b"c\\n"
        left, right = socket.socketpair()
        left.send(b"d")
        assert right.recv(1) == b"d"
        with tempfile.TemporaryDirectory() as folder, open(folder + "/e", "w") as file:
            file.write("e")
        print("all", child.exitcode)
        """,
    )
    assert (outcome.stdout, outcome.stderr) == ("all 0\n", "")


def test_where_the_kernel_takes_no_filter_no_form_works_but_the_weak_one():
    skip_unless_here("namespaces")
    code = """
    from rollout.sandbox import isolate, refused, run
    isolate.LIBC.prctl(38, 1, 0, 0, 0)
    refused.REFUSED.clear()
    refused.REFUSED["seccomp"] = ((317, 277), "")
    refused.NEW_USER = refused.NEW_OTHERS = 0
    refused.refuse_calls(keep_group=False)
    print(run.fault_of("namespaces"))
    print(repr(run.fault_of("weak")))
    """
    told = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True, text=True, cwd=PROJECT, check=True,
    ).stdout  # fmt: skip
    assert told == "[Errno 1] filter of system calls: Operation not permitted\n''\n"
