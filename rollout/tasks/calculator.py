"""The calculator task: chains modulo 100 whose products are too hard to guess, and a tool for them.

    question   a47 b+4 c*7 d-2
    turn 1     b51 {"name": "calculator", "arguments": {"expression": "51*7"}}
    tool       357
    turn 2     c57 d55 #### 55

The shipped model knows sums. It calls the calculator for some products and guesses the others,
mostly wrong: what there is to learn is to call. Questions whose CRC-32 is a multiple of 50 are held
out and never trained on.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rollout.tasks.chain import Chain, apply_step, distinct_chains
from rollout.tasks.prompts import (
    Check,
    Item,
    make_prompts,
    require_num_prompts,
    require_split,
)
from rollout.types import Prompt

CALL_BEGIN = '{"name": "calculator", "arguments": {"expression": "'
CALL_END = '"}}'
NUM_STEPS = (2, 3, 4, 5, 6)
MOST_PRODUCTS = 4
"""Products of a chain, each of them a turn where the policy calls for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalculatorTask:
    """A fixed set of questions, the same for the same seed."""

    split: str = "train"
    """"train" or "held_out"; the two never share a question."""
    num_prompts: int = 192
    """Questions in the set, at least 1."""
    seed: int = 0
    """Which set to draw: one seed makes one set of each split."""

    def __post_init__(self) -> None:
        """Refuse settings that name no set of questions."""
        require_split(self.split)
        require_num_prompts(self.num_prompts)

    def prompts(
        self, tokenizer: Any, *, max_tokens: int | None = None, check: Check | None = None
    ) -> list[Prompt]:
        """Draw the set and tokenise it; see `rollout.tasks.prompts.Task`."""
        return make_prompts(self._items(), tokenizer, max_tokens=max_tokens, check=check)

    def _items(self) -> Iterator[Item]:
        rng = random.Random(f"calculator/{self.seed}/{self.split}")
        chains = distinct_chains(
            lambda _: draw_products(rng), self.num_prompts, held_out=self.split == "held_out"
        )
        for index, chain in enumerate(chains):
            place = f"calculator {index}"
            yield Item(chain.question, chain.answer, source="calculator", place=place)


def draw_products(rng: random.Random) -> Chain:
    """Draw a chain modulo 100 with one to `MOST_PRODUCTS` products."""
    num_steps = rng.choice(NUM_STEPS)
    num_products = rng.randint(1, min(num_steps, MOST_PRODUCTS))
    products = set(rng.sample(range(num_steps), num_products))
    steps = tuple(
        ("*" if i in products else rng.choice("+-"), rng.randint(2, 9)) for i in range(num_steps)
    )
    return Chain(start=rng.randint(10, 99), steps=steps)


@dataclass(slots=True, kw_only=True)
class CalculatorTeacher:
    """Writes conversations that call the calculator for some products and guess the others."""

    call_share: float = 0.5
    """Chance that a product is calculated, in [0, 1]."""
    guess_error: float = 0.6
    """Chance that a product that is not calculated is wrong, in [0, 1]."""

    def __post_init__(self) -> None:
        """Refuse what is not a probability."""
        for name in ("call_share", "guess_error"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"calculator.{name} must lie in [0, 1], got {value!r}")

    def converse(self, chain: Chain, rng: random.Random) -> list[str]:
        """Write the policy's turns and the tool's answers in turn, the policy's first and last."""
        turns: list[str] = []
        words: list[str] = []
        value = chain.start
        for i, (op, operand) in enumerate(chain.steps):
            result = apply_step(value, op, operand, chain.modulus)
            if op == "*" and rng.random() < self.call_share:
                turns += [
                    " ".join((*words, f"{CALL_BEGIN}{value}*{operand}{CALL_END}")),
                    str(value * operand),
                ]
                words = []
            elif op == "*" and rng.random() < self.guess_error:
                result = (result + rng.randint(1, 99)) % chain.modulus
            value = result
            words.append(f"{chr(ord('b') + i)}{value}")
        return [*turns, " ".join((*words, "####", str(value)))]
