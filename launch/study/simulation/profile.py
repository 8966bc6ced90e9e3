"""Profiles: everything about a machine, a model and a task that the simulation has to be told.

    measured   `python -m launch.simulate fit=RUN_FOLDER out=conf/profile/NAME.yaml`
    stated     numbers from data sheets and judgement; `source` says so

Keys are `profile.*`. Seconds are of one accelerator unless said otherwise.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cost.draws.streams import generator_for
from cost.types import FloatArray, IntArray
from launch.study.simulation.engine import EngineSpeed


def _require(condition: bool, message: str, value: object) -> None:
    if not condition:
        raise ValueError(f"profile.{message}, got {value!r}")


def _require_all(plug: Any, where: str, keys: tuple[str, ...]) -> None:
    for key in keys:
        value = getattr(plug, key)
        _require(0 <= value < math.inf, f"{where}{key} must be finite and not negative", value)


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
        _require(
            len(sizes) == 1 and sizes != {0}, "prompts must have lists of one length", sorted(sizes)
        )
        _require(min(self.tokens) >= 1, "prompts.tokens must be at least 1", min(self.tokens))
        shortest = min(self.mean_tokens)
        _require(shortest >= 1, "prompts.mean_tokens must be at least 1", shortest)
        worst = min(self.pass_rates, key=lambda rate: rate * (1 - rate))
        _require(0 < worst < 1, "prompts.pass_rates must lie in (0, 1)", worst)

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
            _require(1 <= value < math.inf, f"prompts.{key} must be at least 1", value)
        _require_all(self, "prompts.", ("tokens_log_sd", "mean_tokens_log_sd", "logit_sd"))
        _require(0 < self.pass_rate < 1, "prompts.pass_rate must lie in (0, 1)", self.pass_rate)
        _require(
            -1 <= self.logit_length_correlation <= 1,
            "prompts.logit_length_correlation must lie in [-1, 1]",
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
        _require_all(self, "lengths.", ("log_sd",))
        ordered = all(a <= b for a, b in zip(self.quantiles, self.quantiles[1:], strict=False))
        positive = not self.quantiles or (self.quantiles[0] >= 0 and self.quantiles[-1] > 0)
        _require(
            len(self.quantiles) != 1 and ordered and positive,
            "lengths.quantiles must be none or at least two, rising and not negative",
            self.quantiles,
        )
        _require(
            0 <= self.truncated_share <= 1,
            "lengths.truncated_share must lie in [0, 1]",
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


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningLaw:
    """How the policy gets better. An assumption: what the simulation says of quality hangs on it.

    An update adds the same to the logit of every prompt's pass rate:

        gain_logits * m / (m + noise_responses) * (1 - staleness_discount)^staleness

    m is the effective number of responses that carry gradient, (sum |w A|)^2 / sum (w A)^2 over
    the responses kept, with weight w and advantage A. The middle factor is the law of diminishing
    returns of larger batches, 1 / (1 + B_noise / B) (McCandlish et al. 2018, arXiv:1812.06162,
    section 2.2), with m for B; that it holds for the logits of pass rates is ours and unproved.
    """

    gain_logits: float
    """Of one update on endlessly many responses."""
    noise_responses: float
    """Responses at which an update does half as much."""
    staleness_discount: float = 0.0
    """Share of an update that each version of mean staleness takes away, in [0, 1); 0 lets
    staleness cost nothing."""

    def __post_init__(self) -> None:
        """Check ranges."""
        _require_all(self, "learning.", ("gain_logits", "noise_responses"))
        _require(
            0 <= self.staleness_discount < 1,
            "learning.staleness_discount must lie in [0, 1)",
            self.staleness_discount,
        )

    def gain(self, weights: FloatArray, advantages: FloatArray, staleness: float) -> float:
        """Logits that an update on [R] kept responses adds."""
        worth = np.abs(weights * advantages)
        squares = float(np.sum(worth**2))
        if squares == 0:
            return 0.0
        effective = float(np.sum(worth)) ** 2 / squares
        share = effective / (effective + self.noise_responses)
        return float(self.gain_logits * share * (1 - self.staleness_discount) ** staleness)


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerSpeed:
    """How long L learners take for an update.

    seconds = passes over a batch x (update_seconds + token_seconds x tokens of the fullest learner
              + sequence_seconds x sequences / L)
            + optimiser steps x all-reduce (for L > 1)

    The fullest learner has ceil(rows / L) of the packed rows: beyond one row each, more learners
    are of no use. An all-reduce takes 2 (L - 1) / L x reduce_bytes / reduce_bytes_per_second +
    ceil(log2 L) x reduce_latency_seconds.
    """

    update_seconds: float = 0.0
    """Of a pass over a batch, whatever is in it."""
    token_seconds: float
    """Of a trained token, prompts repeated with each response: forward and backward."""
    sequence_seconds: float = 0.0
    """Of a trained response."""
    row_tokens: int
    """Room in a packed row."""
    reduce_bytes: float = 0.0
    """Gradient that the learners add up in an optimiser step."""
    reduce_bytes_per_second: float = math.inf
    """Of one learner's link."""
    reduce_latency_seconds: float = 0.0

    def __post_init__(self) -> None:
        """Check ranges."""
        keys = ("update_seconds", "token_seconds", "sequence_seconds", "reduce_bytes",
                "reduce_latency_seconds")  # fmt: skip
        _require_all(self, "learner.", keys)
        _require(self.row_tokens >= 1, "learner.row_tokens must be at least 1", self.row_tokens)
        _require(
            self.reduce_bytes_per_second > 0,
            "learner.reduce_bytes_per_second must be positive",
            self.reduce_bytes_per_second,
        )

    def seconds(self, tokens: int, sequences: int, num_learners: int, num_steps: int) -> float:
        """Seconds of one pass with `num_steps` optimiser steps."""
        rows = math.ceil(tokens / self.row_tokens)
        fullest = tokens * math.ceil(rows / num_learners) / rows if rows else 0.0
        return (
            self.update_seconds
            + self.token_seconds * fullest
            + self.sequence_seconds * sequences / num_learners
            + num_steps * self.reduce_seconds(num_learners)
        )

    def reduce_seconds(self, num_learners: int) -> float:
        """Seconds of one all-reduce."""
        sent = 2 * (num_learners - 1) / num_learners * self.reduce_bytes
        latency = math.ceil(math.log2(num_learners)) * self.reduce_latency_seconds
        return sent / self.reduce_bytes_per_second + latency


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishSpeed:
    """How long a publish takes.

    The engines stand still for seconds + weight_bytes / bytes_per_second + engine_seconds x R; the
    learners then also wait for the parity probe, probe_seconds.
    """

    seconds: float
    weight_bytes: float = 0.0
    bytes_per_second: float = math.inf
    """At which one copy of the weights reaches all engines together (a broadcast)."""
    engine_seconds: float = 0.0
    """For each engine."""
    probe_seconds: float = 0.0

    def __post_init__(self) -> None:
        """Check ranges."""
        _require_all(self, "publish.", ("seconds", "weight_bytes", "engine_seconds",
                                       "probe_seconds"))  # fmt: skip
        _require(
            self.bytes_per_second > 0,
            "publish.bytes_per_second must be positive",
            self.bytes_per_second,
        )

    def still_seconds(self, num_engines: int) -> float:
        """Seconds for which the engines stand still."""
        transfer = self.weight_bytes / self.bytes_per_second
        return self.seconds + transfer + self.engine_seconds * num_engines


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A machine, a model and a task."""

    source: str
    """Where the numbers come from: "measured: ..." or "stated: ..."."""
    accelerator: str
    """What one is, e.g. "CPU core"."""
    max_tokens: int
    """Largest number of tokens in a response."""
    surprise_per_token: float
    """Mean surprise of a token."""
    prompts: Any
    """`MeasuredPrompts` or `StatedPrompts`."""
    lengths: ResponseLengths
    learning: LearningLaw
    engine: EngineSpeed
    learner: LearnerSpeed
    publish: PublishSpeed
    engine_slowdown: float = 1.0
    """Factor on the engines' seconds while the learners compute too, at least 1; above 1 where they
    share cores or memory."""
    learner_slowdown: float = 1.0
    """The same for the learners' seconds while an engine computes."""

    def __post_init__(self) -> None:
        """Check ranges."""
        _require(hasattr(self.prompts, "table"), "prompts must have the method table", self.prompts)
        _require(self.max_tokens >= 1, "max_tokens must be at least 1", self.max_tokens)
        _require_all(self, "", ("surprise_per_token",))
        for key in ("engine_slowdown", "learner_slowdown"):
            value = getattr(self, key)
            _require(1 <= value < math.inf, f"{key} must be finite and at least 1", value)


def sigmoid(logits: FloatArray) -> FloatArray:
    """Return 1 / (1 + exp(-x))."""
    return np.asarray(1 / (1 + np.exp(-logits)), dtype=np.float64)


def logit(rates: FloatArray) -> FloatArray:
    """Return log(x / (1 - x)) for x in (0, 1)."""
    return np.asarray(np.log(rates / (1 - rates)), dtype=np.float64)
