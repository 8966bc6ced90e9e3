"""The chain task: generated digit arithmetic, small enough to learn on one core.

    question   a3 b+4 c-2 d*3
    verbose    b+4=7 c-2=5 d*3=5 #### 5
    terse      b7 c5 d5 #### 5

A chain starts at a digit and applies labelled steps modulo 10. The number of steps sets the length
of a response and the share of products its difficulty, so that prompts differ widely in both.
A chain that starts at two digits is computed modulo 100, which the shipped model never saw: it
makes the hard end of a mix with two ends, and short sums make the easy end. The easy end is clear
only when sampling below temperature 1, where the model slips on short sums too.
Questions whose CRC-32 is a multiple of 50 are held out and never trained on.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rollout.tasks.prompts import (
    Check,
    Item,
    is_held_out,
    make_prompts,
    require_num_prompts,
    require_split,
)
from rollout.types import Prompt

NUM_STEPS = (2, 3, 4, 5, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 25)
PRODUCT_SHARES = (0.0, 0.15, 0.4, 0.8)
EASY_STEPS = (2, 3, 3, 3, 3, 3, 3, 3, 3)
"""Steps of an easy chain: there are eight times as many sums of three steps as of two, so that all
are equally likely and the held-out split does not run out of the shorter ones."""
HARD_STEPS = (14, 16, 18, 20, 22, 24, 25)
HARD_PRODUCT_SHARE = 0.4
GOLDEN_RATIO = 0.6180339887498949
HELD_OUT_ONE_IN = 50
MAX_MISSES = 100_000
"""Draws in a row without a new question after which there is none left."""


@dataclass(frozen=True, slots=True)
class Chain:
    """One question: a start value and the steps that follow.

    Example: Chain(start=3, steps=(("+", 4), ("*", 3))) asks "a3 b+4 c*3"; its answer is "1".
    """

    start: int
    """First value, in [0, 100); from 10 on every result is taken modulo 100 instead of 10."""
    steps: tuple[tuple[str, int], ...]
    """Operation ("+", "-", "*") and operand (2 to 9) of each step; at most 25, labelled b to z."""

    @property
    def question(self) -> str:
        """The user's message."""
        steps = (f"{_label(i)}{op}{operand}" for i, (op, operand) in enumerate(self.steps))
        return " ".join((f"a{self.start}", *steps))

    @property
    def modulus(self) -> int:
        """10 for a start of one digit, 100 for a start of two."""
        return 10 if self.start < 10 else 100

    @property
    def answer(self) -> str:
        """The last result, in [0, modulus)."""
        value = self.start
        for op, operand in self.steps:
            value = apply_step(value, op, operand, self.modulus)
        return str(value)

    @property
    def features(self) -> tuple[float, ...]:
        """How many sums, differences and products it takes, and whether it is modulo 100."""
        operations = [op for op, _ in self.steps]
        counts = (float(operations.count(op)) for op in "+-*")
        return (*counts, float(self.modulus == 100))


@dataclass(slots=True, kw_only=True)
class Teacher:
    """Writes worked solutions with mistakes; the mistakes set how well a pupil samples."""

    verbose_share: float = 0.7
    """Share of solutions that repeat the operation in each step, in [0, 1]."""
    plus_error: float = 0.02
    """Chance that a sum is off by one, in [0, 1]."""
    minus_error: float = 0.06
    """Chance that a difference is off by one, in [0, 1]."""
    times_error: float = 0.18
    """Chance that a product is off by one, in [0, 1]."""

    def __post_init__(self) -> None:
        """Refuse what is not a probability."""
        for name in ("verbose_share", "plus_error", "minus_error", "times_error"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"teacher.{name} must lie in [0, 1], got {value!r}")

    def solve(self, chain: Chain, rng: random.Random) -> str:
        """Write a solution; steps after a mistake continue from the wrong value."""
        errors = {"+": self.plus_error, "-": self.minus_error, "*": self.times_error}
        verbose = rng.random() < self.verbose_share
        value = chain.start
        words = []
        for i, (op, operand) in enumerate(chain.steps):
            value = apply_step(value, op, operand, chain.modulus)
            if rng.random() < errors[op]:
                value = (value + rng.choice((-1, 1))) % chain.modulus
            words.append(f"{_label(i)}{op}{operand}={value}" if verbose else f"{_label(i)}{value}")
        return " ".join((*words, "####", str(value)))


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainTask:
    """A fixed set of chain questions, the same for the same seed."""

    split: str = "train"
    """"train" or "held_out"; the two never share a question."""
    num_prompts: int = 192
    """Questions in the set, at least 1."""
    seed: int = 0
    """Which set to draw: one seed makes one set of each split."""
    max_steps: int = 25
    """Longest chain, 2 to 25; a response takes 3 or 6 tokens a step."""
    easy_share: float = 0.0
    """Share of the questions that are sums of two or three steps, in [0, 1]."""
    hard_share: float = 0.0
    """Share of long chains modulo 100, in [0, 1]; what the shares leave is `draw_chain`'s mix."""

    def __post_init__(self) -> None:
        """Refuse settings that name no set of questions."""
        require_split(self.split)
        require_num_prompts(self.num_prompts)
        if not NUM_STEPS[0] <= self.max_steps <= NUM_STEPS[-1]:
            raise ValueError(f"task.max_steps must lie in [2, 25], got {self.max_steps!r}")
        for name in ("easy_share", "hard_share"):
            share = getattr(self, name)
            if not 0.0 <= share <= 1.0:
                raise ValueError(f"task.{name} must lie in [0, 1], got {share!r}")
        if self.easy_share + self.hard_share > 1.0:
            raise ValueError(
                "task.easy_share and task.hard_share must not exceed 1 together, got "
                f"{self.easy_share!r} and {self.hard_share!r}"
            )
        if self.hard_share > 0 and self.max_steps < HARD_STEPS[0]:
            raise ValueError(
                f"task.max_steps must be at least {HARD_STEPS[0]} for hard chains; raise it or set "
                f"task.hard_share=0, got {self.max_steps!r}"
            )

    def prompts(
        self, tokenizer: Any, *, max_tokens: int | None = None, check: Check | None = None
    ) -> list[Prompt]:
        """Draw the set and tokenise it; see `rollout.tasks.prompts.Task`."""
        return make_prompts(self._items(), tokenizer, max_tokens=max_tokens, check=check)

    def _items(self) -> Iterator[Item]:
        rng = random.Random(f"{self.seed}/{self.split}")
        chains = distinct_chains(
            lambda index: self._draw(rng, index),
            self.num_prompts,
            held_out=self.split == "held_out",
            limits=f" with task.max_steps={self.max_steps} and these shares",
        )
        for index, chain in enumerate(chains):
            yield Item(
                chain.question,
                chain.answer,
                source="chain",
                place=f"chain {index}",
                features=chain.features,
            )

    def _draw(self, rng: random.Random, index: int) -> Chain:
        # The index decides on the part, not chance: both splits and every prefix of a set keep the
        # shares, and a part with few questions is not thinned out by repeats.
        place = index * GOLDEN_RATIO % 1.0
        if place < self.easy_share:
            return draw_easy_chain(rng, [k for k in EASY_STEPS if k <= self.max_steps])
        if place >= 1.0 - self.hard_share:
            return draw_hard_chain(rng, [k for k in HARD_STEPS if k <= self.max_steps])
        return draw_chain(rng, [k for k in NUM_STEPS if k <= self.max_steps])


def distinct_chains(
    draw: Callable[[int], Chain], number: int, *, held_out: bool, limits: str = ""
) -> Iterator[Chain]:
    """Draw until there are so many different questions of one split.

    Args:
        draw: Draws a chain, given how many were taken before.
        number: Chains to yield.
        held_out: Which split they are of.
        limits: What else bounds the questions, for the complaint.

    Raises:
        ValueError: If there are too few.
    """
    seen: set[str] = set()
    misses = 0
    while len(seen) < number:
        if misses > MAX_MISSES:
            split = "held_out" if held_out else "train"
            raise ValueError(
                f"task.num_prompts must not exceed the {split} questions there are{limits}, about "
                f"{len(seen)}, got {number!r}"
            )
        misses += 1
        chain = draw(len(seen))
        question = chain.question
        if question in seen or is_held_out(question, HELD_OUT_ONE_IN) != held_out:
            continue
        misses = 0
        seen.add(question)
        yield chain


def draw_chain(rng: random.Random, lengths: Sequence[int] = NUM_STEPS) -> Chain:
    """Draw a question: its number of steps from `lengths`, its share of products independently."""
    num_steps = rng.choice(lengths)
    product_share = rng.choice(PRODUCT_SHARES)
    steps = tuple(
        ("*" if rng.random() < product_share else rng.choice("+-"), rng.randint(2, 9))
        for _ in range(num_steps)
    )
    return Chain(start=rng.randint(0, 9), steps=steps)


def draw_easy_chain(rng: random.Random, lengths: Sequence[int] = EASY_STEPS) -> Chain:
    """Draw a short chain of sums only."""
    steps = tuple(("+", rng.randint(2, 9)) for _ in range(rng.choice(lengths)))
    return Chain(start=rng.randint(0, 9), steps=steps)


def draw_hard_chain(rng: random.Random, lengths: Sequence[int] = HARD_STEPS) -> Chain:
    """Draw a long chain modulo 100 whose answer has two digits, so that no single digit hits it."""
    while True:
        steps = tuple(
            ("*" if rng.random() < HARD_PRODUCT_SHARE else rng.choice("+-"), rng.randint(2, 9))
            for _ in range(rng.choice(lengths))
        )
        chain = Chain(start=rng.randint(10, 99), steps=steps)
        if len(chain.answer) == 2:
            return chain


def apply_step(value: int, op: str, operand: int, modulus: int = 10) -> int:
    """Apply one operation and take the result modulo `modulus`."""
    if op == "+":
        return (value + operand) % modulus
    if op == "-":
        return (value - operand) % modulus
    return (value * operand) % modulus


def _label(step: int) -> str:
    return chr(ord("b") + step)
