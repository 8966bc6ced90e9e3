"""A reward named by where it stands: a function, or a class with `score`, in a file or a module.

    reward=function reward.path=my_file.py:my_function          # a file, wherever it is
    reward=function reward.path=my_module:my_function           # a module that can be imported

A function gets the parameters that it declares, by name:

| what | names |
| --- | --- |
| the user's message | `prompt_text`, `prompt`, `question` |
| the response | `response_text`, `response`, `completion`, `solution_str` |
| the task's answer | `answer`, `ground_truth`, `solution`, `reference` |
| nothing, for functions written for verl | `data_source` (""), `extra_info` ({}) |

A function with a parameter `completions` is one written for TRL: it gets lists of one
(`completions`, `prompts`, and the task's answer under the names above) and returns a list of one.
Responses are plain text, not conversations.
"""

import importlib
import importlib.util
import inspect
import pickle
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from rollout.rewards.returned import NoScoreError, as_score, first_line
from rollout.rewards.types import Reward, Score, check_of

Scorer = Callable[[str, str, str], object]
Check = Callable[[str], None]
_PROMPT, _RESPONSE, _ANSWER = range(3)
_ROLES = {
    "prompt_text": _PROMPT,
    "prompt": _PROMPT,
    "question": _PROMPT,
    "response_text": _RESPONSE,
    "response": _RESPONSE,
    "completion": _RESPONSE,
    "solution_str": _RESPONSE,
    "answer": _ANSWER,
    "ground_truth": _ANSWER,
    "solution": _ANSWER,
    "reference": _ANSWER,
}
_CANONICAL = ("prompt_text", "response_text", "answer")
_BATCH_ROLES = {
    "prompts": _PROMPT,
    "completions": _RESPONSE,
    **{name: role for name, role in _ROLES.items() if role == _ANSWER},
}
_BATCH_CANONICAL = ("prompts", "completions", "answer")
_EMPTY: dict[str, Callable[[], object]] = {"data_source": str, "extra_info": dict}


@dataclass(frozen=True, slots=True)
class FunctionReward:
    """Scores with a function, or with a class that has `score`, found by its path."""

    path: str
    """FILE.py:NAME, relative to the current folder, or MODULE:NAME. The file's folder can be
    imported from in the reward processes."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Further arguments by name: of the function at each call, or of the class once."""

    def __post_init__(self) -> None:
        """Refuse what is not there or cannot be called; names the file wherever it is read."""
        place, _, name = self.path.rpartition(":")
        if not place or not name:
            raise ValueError(f"reward.path must be FILE.py:NAME or MODULE:NAME, got {self.path!r}")
        if place.endswith(".py"):
            object.__setattr__(self, "path", f"{Path(place).absolute()}:{name}")
        try:
            self._made()
        except ValueError as error:
            # The cause is in the sentence; whoever looks for the root of an error finds this one.
            raise ValueError(f"reward.path {error}, got {self.path!r}") from None

    def score(self, prompt_text: str, response_text: str, answer: str) -> Score:
        """Score a response; see `rollout.rewards.types.Reward`."""
        scorer, _ = self._made()
        return as_score(scorer(prompt_text, response_text, answer), scorer)

    def check(self, answer: str) -> None:
        """Accept what a class with `check` accepts, and every answer otherwise."""
        _, check = self._made()
        if check is not None:
            check(answer)

    def _made(self) -> tuple[Scorer, Check | None]:
        # Pickled, so that settings can be looked up.
        return _make(self.path, pickle.dumps(self.settings))


@cache
def _make(path: str, settings: bytes) -> tuple[Scorer, Check | None]:
    """Make what scores and what checks answers, once in every process."""
    arguments = pickle.loads(settings)
    found = _find(path)
    if not callable(found):
        raise ValueError(f"must name a function or a class, not {type(found).__name__}")
    if not inspect.isclass(found):
        return adapted(found, arguments), None
    try:
        made = found(**arguments)
    except TypeError as error:
        raise ValueError(f"names a class that cannot be made ({error})") from error
    if not isinstance(made, Reward):
        raise ValueError("names a class without the method score")
    return made.score, check_of(made)


def scores_responses(function: Callable[..., Any]) -> bool:
    """Say whether a function takes a response by one of the names, and so is a reward itself."""
    names = inspect.signature(function).parameters
    return any({**_ROLES, **_BATCH_ROLES}.get(name) == _RESPONSE for name in names)


def adapted(function: Callable[..., Any], settings: Mapping[str, Any]) -> Scorer:
    """Return the function as one of prompt text, response text and answer.

    Args:
        function: A function with parameters by the names above.
        settings: Further arguments by name.

    Raises:
        ValueError: If it takes no response, or needs an argument that nobody gives.
    """
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError) as error:
        raise ValueError(f"must name a function written in Python ({error})") from error
    batched = "completions" in parameters
    roles, canonical = (_BATCH_ROLES, _BATCH_CANONICAL) if batched else (_ROLES, _CANONICAL)
    given: dict[str, int] = {}
    empty: list[str] = []
    takes_any = False
    for name, parameter in parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            takes_any = True
        elif parameter.kind is parameter.VAR_POSITIONAL or name in settings:
            continue
        elif parameter.kind is parameter.POSITIONAL_ONLY:
            raise ValueError(f"names a function whose parameter {name} cannot be passed by name")
        elif name in roles:
            given[name] = roles[name]
        elif parameter.default is parameter.empty and name in _EMPTY:
            empty.append(name)
        elif parameter.default is parameter.empty:
            raise ValueError(
                f"names a function with a parameter {name} that nobody gives: it may take "
                f"{', '.join(canonical)}, or others by reward.settings"
            )
    if not takes_any and (unknown := sorted(set(settings) - set(parameters))):
        raise ValueError(f"names a function that has no parameter {unknown[0]} of reward.settings")
    if takes_any:
        missing = set(range(len(canonical))) - set(given.values())
        given |= {canonical[role]: role for role in missing}
    if _RESPONSE not in given.values():
        raise ValueError("names a function that takes no response: call a parameter response_text")

    def score(*texts: str) -> object:
        values: list[object] = [[text] for text in texts] if batched else list(texts)
        arguments: dict[str, object] = {name: values[role] for name, role in given.items()}
        arguments |= {name: _EMPTY[name]() for name in empty}
        returned = function(**arguments, **settings)
        return _only(returned, function) if batched else returned

    # Where a complaint about what was returned points to.
    score.__wrapped__ = function  # type: ignore[attr-defined]
    return score


def _only(returned: Any, function: Callable[..., Any]) -> object:
    """The one element of what a function of lists returned for one response."""
    try:
        (one,) = returned
    except (TypeError, ValueError):
        raise NoScoreError(
            "a reward with the parameter completions must return a list with a number for each, "
            f"got {returned!r:.80} for one",
            first_line(function),
        ) from None
    return one


def _find(path: str) -> Any:
    """Import what a path names."""
    place, _, name = path.rpartition(":")
    found: Any = _module(place)
    for part in name.split("."):
        if not hasattr(found, part):
            raise ValueError(f"must name a function or class that is there, not {name}")
        found = getattr(found, part)
    return found


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
    name = f"reward file {file}"
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
