"""Questions from reasoning-gym's public generators, made on this machine.

Only generators on the list below are offered. Each was tried on 25 questions: its scorer gives full
marks to its own answer without any metadata, and less than 0.99 to wrong words, to the answer with
a digit appended and to an unrelated number. Others reward wrong answers or fail on their own.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rollout.tasks.prompts import (
    Check,
    Item,
    make_prompts,
    part_of,
    require_num_prompts,
    require_policy,
    require_split,
)
from rollout.types import Prompt

DATASETS = frozenset(
    {
        "aiw",
        "base_conversion",
        "basic_arithmetic",
        "chain_sum",
        "count_bits",
        "count_primes",
        "decimal_chain_sum",
        "dice",
        "family_relationships",
        "gcd",
        "gsm_symbolic",
        "isomorphic_strings",
        "largest_island",
        "lcm",
        "leg_counting",
        "letter_counting",
        "needle_haystack",
        "number_filtering",
        "number_sequence",
        "polynomial_multiplication",
        "products",
        "rectangle_count",
        "simple_equations",
        "simple_geometry",
        "string_manipulation",
        "syllogism",
    }
)
_TRIES_PER_PROMPT = 200
_IN_SPLIT: Mapping[str, Callable[[int], bool]] = {
    "train": lambda part: part != 0,
    "held_out": lambda part: part == 0,
    "warm_start": lambda part: part == 1,
    "after_warm_start": lambda part: part > 1,
}
"""By split, which of `held_out_one_in` parts of all questions are in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningGymTask:
    """A fixed set of different questions from one generator.

    Questions whose CRC-32 is a multiple of `held_out_one_in` are the held-out split, and those
    where it leaves 1 are for a warm start, so that splits never share a question, however few the
    generator has.
    """

    dataset: str
    """Name of the generator."""
    split: str = "train"
    """"train", which is all that is not held out, or "held_out"; "warm_start", or
    "after_warm_start" for what neither that nor "held_out" has."""
    num_prompts: int = 256
    """Questions in the set, at least 1."""
    seed: int = 0
    """Which set to draw; the same seed serves both splits."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the generator, such as `max_terms: 2`."""
    instruction: str = "Put the final answer between <answer> and </answer>."
    """Sentence added after the question; "" adds none."""
    held_out_one_in: int = 10
    """One question in this many is held out, at least 2."""
    long_prompts: str = "refuse"
    """What to do about prompts that are too long: "refuse" or "skip"."""

    def __post_init__(self) -> None:
        """Refuse generators off the list and settings that name no set."""
        if self.dataset not in DATASETS:
            raise ValueError(
                f"task.dataset must be one of {', '.join(sorted(DATASETS))}, got {self.dataset!r}"
            )
        require_split(self.split, "warm_start", "after_warm_start")
        require_policy("task.long_prompts", self.long_prompts)
        require_num_prompts(self.num_prompts)
        if self.held_out_one_in < 2:
            raise ValueError(
                f"task.held_out_one_in must be at least 2, got {self.held_out_one_in!r}"
            )

    def prompts(
        self, tokenizer: Any, *, max_tokens: int | None = None, check: Check | None = None
    ) -> list[Prompt]:
        """Draw the set and tokenise it; see `rollout.tasks.prompts.Task`."""
        return make_prompts(
            self._items(),
            tokenizer,
            max_tokens=max_tokens,
            long_prompts=self.long_prompts,
            check=check,
        )

    def _items(self) -> Iterator[Item]:
        num_tries = self.num_prompts * _TRIES_PER_PROMPT
        generator = open_dataset(self.dataset, self.seed, self.config, num_tries)
        in_split = _IN_SPLIT[self.split]
        seen: set[str] = set()
        for index in range(num_tries):
            if len(seen) == self.num_prompts:
                return
            try:
                entry = generator[index]
            except Exception as error:
                # Settings that a generator takes and cannot make a question from.
                raise ValueError(
                    f"task.config leaves {self.dataset} without question {index} "
                    f"({type(error).__name__}: {error}); see the generator's settings, "
                    f"got {dict(self.config)!r}"
                ) from error
            question = entry["question"].strip()
            if question in seen or not in_split(part_of(question, self.held_out_one_in)):
                continue
            seen.add(question)
            text = f"{question} {self.instruction}".strip()
            place = f"{self.dataset} {index}"
            yield Item(text, entry["answer"].strip(), source=self.dataset, place=place)
        if len(seen) < self.num_prompts:
            raise ValueError(
                f"task.num_prompts is more than {self.dataset} offers in the {self.split} split: "
                f"{len(seen)} different questions in {num_tries} draws; "
                f"ask for fewer or widen task.config, got {self.num_prompts!r}"
            )


def open_dataset(name: str, seed: int, config: Mapping[str, Any], num_entries: int) -> Any:
    """Open a generator; its entries are made when they are asked for.

    Args:
        name: One of `DATASETS`.
        seed: Which entries.
        config: The generator's own settings.
        num_entries: Entries to index; some generators take time and memory for each at once.

    Raises:
        ValueError: If the generator refuses its settings.
    """
    import reasoning_gym

    try:
        return reasoning_gym.create_dataset(name, size=num_entries, seed=seed, **config)
    except Exception as error:
        # Each generator checks its settings in a way of its own, or fails over them.
        raise ValueError(
            f"task.config does not fit {name}: {error}; see the generator's settings, "
            f"got {dict(config)!r}"
        ) from error
