"""The two sides of hidden tests, each in its own sandbox; `rollout.sandbox.rpc` joins them."""

import ast
import builtins
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from rollout.sandbox.rpc import Peer


def serve(descriptor: int, names: dict[str, Any] | None) -> None:
    """Let tests call what a module has; with None, for one that failed, end at once."""
    if names is not None:
        peer = Peer(descriptor, serves=True)
        peer.names = names
        peer.serve()


def test(descriptor: int, code: str) -> None:
    """Run tests, each a text of Python, one after the other, and say on stdout how each ended.

    Args:
        descriptor: The connection with the solution.
        code: A JSON list: names that are the solution's even where Python has them, such as sum;
            then texts. The first is run before each of the others, in one namespace; names that
            nothing in it binds are the solution's.
    """
    called, setup, *tests = json.loads(code)
    own = {name: value for name, value in vars(builtins).items() if name not in called}
    # What tests print must not be taken for a verdict.
    verdicts = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    peer = Peer(descriptor, serves=False)
    for text in tests:
        fault = ""
        try:
            needed = _needed(f"{setup}\n{text}", called)
            given = peer.ask("names", None, needed, {})
            # The solution may answer with more, such as a range of its own.
            names = {name: given[name] for name in needed if name in given}
            space = {"__name__": "tests", "__builtins__": own, **names}
            exec(compile(f"{setup}\n{text}", "tests.py", "exec"), space)
        except BaseException as error:
            fault = f"{type(error).__name__}: {error}"[:300]
        verdicts.write(json.dumps(fault) + "\n")
        verdicts.flush()


def _needed(text: str, called: Sequence[str]) -> list[str]:
    """Names that a text may take from the solution: none of Python's own, lest they be replaced."""
    found = {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
    own = (set(dir(builtins)) | sys.stdlib_module_names) - set(called)
    return sorted(name for name in found if name not in own and not name.startswith("__"))
