"""An environment named by where it stands: a function `play`, a class with it, or a game in turns.

environment=my_file.py:play

async def play(generate, prompt, max_tokens):   # further parameters: environment.settings
    completion = await generate(prompt.token_ids, max_tokens)
    return completion                           # or a Trajectory of several turns
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from rollout.environments import Generate, for_policy, one_turn, prompt_tokenizer
from rollout.environments.turns import Game, TurnEnvironment
from rollout.own_code import OwnCode, accepted
from rollout.stopping import Stopping
from rollout.types import Completion, Prompt, Trajectory

_GIVEN = ("generate", "prompt", "max_tokens")
_MAX_TURNS, _ROLE, _STEP_SECONDS = 8, "tool", 60.0
_USUAL = {"max_turns": _MAX_TURNS, "role": _ROLE, "step_timeout_seconds": _STEP_SECONDS}


@dataclass(frozen=True, slots=True)
class FunctionEnvironment(OwnCode):
    """Plays with a function, or with a class that has `play`, found by its path."""

    kind: ClassVar[str] = "environment"

    max_turns: int = _MAX_TURNS
    """Turns after which the play of a game ends. This and the next are of games only; a class that
    has a parameter of the name gets it as well."""
    role: str = _ROLE
    """Whose messages a game's texts are in the chat template: "tool" or "user"."""
    step_timeout_seconds: float = _STEP_SECONDS
    """Longest time of one `reset` or `step` of a game, see `TurnEnvironment`."""

    def __post_init__(self) -> None:
        """Refuse what is not there, and a class that is neither environment nor game."""
        OwnCode.__post_init__(self)
        made = self.made()
        if not inspect.isfunction(made) and not hasattr(made, "play"):
            raise ValueError(
                "environment.path must name a class with the method play, or reset and step, got "
                f"{self.path!r}"
            )

    def made(self) -> Any:
        """Return the function or the environment; of a game, the environment that plays it."""
        made = OwnCode.made(self)
        if isinstance(made, Game):
            try:
                return TurnEnvironment(made, self.max_turns, self.role, self.step_timeout_seconds)
            except ValueError as error:
                raise ValueError(f"names a game that cannot be played: {error}") from error
        changed = self._changed()
        if lost := sorted(changed.keys() - accepted(type(made), changed).keys()):
            raise ValueError(
                f"must name a game, a class with reset and step, for environment.{lost[0]} to be "
                "of effect; name other settings in environment.settings"
            )
        return made

    def own_settings(self, kind: Callable[..., Any]) -> dict[str, Any]:
        """Return the arguments with which a class is made; see `OwnCode.own_settings`."""
        return {**accepted(kind, self._changed()), **self.settings}

    def _changed(self) -> dict[str, Any]:
        """Settings of games that are not the usual ones."""
        return {name: value for name in _USUAL if (value := getattr(self, name)) != _USUAL[name]}

    def for_policy(self, tokenizer: Any, stopping: Stopping) -> Any:
        """Return what plays with a policy: what a class returns that asks for its tokens."""
        made = self.made()
        return for_policy(made, tokenizer, stopping) if hasattr(made, "for_policy") else self

    def prompt_tokenizer(self, tokenizer: Any) -> Any:
        """Return the tokenizer that prompts are made with: a class may bring its own."""
        return prompt_tokenizer(self.made(), tokenizer)

    def adapted(self, function: Callable[..., Any]) -> Any:
        """Return the function, which must be able to take what a play is given.

        Raises:
            ValueError: If it cannot.
        """
        if not inspect.iscoroutinefunction(function):
            raise ValueError("must name an async function, which awaits generate")
        try:
            inspect.signature(function).bind(**self._arguments(function, *_GIVEN))
        except TypeError as error:
            raise ValueError(
                f"names a function that cannot be called ({error}): it may take "
                f"{', '.join(_GIVEN)}, or others by environment.settings"
            ) from error
        return function

    async def play(self, generate: Generate, prompt: Prompt, max_tokens: int) -> Trajectory:
        """Play once; see `rollout.environments.Environment`."""
        made = self.made()
        if hasattr(made, "play"):
            played: Any = await made.play(generate, prompt, max_tokens)
        else:
            played = await made(**self._arguments(made, generate, prompt, max_tokens))
        if isinstance(played, Completion):
            return one_turn(prompt, played)
        if not isinstance(played, Trajectory):
            raise TypeError(
                f"an environment must return a Trajectory or a Completion, got {played!r:.80} from "
                f"{self.path}"
            )
        return played

    def _arguments(self, function: Callable[..., Any], *given: Any) -> dict[str, Any]:
        return {**accepted(function, dict(zip(_GIVEN, given, strict=True))), **self.settings}
