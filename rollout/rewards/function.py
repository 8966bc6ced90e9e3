"""A reward named by where it stands: a function, or a class with `score`, in a file or a module.

    reward=function reward.path=my_file.py:my_function          # a file, wherever it is
    reward=function reward.path=my_module:my_function           # a module that can be imported

A function gets the parameters that it declares, by name:

| what | names |
| --- | --- |
| the user's message | `prompt_text`, `prompt`, `question` |
| the response | `response_text`, `response`, `completion`, `solution_str` |
| the task's answer | `answer`, `ground_truth`, `solution`, `reference` |
| a column where the row has one, else nothing, as verl has | `data_source`, `extra_info` |
| a further column of the row | any other name; one with a default may be missing |

A function with a parameter `completions` is one written for TRL: it gets lists of one
(`completions`, `prompts`, and the task's answer under the names above) and returns a list of one.
Responses are plain text, not conversations. Functions may be asynchronous, and so may `score`.
"""

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from rollout.own_code import OwnCode
from rollout.rewards.awaited import after
from rollout.rewards.returned import NoScoreError, as_score, first_line
from rollout.rewards.types import NO_COLUMNS, Columns, Score, check_of, load, score_with

Scorer = Callable[[str, str, str, Columns], object]
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
class FunctionReward(OwnCode):
    """Scores with a function, or with a class that has `score`, found by its path."""

    kind: ClassVar[str] = "reward"
    method: ClassVar[str] = "score"

    def adapted(self, function: Callable[..., Any]) -> Any:
        """Return the function as a reward's `score`."""
        return adapted(function, self.settings)

    def score(
        self, prompt_text: str, response_text: str, answer: str, columns: Columns = NO_COLUMNS
    ) -> Score | Awaitable[Score]:
        """Score a response; see `rollout.rewards.types.Reward`."""
        made = self.made()
        if hasattr(made, "score"):
            returned = score_with(made, prompt_text, response_text, answer, columns)
            return after(returned, partial(as_score, scorer=made.score))
        returned = made(prompt_text, response_text, answer, columns)
        return after(returned, partial(as_score, scorer=made))

    def load(self) -> None:
        """Import what the path names; a class may have a `load` of its own."""
        load(self.made())

    def check(self, answer: str) -> None:
        """Accept what a class with `check` accepts, and every answer otherwise."""
        check = check_of(self.made())
        if check is not None:
            check(answer)


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
        ValueError: If it takes no response, or cannot be called by name.
    """
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError) as error:
        raise ValueError(f"must name a function written in Python ({error})") from error
    batched = "completions" in parameters
    roles, canonical = (_BATCH_ROLES, _BATCH_CANONICAL) if batched else (_ROLES, _CANONICAL)
    given: dict[str, int] = {}
    # By name, whether the row must have it.
    asked: dict[str, bool] = {}
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
        else:
            asked[name] = parameter.default is parameter.empty
    if not takes_any and (unknown := sorted(set(settings) - set(parameters))):
        raise ValueError(f"names a function that has no parameter {unknown[0]} of reward.settings")
    if takes_any:
        missing = set(range(len(canonical))) - set(given.values())
        given |= {canonical[role]: role for role in missing}
    if _RESPONSE not in given.values():
        raise ValueError("names a function that takes no response: call a parameter response_text")

    def score(
        prompt_text: str, response_text: str, answer: str, columns: Columns = NO_COLUMNS
    ) -> object:
        texts = (prompt_text, response_text, answer)
        further = _further(asked, columns, canonical, function)
        if takes_any:
            others = {**columns, **further}
            further = {name: others[name] for name in others if name not in (*given, *settings)}
        arguments: dict[str, object] = {name: texts[role] for name, role in given.items()}
        arguments |= further
        if batched:
            arguments = {name: [value] for name, value in arguments.items()}
        returned = function(**arguments, **settings)
        return after(returned, partial(_only, function)) if batched else returned

    # Where a complaint about what was returned points to.
    score.__wrapped__ = function  # type: ignore[attr-defined]
    return score


def _further(
    asked: Mapping[str, bool],
    columns: Columns,
    canonical: Sequence[str],
    function: Callable[..., Any],
) -> dict[str, object]:
    """Return the columns of a row that a function asks for, which must be there or have a default.

    Raises:
        NoScoreError: Naming the parameter that nobody gives.
    """
    found: dict[str, object] = {}
    for name, needed in asked.items():
        if name in columns:
            found[name] = columns[name]
        elif needed and name in _EMPTY:
            found[name] = _EMPTY[name]()
        elif needed:
            raise NoScoreError(
                f"the reward has a parameter {name} that nobody gives: it may take "
                f"{', '.join(canonical)}, others by reward.settings, or the further columns of "
                f"the task's rows, here {', '.join(sorted(columns)) or 'none'}",
                first_line(function),
            )
    return found


def _only(function: Callable[..., Any], returned: Any) -> object:
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
