"""What the simulation is told of a task: its prompts, how long responses are and which pass."""

import math
from dataclasses import dataclass, field

import numpy as np

from conf.checks import require
from cost.draws.streams import generator_for
from cost.types import FloatArray, IntArray
from launch.study.simulation.speeds import require_not_negative


@dataclass(frozen=True, slots=True)
class PromptTable:
    """N prompts as the simulation knows them."""

    tokens: IntArray
    """[N] length of each prompt."""
    mean_tokens: FloatArray
    """[N] mean length of a response."""
    pass_rates: FloatArray
    """[N] chance that a response of the starting policy passes, in (0, 1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredPrompts:
    """Every prompt by itself."""

    tokens: list[int]
    """[N]"""
    mean_tokens: list[float]
    """[N]"""
    pass_rates: list[float]
    """[N]"""

    def __post_init__(self) -> None:
        """Check ranges."""
        sizes = {len(self.tokens), len(self.mean_tokens), len(self.pass_rates)}
        require(
            len(sizes) == 1 and sizes != {0},
            "profile.prompts must have lists of one length",
            sorted(sizes),
        )
        require(
            min(self.tokens) >= 1, "profile.prompts.tokens must be at least 1", min(self.tokens)
        )
        shortest = min(self.mean_tokens)
        require(shortest >= 1, "profile.prompts.mean_tokens must be at least 1", shortest)
        worst = min(self.pass_rates, key=lambda rate: rate * (1 - rate))
        require(0 < worst < 1, "profile.prompts.pass_rates must lie in (0, 1)", worst)

    def table(self, seed: int) -> PromptTable:
        """Return the prompts; the seed does not matter."""
        return PromptTable(
            np.asarray(self.tokens, np.int64),
            np.asarray(self.mean_tokens, np.float64),
            np.asarray(self.pass_rates, np.float64),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StatedPrompts:
    """Prompts drawn from distributions.

    Prompt lengths and mean response lengths are lognormal. The logit of the pass rate is normal and
    falls with the logarithm of the mean response length.
    """

    num_prompts: int
    """N."""
    tokens: float
    """Mean length of a prompt."""
    tokens_log_sd: float
    """Standard deviation of its logarithm."""
    mean_tokens: float
    """Mean over prompts of the mean response length."""
    mean_tokens_log_sd: float
    """Standard deviation over prompts of its logarithm."""
    pass_rate: float
    """Of the median prompt, in (0, 1)."""
    logit_sd: float
    """Standard deviation over prompts of the pass rate's logit."""
    logit_length_correlation: float = 0.0
    """Of the pass rate's logit with the logarithm of the mean response length, in [-1, 1]."""

    def __post_init__(self) -> None:
        """Check ranges."""
        for key in ("num_prompts", "tokens", "mean_tokens"):
            value = getattr(self, key)
            require(1 <= value < math.inf, f"profile.prompts.{key} must be at least 1", value)
        require_not_negative(
            self, "profile.prompts.", ("tokens_log_sd", "mean_tokens_log_sd", "logit_sd")
        )
        require(
            0 < self.pass_rate < 1, "profile.prompts.pass_rate must lie in (0, 1)", self.pass_rate
        )
        require(
            -1 <= self.logit_length_correlation <= 1,
            "profile.prompts.logit_length_correlation must lie in [-1, 1]",
            self.logit_length_correlation,
        )

    def table(self, seed: int) -> PromptTable:
        """Draw the prompts."""
        normal = generator_for(seed, "prompts").standard_normal((3, self.num_prompts))
        tokens = self.tokens * np.exp(self.tokens_log_sd * normal[0] - self.tokens_log_sd**2 / 2)
        spread = self.mean_tokens_log_sd
        mean_tokens = self.mean_tokens * np.exp(spread * normal[1] - spread**2 / 2)
        correlation = self.logit_length_correlation
        mixed = correlation * normal[1] + math.sqrt(1 - correlation**2) * normal[2]
        centre = math.log(self.pass_rate / (1 - self.pass_rate))
        return PromptTable(
            np.maximum(np.rint(tokens), 1).astype(np.int64),
            np.maximum(mean_tokens, 1.0),
            sigmoid(centre + self.logit_sd * mixed),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseLengths:
    """How the lengths of one prompt's responses spread around their mean.

    Either lognormal, or by quantiles; a few run on to the limit whatever their prompt.
    """

    log_sd: float = 0.0
    """Standard deviation of the logarithm of a length; without meaning where there are quantiles.
    """
    quantiles: list[float] = field(default_factory=list)
    """Evenly spaced quantiles, from 0 to 1, of a length over its prompt's mean; between them the
    distribution is straight. Empty for lognormal lengths."""
    truncated_share: float = 0.0
    """Share of the responses that run to the limit, in [0, 1]."""

    def __post_init__(self) -> None:
        """Check ranges."""
        require_not_negative(self, "profile.lengths.", ("log_sd",))
        ordered = all(a <= b for a, b in zip(self.quantiles, self.quantiles[1:], strict=False))
        positive = not self.quantiles or (self.quantiles[0] >= 0 and self.quantiles[-1] > 0)
        require(
            len(self.quantiles) != 1 and ordered and positive,
            "profile.lengths.quantiles must be none or at least two, rising and not negative",
            self.quantiles,
        )
        require(
            0 <= self.truncated_share <= 1,
            "profile.lengths.truncated_share must lie in [0, 1]",
            self.truncated_share,
        )

    def draw(self, mean: float, limit: int, count: int, rng: np.random.Generator) -> IntArray:
        """Draw [n] lengths in [1, limit]."""
        if self.quantiles:
            table = np.asarray(self.quantiles)
            places = np.linspace(0, 1, len(table))
            own = float(np.mean((table[1:] + table[:-1]) / 2))
            relative = np.interp(rng.random(count), places, table) / own
        else:
            relative = np.exp(self.log_sd * rng.standard_normal(count) - self.log_sd**2 / 2)
        lengths: IntArray = np.clip(np.rint(mean * relative), 1, limit).astype(np.int64)
        if self.truncated_share:
            lengths[rng.random(count) < self.truncated_share] = limit
        return lengths


def sigmoid(logits: FloatArray) -> FloatArray:
    """Return 1 / (1 + exp(-x))."""
    return np.asarray(1 / (1 + np.exp(-logits)), dtype=np.float64)


def logit(rates: FloatArray) -> FloatArray:
    """Return log(x / (1 - x)) for x in (0, 1)."""
    return np.asarray(np.log(rates / (1 - rates)), dtype=np.float64)
