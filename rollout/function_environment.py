"""An environment named by where it stands: an async function `play`, or a class with that method.

environment=my_file.py:play

async def play(generate, prompt, max_tokens):   # further parameters: environment.settings
    completion = await generate(prompt.token_ids, max_tokens)
    return completion                           # or a Trajectory of several turns
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from rollout.environments import Generate, one_turn
from rollout.own_code import OwnCode, accepted
from rollout.types import Completion, Prompt, Trajectory

_GIVEN = ("generate", "prompt", "max_tokens")


@dataclass(frozen=True, slots=True)
class FunctionEnvironment(OwnCode):
    """Plays with a function, or with a class that has `play`, found by its path."""

    kind: ClassVar[str] = "environment"
    method: ClassVar[str] = "play"

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
