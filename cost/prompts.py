"""What the scheduler knows of the prompts, and what one finished ticket teaches about its prompt.

PromptPool + Visit, Visit, ... -> plug.update(state, prompts, visits)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cost.types import BoolArray, FloatArray, IntArray, LengthReport

Features = npt.NDArray[np.float16]
MAX_FEATURES = 64
"""Columns of a table of features: 16 bits each for every prompt."""


@dataclass(frozen=True, slots=True)
class PromptPool:
    """The N prompts of a task, as far as costs go."""

    prompt_tokens: IntArray
    """[N] length of each prompt, at least 1."""
    source_codes: IntArray
    """[N] index of each prompt's source in `source_names`."""
    source_names: tuple[str, ...]
    """Names of the data sets or generators, in order of first appearance."""
    max_tokens: int
    """Largest number of tokens in one response."""
    features: Features | None = None
    """[N, F] what else is known of each prompt, columns of about unit variance; None for nothing.
    Predictors read it, nobody else."""

    @property
    def num_prompts(self) -> int:
        """N, the number of prompts."""
        return len(self.prompt_tokens)


def prompt_pool(
    prompt_tokens: IntArray,
    sources: Sequence[str],
    max_tokens: int,
    features: Features | None = None,
) -> PromptPool:
    """Build the pool of a task.

    Args:
        prompt_tokens: [N] int, at least 1.
        sources: N names.
        max_tokens: Largest number of tokens in one response, at least 1.
        features: [N, F <= 64] finite numbers, or None.

    Raises:
        ValueError: If there is no prompt, a prompt has no tokens, `max_tokens` is not positive or
            the features are not of that shape.
    """
    if max_tokens < 1:
        raise ValueError(f"max_tokens must be positive, got {max_tokens!r}")
    tokens = np.asarray(prompt_tokens, dtype=np.int64)
    if len(tokens) == 0:
        raise ValueError(f"prompt_tokens must hold at least one prompt, got {len(tokens)!r}")
    if tokens.ndim != 1 or len(tokens) != len(sources):
        raise ValueError(
            f"prompt_tokens must hold one number for each of the {len(sources)} sources, "
            f"got shape {tokens.shape!r}"
        )
    if tokens.min() < 1:
        raise ValueError(f"prompt_tokens must be positive, got {int(tokens.min())!r}")
    code_of: dict[str, int] = {}
    codes = np.fromiter(
        (code_of.setdefault(name, len(code_of)) for name in sources), np.int64, len(sources)
    )
    if features is not None:
        features = np.asarray(features, dtype=np.float16)
        if features.ndim != 2 or len(features) != len(tokens) or features.shape[1] > MAX_FEATURES:
            raise ValueError(
                f"features must hold up to {MAX_FEATURES} numbers for each of the {len(tokens)} "
                f"prompts, got shape {features.shape!r}"
            )
        if not np.isfinite(features).all():
            raise ValueError(
                "features must be finite in 16 bits; scale their columns to unit variance, got "
                f"{int((~np.isfinite(features)).sum())} that are not"
            )
    return PromptPool(tokens, codes, tuple(code_of), max_tokens, features)


@dataclass(frozen=True, slots=True)
class Visit:
    """One observed, non-empty group with what was derived from it."""

    report: LengthReport
    weight: float
    """The ticket's design weight 1 / (N p)."""
    usable: BoolArray
    """[n] True where the reward can be used."""
    advantages: FloatArray
    """[n] advantages from the full group; 0 where the reward is not usable."""
    factors: FloatArray
    """[n] aggregation factors, up to one factor for all visits of a run."""


@dataclass(frozen=True, slots=True)
class TurnsTaken:
    """What turns take beside the sampling of N responses: as expected, or as it was.

    Example: one observation of 6 tokens, before which 80 were computed again.

        TurnsTaken(
            prefill_tokens=array([86.0]),
            environment_tokens=array([6.0]),
            inherited_tokens=array([0.0]),
            tool_seconds=array([0.1]),
        )
    """

    prefill_tokens: FloatArray
    """[N] tokens computed before turns after the first, those of the environment among them."""
    environment_tokens: FloatArray
    """[N] tokens of a response's length that the environment writes."""
    inherited_tokens: FloatArray
    """[N] of the others, those that are sampled for another response, and once for both."""
    tool_seconds: FloatArray
    """[N] seconds in which it waits for its environment and holds a slot."""

    @property
    def given_tokens(self) -> FloatArray:
        """[N] tokens of a response's length that are not sampled for it."""
        return self.environment_tokens + self.inherited_tokens


def visit_means(
    visits: Sequence[Visit], values: FloatArray, counted: BoolArray | None = None
) -> tuple[IntArray, FloatArray]:
    """Average one value per response over each visit's responses.

    Args:
        visits: V visits, at least one.
        values: [R] of all visits' responses, end to end.
        counted: [R] True for responses to count; None for all.

    Returns:
        [V] int64 responses counted, and [V] float64 their mean, 0 where there is none.
    """
    sizes = np.array([visit.report.num_responses for visit in visits])
    starts = np.cumsum(sizes) - sizes
    counts = sizes
    if counted is not None:
        counts = np.add.reduceat(counted.astype(np.int64), starts)
        values = np.where(counted, values, 0.0)
    return counts, np.add.reduceat(values, starts, dtype=np.float64) / np.maximum(counts, 1)


def by_occurrence(indices: IntArray) -> list[IntArray]:
    """Split V visits into all first visits of their prompts, all second ones, and so on.

    No prompt occurs twice in a part, so that each part can be taken in at once.

    Args:
        indices: [V] int64, the prompt of each visit, oldest first.

    Returns:
        Positions in `indices`; all parts together have each of [0, V) once.

    Example:
        by_occurrence(array([4, 7, 4])) is [array([0, 1]), array([2])].
    """
    order = np.argsort(indices, kind="stable")
    _, starts, counts = np.unique(indices[order], return_index=True, return_counts=True)
    return [order[starts[counts > k] + k] for k in range(int(counts.max(initial=0)))]
