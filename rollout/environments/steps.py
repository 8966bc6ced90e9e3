"""Environments of others with reset and step: Gymnasium's, OpenEnv's, and whatever is called alike.

    reset() -> observation | (observation, info) | result        the prompt, by `StepTask`
    step(action) -> observation, reward, done, ... | result      a turn's answer, by `StepGame`

A result is an object with observation, reward and done. Either method may be async. What a play is
worth is the sum of its rewards once the environment is done; one that was cut off is scored by the
reward plug, which `reward=environment` gives 0.
"""

import asyncio
import inspect
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from cost.ranges import SEED
from rollout.environments.turns import End, Reply
from rollout.own_code import build
from rollout.rewards.by_set import SEPARATOR
from rollout.tasks.prompts import Check, Item, make_prompts, require_num_prompts, require_split
from rollout.threads import in_thread
from rollout.types import Prompt

HELD_OUT_SEEDS = 1_000_000_000
"""Seeds of the held-out split begin here."""


@dataclass
class StepGame:
    """Plays an environment of somebody else; see `rollout.environments.turns.Game`."""

    make: Any
    """Called without arguments, makes one environment (hydra refuses the type); in YAML
    {_target_: my_file.py:MyEnvironment, _partial_: true}."""
    action: Any = str
    """Makes the environment's action of a turn's text; in YAML likewise."""
    observation: Any = None
    """Makes a text of an observation; None takes a text, or its attribute text or content."""
    _environment: Any = field(default=None, init=False)
    _total: float = field(default=0.0, init=False)

    async def reset(self, prompt: Prompt) -> None:
        """Make the environment that the prompt came from, by its seed."""
        self._environment = self.make()
        await begin(self._environment, seed_of(prompt.answer))

    async def step(self, response: str) -> Reply | End:
        """Take one step."""
        found = await _called(self._environment.step, self.action(response))
        observation, reward, done = parts_of(found)
        self._total += reward
        if done:
            return End(self._total)
        return Reply((text_of(observation, self.observation),))

    async def close(self) -> None:
        """Let go of the environment."""
        close = getattr(self._environment, "close", None)
        if close is not None:
            await _called(close)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTask:
    """Prompts that environments begin with: prompt k is what reset says with a seed of its own."""

    make: Any
    """As `StepGame.make`."""
    observation: Any = None
    """As `StepGame.observation`."""
    split: str = "train"
    """"train" or "held_out"; the two never share a seed."""
    num_prompts: int = 64
    """Environments in the set, at least 1; several that begin alike are one prompt."""
    seed: int = 0
    """The first environment's, in [0, 1e9)."""

    def __post_init__(self) -> None:
        """Refuse settings that name no set."""
        require_split(self.split)
        require_num_prompts(self.num_prompts)
        fault = SEED.fault(self.seed)
        if fault is not None or self.seed + self.num_prompts > HELD_OUT_SEEDS:
            raise ValueError(f"task.seed must lie in [0, 1e9) with its prompts, got {self.seed!r}")

    def prompts(
        self, tokenizer: Any, *, max_tokens: int | None = None, check: Check | None = None
    ) -> list[Prompt]:
        """Reset so many environments; see `rollout.tasks.prompts.Task`.

        Raises:
            ValueError: If an environment cannot begin, or says nothing.
        """
        return make_prompts(
            self._items(), tokenizer, max_tokens=max_tokens, check=check, duplicates="skip"
        )

    def _items(self) -> Iterator[Item]:
        first = self.seed + HELD_OUT_SEEDS * (self.split == "held_out")
        for seed in range(first, first + self.num_prompts):
            place = f"environment {seed}"
            try:
                # Comparisons come here from within their event loop, where none may be run.
                text = text_of(_in_thread(partial(self._begun, seed)), self.observation)
            except Exception as error:
                reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
                raise ValueError(f"task.make: {place} cannot begin ({reason})") from error
            if not text.strip():
                raise ValueError(
                    f"task.make: {place} says nothing when it begins; return the question from "
                    f"reset, got {text!r}"
                )
            yield Item(text, str(seed), source=_name(self.make), place=place)

    def _begun(self, seed: int) -> Any:
        async def begun() -> Any:
            environment = self.make()
            try:
                return await begin(environment, seed)
            finally:
                if hasattr(environment, "close"):
                    await _called(environment.close)

        return asyncio.run(begun())


async def begin(environment: Any, seed: int) -> Any:
    """Reset an environment, with a seed if it takes one; return its observation."""
    takes = inspect.signature(environment.reset).parameters
    any_name = any(each.kind == each.VAR_KEYWORD for each in takes.values())
    given = {"seed": seed} if "seed" in takes or any_name else {}
    found = await _called(environment.reset, **given)
    if isinstance(found, tuple):
        return found[0]
    return getattr(found, "observation", found)


def parts_of(found: Any) -> tuple[Any, float, bool]:
    """Return observation, reward and whether it is over, of what a step returned.

    Raises:
        TypeError: If it is neither a tuple of three to five nor a result.
    """
    if isinstance(found, tuple) and 3 <= len(found) <= 5:
        # Gymnasium says terminated and truncated; the last of four or five is an info.
        over = any(bool(each) for each in found[2 : max(3, len(found) - 1)])
        return found[0], float(found[1]), over
    if hasattr(found, "done") and hasattr(found, "reward"):
        # OpenEnv's observation carries both itself, or a result does.
        reward = 0.0 if found.reward is None else float(found.reward)
        return getattr(found, "observation", found), reward, bool(found.done)
    raise TypeError(
        "step must return (observation, reward, done, ...) or an object with observation, reward "
        f"and done, got {found!r:.100}"
    )


def text_of(observation: Any, convert: Callable[[Any], str] | None) -> str:
    """Return an observation as text.

    Raises:
        TypeError: If it is none and nobody says how to make one of it.
    """
    if convert is not None:
        return convert(observation)
    for found in (observation, *(getattr(observation, name, None) for name in ("text", "content"))):
        if isinstance(found, str):
            return found
    raise TypeError(
        "an observation must be a text or have one as text or content; set "
        f"environment.game.observation, got {observation!r:.100}"
    )


def seed_of(answer: str) -> int:
    """Return the seed that a prompt of a `StepTask` has for an answer, else one of its own."""
    own = answer.rpartition(SEPARATOR)[2]
    return int(own) if own.isdigit() else zlib.crc32(own.encode())


async def _called(method: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Call what may be slow, in a thread unless it is async."""
    if inspect.iscoroutinefunction(method):
        return await method(*arguments, **named)
    return await in_thread(method, *arguments, **named)


def _in_thread(function: Callable[[], Any]) -> Any:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(function).result()


def _name(make: Any) -> str:
    made = getattr(make, "func", make)
    if made is build:
        return str(make.keywords["path"]).rpartition(":")[2]
    return str(getattr(made, "__name__", type(made).__name__))
