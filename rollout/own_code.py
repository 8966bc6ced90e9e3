"""Code of the user, named by where it stands: FILE.py:NAME, or MODULE:NAME.

    reward=my_file.py:score    task=my_file.py:rows    objective=my_file.py:losses
    `-> the member `function` of the group, a plug that holds the path and calls what it names

What a plug of this kind holds is the path, so that it travels to any process as text and is looked
up again there.
"""

import copyreg
import importlib
import importlib.util
import inspect
import pickle
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

PROJECT = Path(__file__).resolve().parents[1]
"""Where a relative path is looked for when the current folder has none: files that travel with a
job lie beside the project's."""


@dataclass(frozen=True, slots=True)
class OwnCode:
    """A plug that is a function or a class of the user's; a subclass says of which kind.

    Raises:
        ValueError: If nothing of the kind is there, with the path and what to change.
    """

    kind: ClassVar[str] = "plug"
    """Name of the plug's group, with which complaints begin."""
    method: ClassVar[str] = ""
    """What a class must have; "" accepts every class."""

    path: str
    """FILE.py:NAME, relative to the current folder, or MODULE:NAME. The file's folder can be
    imported from wherever it is read."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Further arguments by name: of the function at each call, or of the class once."""

    def __post_init__(self) -> None:
        """Refuse what is not there or cannot be called; names the file wherever it is read."""
        try:
            object.__setattr__(self, "path", absolute(self.path))
            self.made()
        except ValueError as error:
            # The cause is in the sentence; whoever looks for the root of an error finds this one.
            raise ValueError(f"{self.kind}.path {error}, got {self.path!r}") from None

    def adapted(self, function: Callable[..., Any]) -> Any:
        """Return what the plug calls in place of a function.

        Raises:
            ValueError: If the function does not fit.
        """
        return function

    def own_settings(self, kind: Callable[..., Any]) -> dict[str, Any]:
        """Return the arguments with which a class is made."""
        return self.settings

    def made(self) -> Any:
        """Return the adapted function, or the object of the class; made once in every process."""
        # Pickled, so that settings can be looked up.
        return _made(pickle.dumps(self))


@cache
def _made(pickled: bytes) -> Any:
    plug: OwnCode = pickle.loads(pickled)
    named = find(plug.path)
    if not callable(named):
        raise ValueError(f"must name a function or a class, not {type(named).__name__}")
    if not inspect.isclass(named):
        return plug.adapted(named)
    made = make(named, plug.own_settings(named))
    if plug.method and not callable(getattr(made, plug.method, None)):
        raise ValueError(f"names a class without the method {plug.method}")
    return made


def make(kind: Callable[..., Any], settings: Mapping[str, Any]) -> Any:
    """Call a class with its settings.

    Raises:
        ValueError: If it does not take them.
    """
    try:
        return kind(**settings)
    except TypeError as error:
        takes = ", ".join(inspect.signature(kind).parameters) or "nothing"
        raise ValueError(
            f"names a class that cannot be made ({error}): it takes {takes}"
        ) from error


def build(path: str, **settings: Any) -> Any:
    """Make what a path names, for groups whose plugs are classes: `X._target_=my_file.py:Mine`.

    Raises:
        ValueError: If it is not there or cannot be made.
    """
    try:
        place = absolute(path)
        named = find(place)
        if not callable(named):
            raise ValueError(f"must name a function or a class, not {type(named).__name__}")
        made = make(named, settings)
    except ValueError as error:
        raise ValueError(f"{error}, got {path!r}") from None
    _let_travel(type(made), place.rpartition(":")[0])
    return made


def _let_travel(kind: type, place: str) -> None:
    """Have objects of a class in a file name the file when they are pickled.

    By its module alone no other process would find the class: its folder is on the path of those
    only that have read the file.
    """
    if place.endswith(".py") and kind.__module__ == _module(place).__name__:
        copyreg.pickle(kind, partial(_reduced, f"{place}:{kind.__qualname__}"))


def _reduced(path: str, made: Any) -> tuple[Any, ...]:
    """Say how an object is made again, its file being read before all else of it."""
    how, arguments, *rest = made.__reduce_ex__(2)
    if how is copyreg.__newobj__:  # type: ignore[attr-defined]
        return _blank, (_Found(path), *arguments[1:]), *rest
    return how, arguments, *rest


def _blank(kind: type, *arguments: Any) -> Any:
    return kind.__new__(kind, *arguments)


@dataclass(frozen=True, slots=True)
class _Found:
    """What a path names, once it is read from a pickle."""

    path: str

    def __reduce__(self) -> tuple[Any, ...]:
        return find, (self.path,)


def absolute(path: str) -> str:
    """Name the file of FILE.py:NAME wherever it is read; a module's name stays.

    Raises:
        ValueError: If the path has no such form.
    """
    place, _, name = path.rpartition(":")
    if not place or not name:
        raise ValueError("must be FILE.py:NAME or MODULE:NAME")
    if not place.endswith(".py"):
        return path
    here, beside = Path(place).absolute(), PROJECT / place
    return f"{beside if beside.is_file() and not here.is_file() else here}:{name}"


def find(path: str) -> Any:
    """Import what FILE.py:NAME or MODULE:NAME names.

    Raises:
        ValueError: If it is not there, or its file cannot be imported.
    """
    place, _, name = path.rpartition(":")
    found: Any = _module(place)
    for part in name.split("."):
        if not hasattr(found, part):
            raise ValueError(f"must name a function or class that is there, not {name}")
        found = getattr(found, part)
    return found


def accepted(function: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the arguments that a function or class takes by name."""
    parameters = inspect.signature(function).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return dict(given)
    names = {each.name for each in parameters if each.kind is not each.POSITIONAL_ONLY}
    return {name: value for name, value in given.items() if name in names}


def _module(place: str) -> ModuleType:
    file = Path(place)
    if file.suffix == ".py" and not file.is_file():
        raise ValueError("must name a file that can be read on every node")
    try:
        return _from_file(file) if file.suffix == ".py" else importlib.import_module(place)
    except (Exception, SystemExit) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"cannot be imported ({reason})") from error


def _from_file(file: Path) -> ModuleType:
    folder, stem = str(file.parent), file.stem
    # At the end, so that a file there hides no module of the same name from anyone else.
    if folder not in sys.path:
        sys.path.append(folder)
    spec = importlib.util.find_spec(stem)
    if spec is not None and spec.origin == str(file):
        # By its plain name, under which its neighbours may import it too.
        return importlib.import_module(stem)
    # Without dots, which pickle would take for those of a package.
    name = f"own file {file}".replace(".", " dot ")
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
