"""The first process inside a sandbox: gives up what untrusted code must not have, then runs it.

Started by `rollout.sandbox.run` with the job, a JSON object, in the file FD_JOB. It writes one byte
to FD_READY when nothing is left to set up: whatever happens after that is the code's own doing.

| mode | what is run |
| --- | --- |
| `program` | a program of its own, with what it reads and prints |
| `cell` | the same; what its last line is worth is printed too, as in a notebook |
| `serve` | a module, whose functions the tests of another sandbox call (`rollout.sandbox.rpc`) |
| `test` | those tests |
"""

import ast
import builtins
import json
import linecache
import os
import sys
import traceback
import types
from typing import Any

from rollout.sandbox.isolate import (
    fork_supervised,
    give_up_rights,
    leave_the_machine,
    limit_resources,
)
from rollout.sandbox.judge import serve, test
from rollout.sandbox.refused import refuse_calls

FILE = "code.py"


def run_code(code: str, mode: str) -> dict[str, Any] | None:
    """Run code as a module of its own; None if it failed, with its traceback printed."""
    module = types.ModuleType("__main__" if mode != "serve" else "solution")
    module.__dict__["__file__"] = FILE
    sys.modules[module.__name__] = module
    lines = code.splitlines(keepends=True)
    linecache.cache[FILE] = (len(code), None, lines, FILE)
    try:
        tree = ast.parse(code, FILE)
        last = tree.body[-1] if tree.body else None
        if mode == "cell" and isinstance(last, ast.Expr):
            tree.body.pop()
            exec(compile(tree, FILE, "exec"), module.__dict__)
            value = eval(compile(ast.Expression(last.value), FILE, "eval"), module.__dict__)
            if value is not None:
                print(repr(value))
        else:
            exec(compile(tree, FILE, "exec"), module.__dict__)
    except SystemExit:
        if mode == "serve":
            return None
        raise
    except BaseException as error:
        trace = error.__traceback__
        while trace and trace.tb_frame.f_code.co_filename != FILE:
            trace = trace.tb_next
        traceback.print_exception(type(error), error, trace)
        return None
    return module.__dict__


def _refuse_calls(form: str) -> None:
    try:
        # Elsewhere all that is in a sandbox ends with its first process.
        refuse_calls(keep_group=form == "weak")
    except OSError:
        if form != "weak":
            raise


def main(form: str, job_fd: int, ready_fd: int, link_fd: int) -> None:
    """Set up, then run the job.

    Args:
        form: How: "bubblewrap" has set up the file system already.
        job_fd: The job.
        ready_fd: Where to say that all is set up.
        link_fd: The connection with the other sandbox; -1 if there is none.
    """
    with open(job_fd) as file:
        job = json.load(file)
    try:
        if form == "namespaces":
            leave_the_machine(job["shown"], job["limits"]["scratch_mib"])
        if form != "bubblewrap":
            fork_supervised(own_processes=form == "namespaces")
        give_up_rights(job["user"])
        _refuse_calls(form)
        limit_resources(job["limits"])
    except OSError as error:
        print(error, file=sys.stderr)
        os._exit(1)
    os.write(ready_fd, b"1")
    os.close(ready_fd)
    sys.argv = [FILE]
    # Programs end with these; the module that brings them is not imported here.
    vars(builtins).update(exit=sys.exit, quit=sys.exit)
    mode, code = job["mode"], job["code"]
    if mode == "test":
        test(link_fd, code)
        return
    names = run_code(code, mode)
    sys.stdout.flush()
    if mode == "serve":
        serve(link_fd, names)
    elif names is None:
        sys.exit(1)
