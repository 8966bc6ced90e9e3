"""Tests of one sandbox that call the functions of another, so that each verdict is the tests' own.

    tests: assert add(2, 3) == 5  --[call add, 2, 3]-->  the solution     <--[5]--

The solution sees the arguments of a call and nothing of the tests: neither what is expected, nor
how it is compared, nor whether the tests are through. Plain data comes over as plain data, built
anew, so that no `==` of the solution is asked. Everything else stays there, and the tests hold a
`Remote` of it: its methods may be called, but it equals no plain data and is ordered against none,
and what operators make of it stays a Remote too, so that it never learns what it is compared with.

Not defended: a test that compares two objects of the solution with each other asks their own `==`,
and one that asks whether an object is true, or has something in it, asks the object.
"""

import builtins
import json
import operator
import socket
from collections.abc import Callable, Iterator
from typing import Any

_OPERATORS = (
    "add",
    "sub",
    "mul",
    "truediv",
    "floordiv",
    "mod",
    "pow",
    "matmul",
    "and",
    "or",
    "xor",
)
_UNARY = ("neg", "pos", "abs", "invert")
_COMPARED = ("eq", "lt", "le", "gt", "ge")
_CONTAINERS: dict[str, type[Any]] = {
    "list": list,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
}
MOST_BYTES = 4 * 2**20
"""Of one message."""


class Peer:
    """One end: it asks the other, and meanwhile answers what the other asks.

    Args:
        descriptor: Of a stream socket.
        serves: Whether the other may do anything with what it holds; else only call it.
    """

    def __init__(self, descriptor: int, *, serves: bool) -> None:
        self._file = socket.socket(fileno=descriptor).makefile("rwb")
        self._serves = serves
        self._held: list[Any] = []
        self.names: dict[str, Any] = {}

    def ask(self, what: str, target: Any, arguments: list[Any], named: dict[str, Any]) -> Any:
        """Have the other do something; what it raises is raised here."""
        self._send(["ask", what, self.encode(target), self.encode(arguments), self.encode(named)])
        while True:
            message = self._receive()
            if message[0] == "ask":
                self._answer(message)
                continue
            kind, value, after = message
            for mine, now in zip(arguments, self.decode(after), strict=False):
                _refill(mine, now)
            if kind == "raised":
                raise _exception(*self.decode(value), ends=target == "next")
            return self.decode(value)

    def serve(self) -> None:
        """Answer until the other hangs up."""
        while True:
            try:
                self._answer(self._receive())
            except EOFError:
                return

    def _answer(self, message: list[Any]) -> None:
        _, what, target, coded, named = message
        arguments: list[Any] = self.decode(coded)
        try:
            done = self._do(what, self.decode(target), arguments, self.decode(named))
            kind, value = "returned", self.encode(done, stays=what == "operator")
        except Exception as error:
            kind, value = "raised", self.encode([type(error).__name__, str(error)])
        changed = self.encode([a if isinstance(a, list | dict | set) else None for a in arguments])
        self._send([kind, value, changed])

    def _do(self, what: str, target: Any, arguments: list[Any], named: dict[str, Any]) -> Any:
        if what == "call":
            return target(*arguments, **named)
        if not self._serves:
            raise PermissionError(what)
        if what == "names":
            return {name: self.names[name] for name in arguments if name in self.names}
        if what == "operator":
            return getattr(operator, target)(*arguments)
        return getattr(builtins, target)(*arguments)

    def encode(self, value: Any, depth: int = 0, *, stays: bool = False) -> Any:
        """Turn a value into JSON; what is no plain data is held, and known by a number."""
        if depth > 60:
            raise ValueError("a value is nested too deeply")
        if isinstance(value, Remote):
            return ["yours", object.__getattribute__(value, "_number")]
        if not stays:
            if value is None or value is True or value is False:
                return value
            for kind in (int, float, str):
                if isinstance(value, kind):
                    return kind(value) if type(value) is not kind else value
            if isinstance(value, bytes):
                return ["bytes", value.hex()]
            if isinstance(value, complex):
                return ["complex", value.real, value.imag]
            for name, container in _CONTAINERS.items():
                if isinstance(value, container):
                    return [name, [self.encode(each, depth + 1) for each in value]]
            if isinstance(value, dict):
                pairs = value.items()
                coded = [[self.encode(k, depth + 1), self.encode(v, depth + 1)] for k, v in pairs]
                return ["dict", coded]
        self._held.append(value)
        return ["mine", len(self._held) - 1]

    def decode(self, coded: Any) -> Any:
        """Build a value from JSON."""
        if not isinstance(coded, list):
            return coded
        kind, *parts = coded
        if kind == "mine":
            return Remote(self, int(parts[0]))
        if kind == "yours":
            return self._held[parts[0]]
        if kind == "bytes":
            return bytes.fromhex(parts[0])
        if kind == "complex":
            return complex(*parts)
        if kind == "dict":
            return {self.decode(key): self.decode(value) for key, value in parts[0]}
        return _CONTAINERS[kind](self.decode(each) for each in parts[0])

    def _send(self, message: list[Any]) -> None:
        self._file.write(json.dumps(message).encode() + b"\n")
        self._file.flush()

    def _receive(self) -> list[Any]:
        line = self._file.readline(MOST_BYTES)
        if not line.endswith(b"\n"):
            raise EOFError("the solution has ended" if not line else "a value is too large")
        message: list[Any] = json.loads(line)
        return message


class Remote:
    """Something that stays in the other sandbox."""

    def __init__(self, peer: Peer, number: int) -> None:
        object.__setattr__(self, "_peer", peer)
        object.__setattr__(self, "_number", number)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Call it there."""
        return _peer(self).ask("call", self, list(arguments), named)

    def __getattr__(self, name: str) -> Any:
        return _builtin("getattr", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        _builtin("setattr", self, name, value)

    def __getitem__(self, key: Any) -> Any:
        return _builtin("getattr", self, "__getitem__")(key)

    def __setitem__(self, key: Any, value: Any) -> None:
        _builtin("getattr", self, "__setitem__")(key, value)

    def __contains__(self, value: Any) -> bool:
        return bool(_builtin("getattr", self, "__contains__")(value))

    def __len__(self) -> int:
        return int(_builtin("len", self))

    def __bool__(self) -> bool:
        return _builtin("bool", self) is True

    def __iter__(self) -> Iterator[Any]:
        inner = _builtin("iter", self)
        while True:
            try:
                yield _builtin("next", inner)
            except StopIteration:
                return

    def __next__(self) -> Any:
        return _builtin("next", self)

    def __str__(self) -> str:
        return str(_builtin("str", self))

    def __repr__(self) -> str:
        return str(_builtin("repr", self))

    def __hash__(self) -> int:
        return hash(object.__getattribute__(self, "_number"))

    def __instancecheck__(self, value: Any) -> bool:
        return isinstance(value, Remote) and _builtin("isinstance", value, self) is True


def _peer(remote: Remote) -> Peer:
    peer: Peer = object.__getattribute__(remote, "_peer")
    return peer


def _builtin(name: str, remote: Remote, *arguments: Any) -> Any:
    return _peer(remote).ask("builtin", name, [remote, *arguments], {})


def _operation(name: str, *, reflected: bool = False) -> Callable[..., Any]:
    def operate(self: Remote, *others: Any) -> Any:
        arguments = [*others, self] if reflected else [self, *others]
        function = {"and": "and_", "or": "or_"}.get(name, name)
        return _peer(self).ask("operator", function, arguments, {})

    return operate


def _comparison(name: str) -> Callable[..., Any]:
    def compare(self: Remote, other: Any) -> Any:
        if not isinstance(other, Remote):
            return False if name == "eq" else NotImplemented
        return _builtin("bool", _peer(self).ask("operator", name, [self, other], {}))

    return compare


for _name in _OPERATORS:
    setattr(Remote, f"__{_name}__", _operation(_name))
    setattr(Remote, f"__r{_name}__", _operation(_name, reflected=True))
for _name in _UNARY:
    setattr(Remote, f"__{_name}__", _operation(_name))
for _name in _COMPARED:
    setattr(Remote, f"__{_name}__", _comparison(_name))


def _refill(mine: Any, now: Any) -> None:
    """Do to an argument what the function that got its copy did to that."""
    if isinstance(mine, list) and isinstance(now, list) and mine != now:
        mine[:] = now
    elif isinstance(mine, dict | set) and type(mine) is type(now) and mine != now:
        mine.clear()
        mine.update(now)


def _exception(name: str, text: str, *, ends: bool) -> Exception:
    """Make what the other side raised; only where it `ends` an iteration may it say so."""
    kind: Any = getattr(builtins, name, None)
    known = isinstance(kind, type) and issubclass(kind, Exception)
    # Raised by a function that is mapped, StopIteration would end the loop and with it the test.
    taken = known and kind is not AssertionError and (ends or kind is not StopIteration)
    try:
        return kind(text) if taken else RuntimeError(f"{name}: {text}")
    except TypeError:
        return RuntimeError(f"{name}: {text}")
