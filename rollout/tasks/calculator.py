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
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rollout.tasks.chain import HELD_OUT_ONE_IN, MAX_MISSES, Chain, apply_step
from rollout.tasks.prompts import (
    Check,
    Item,
    is_held_out,
    make_prompts,
    require_num_prompts,
    require_split,
)
from rollout.tools.tool import ToolError
from rollout.types import Prompt

CALL_BEGIN = '{"name": "calculator", "arguments": {"expression": "'
CALL_END = '"}}'
_PRODUCT = re.compile(r"\s*(\d{1,9})\s*\*\s*(\d{1,9})\s*")
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
        seen: set[str] = set()
        misses = 0
        while len(seen) < self.num_prompts:
            if misses > MAX_MISSES:
                raise ValueError(
                    f"task.num_prompts must not exceed the {self.split} questions there are, about "
                    f"{len(seen)}, got {self.num_prompts!r}"
                )
            misses += 1
            chain = draw_products(rng)
            held_out = is_held_out(chain.question, HELD_OUT_ONE_IN)
            if chain.question in seen or held_out != (self.split == "held_out"):
                continue
            misses = 0
            seen.add(chain.question)
            place = f"calculator {len(seen) - 1}"
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


@dataclass(frozen=True, slots=True)
class ProductTool:
    """The task's calculator: products of two whole numbers; see `rollout.tools.tool.Tool`."""

    @property
    def name(self) -> str:
        """What a call names."""
        return "calculator"

    @property
    def schema(self) -> Mapping[str, Any]:
        """What chat templates take."""
        expression = {"type": "string", "description": "A product such as 6*7."}
        return {
            "type": "function",
            "function": {
                "name": self.name,
                "description": "Multiplies two whole numbers.",
                "parameters": {
                    "type": "object",
                    "properties": {"expression": expression},
                    "required": ["expression"],
                },
            },
        }

    async def call(self, arguments: Mapping[str, Any]) -> str:
        """Multiply.

        Raises:
            ToolError: If the expression is no product of whole numbers.
        """
        found = _PRODUCT.fullmatch(arguments["expression"])
        if found is None:
            raise ToolError("the expression must be a product such as 6*7")
        return str(int(found[1]) * int(found[2]))


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
