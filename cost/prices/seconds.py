"""The price in seconds, fitted online to what engines and learners took.

    BatchSpending -> SecondsPrice.update_spending -> FitState (sums only) -> seconds per count

    engine seconds  = a_1 responses + a_2 prefilled tokens + a_3 sampled tokens + a_4 tool seconds
    learner seconds = b_1 responses trained on + b_2 tokens trained on, prompts repeated

Batches of one run look alike, so the counts are nearly collinear and least squares alone would give
any split between them. A ridge holds what the data do not tell at equal seconds per token, in terms
of shares of the total (thereby free of units) and the more firmly the noisier the seconds are; no
coefficient is negative. The fit is ours.

K is the number of counts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from cost.prices.tokens import TokenPrice
from cost.prompts import PromptPool, TurnsTaken, Visit
from cost.ranges import amount, positive, require_ranges
from cost.types import BatchSpending, FloatArray, IntArray

ENGINE_PRIOR = np.array([0.0, 1.0, 1.0, 0.0])
"""Seconds of a response, a prefilled token, a sampled token and a second in which a response waits
for a tool, relative to one another: such waits are free until the data say that they are not."""
LEARNER_PRIOR = np.array([0.0, 1.0])
"""Seconds of a response and of a token, relative to one another."""
NOISES = np.geomspace(0.05, 3.0, 16)
"""The noises that are considered: deviations of a batch's seconds over their mean."""
USUAL_NOISE, USUAL_MASS = 0.2, 3.0
"""The noise that is expected, and for how many batches that counts: a few batches can always
be explained by some split without any noise."""
LEAST_SECONDS = 1e-9
"""Fewer seconds in all are no measurement."""


@dataclass(frozen=True, slots=True)
class FitState:
    """Sums over batches, each batch discounted by those after it."""

    mass: float
    """Number of batches."""
    gram: FloatArray
    """[K, K] sum of products of counts."""
    cross: FloatArray
    """[K] sum of counts times seconds."""
    counts: FloatArray
    """[K] sum of the counts."""
    seconds: float
    squares: float
    """Sum of the squared seconds."""

    @classmethod
    def empty(cls, num_counts: int) -> "FitState":
        """Return the sums over no batch."""
        nothing = np.zeros(num_counts)
        return cls(0.0, np.zeros((num_counts, num_counts)), nothing, nothing.copy(), 0.0, 0.0)

    def folded(self, counts: FloatArray, seconds: float, decay: float) -> "FitState":
        """Take in one batch: [K] counts that took `seconds`."""
        return FitState(
            mass=decay * self.mass + 1.0,
            gram=decay * self.gram + np.outer(counts, counts),
            cross=decay * self.cross + counts * seconds,
            counts=decay * self.counts + counts,
            seconds=decay * self.seconds + seconds,
            squares=decay * self.squares + seconds**2,
        )

    def fitted(self, prior: FloatArray, doubt: float) -> FloatArray | None:
        """Return [K] seconds per count, not negative; None while no seconds or no tokens are known.

        With z_j a count over its mean and y the seconds over theirs, the shares theta minimise

            sum over batches (y - theta z)^2 + (noise / doubt)^2 |theta - prior shares|^2

        which is the most likely theta for normal noise and a normal prior. The noise is the one
        under which the batches are most likely (empirical Bayes).

        Args:
            prior: [K] seconds per count relative to one another, not negative.
            doubt: Deviation of the true shares from the prior ones, positive.
        """
        expected = prior * self.counts
        if not (self.seconds > LEAST_SECONDS and expected.sum() > 0):
            return None
        mean_counts, mean_seconds = self.counts / self.mass, self.seconds / self.mass
        seen = mean_counts > 0
        means = np.where(seen, mean_counts, 1.0)
        shares = expected / expected.sum()
        gram = self.gram / np.outer(means, means)
        cross = self.cross / (means * mean_seconds)
        # Of the errors that the prior shares leave: their squares, and their products with z.
        squares = self.squares / mean_seconds**2 - 2 * cross @ shares + shares @ gram @ shares
        noise = _likeliest_noise(self.mass, gram, cross - gram @ shares, max(squares, 0.0), doubt)
        ridge = (noise / doubt) ** 2
        shares = nonnegative_least_squares(
            gram + ridge * np.eye(len(prior)), cross + ridge * shares
        )
        return np.where(seen, shares * mean_seconds / means, 0.0)


@dataclass(frozen=True, slots=True)
class SecondsState:
    """What is known of the machines."""

    num_batches: int
    """Number of batches whose seconds were told, those left out of the fit included."""
    engine: FitState
    learner: FitState
    error_share: float
    """Error for the last batch, predicted before it was folded; NaN while nothing could be."""


@dataclass(frozen=True, slots=True)
class SecondsPrice:
    """Seconds of the engines and learners that a response takes, from measured batches.

    Tokens are the price until the first batch in the fit (`TokenPrice` with its defaults).

    It has limits. Seconds are wall-clock during which any ticket was in generation: what is fitted
    are averages at the run's own batch size and concurrency, in which responses share an engine.
    That a batch lasts as long as its longest response is not in a sum over tokens. With a staleness
    above 0 the seconds told with a batch are partly those of its neighbours; the totals agree over
    time, while the split between counts is blurred. Measured seconds differ between runs, so that
    draws by this price do not repeat exactly.
    """

    decay: float = 0.95
    """What a batch counts after one more batch, in [0, 1]."""
    doubt: float = 0.5
    """How far the shares of responses, prompts and response tokens in the seconds may be from those
    of equal seconds per token (a standard deviation, the shares sum to about 1); positive."""
    skip_batches: int = 1
    """First batches to leave out, in which engines and learners compile and allocate."""
    prefix_caching: bool = True
    """Whether the engine computes a prompt once for the whole group."""

    def __post_init__(self) -> None:
        """Refuse settings that are out of range."""
        ranges = {"decay": amount(1), "doubt": positive(), "skip_batches": amount()}
        require_ranges("price.", self, ranges)

    def initial_state(self, prompts: PromptPool) -> SecondsState:
        """Return the state that knows no batch."""
        return SecondsState(
            num_batches=0,
            engine=FitState.empty(len(ENGINE_PRIOR)),
            learner=FitState.empty(len(LEARNER_PRIOR)),
            error_share=math.nan,
        )

    def update(
        self, state: SecondsState, prompts: PromptPool, visits: Sequence[Visit]
    ) -> SecondsState:
        """Return the state unchanged: it learns from whole batches."""
        return state

    def update_spending(self, state: SecondsState, spending: BatchSpending) -> SecondsState:
        """Take in what one batch took.

        Raises:
            ValueError: If seconds are negative or not finite.
        """
        for name, seconds in (
            ("engine_seconds", spending.engine_seconds),
            ("learner_seconds", spending.learner_seconds),
        ):
            if not 0 <= seconds < math.inf:
                raise ValueError(f"{name} must be finite and not negative, got {seconds!r}")
        num_batches = state.num_batches + 1
        if num_batches <= self.skip_batches:
            return SecondsState(num_batches, state.engine, state.learner, state.error_share)
        engine, learner = _engine_counts(spending), _learner_counts(spending)
        return SecondsState(
            num_batches=num_batches,
            engine=state.engine.folded(engine, spending.engine_seconds, self.decay),
            learner=state.learner.folded(learner, spending.learner_seconds, self.decay),
            error_share=self._error_share(state, spending),
        )

    def of_drawing(
        self, prompt_tokens: IntArray, lengths: FloatArray, group_size: int, state: SecondsState
    ) -> FloatArray:
        """Return float64 seconds of a response, its share of the prompt and its expected training.

        The learner is expected to pass over a response as often as it did over earlier ones.
        """
        if state.engine.fitted(ENGINE_PRIOR, self.doubt) is None:
            return TokenPrice().of_drawing(prompt_tokens, lengths, group_size)
        seconds = self.of_generating(prompt_tokens, lengths, np.asarray(group_size), state)
        of_learner = self._learner_seconds(prompt_tokens, lengths, state)
        return seconds if of_learner is None else seconds + _trained_share(state) * of_learner

    def of_generating(
        self,
        prompt_tokens: IntArray,
        lengths: IntArray | FloatArray,
        group_sizes: IntArray,
        state: SecondsState,
    ) -> FloatArray:
        """Return float64 seconds of a response, with its share of the prompt, by the engines."""
        per_count = state.engine.fitted(ENGINE_PRIOR, self.doubt)
        if per_count is None:
            return TokenPrice().of_generating(prompt_tokens, lengths, group_sizes)
        prompt_share = 1.0 / group_sizes if self.prefix_caching else np.ones(np.shape(group_sizes))
        overhead, prefill, decode, _ = per_count
        seconds: FloatArray = overhead + prefill * prompt_share * prompt_tokens + decode * lengths
        return np.maximum(seconds, _least(state.engine))

    def of_turns(
        self,
        prompt_tokens: IntArray,
        lengths: FloatArray,
        turns: TurnsTaken,
        state: SecondsState,
    ) -> FloatArray:
        """Return float64 seconds of prefills between turns and of tools, less decoding not done."""
        per_count = state.engine.fitted(ENGINE_PRIOR, self.doubt)
        if per_count is None:
            return TokenPrice().of_turns(prompt_tokens, lengths, turns)
        _, prefill, decode, tool = per_count
        seconds: FloatArray = (
            prefill * turns.prefill_tokens + tool * turns.tool_seconds - decode * turns.given_tokens
        )
        return seconds

    def of_training(
        self, prompt_tokens: IntArray, lengths: IntArray | FloatArray, state: SecondsState
    ) -> FloatArray:
        """Return float64 seconds of one pass of the learner over a response."""
        seconds = self._learner_seconds(prompt_tokens, lengths, state)
        return TokenPrice().of_training(prompt_tokens, lengths) if seconds is None else seconds

    def metrics(self, state: SecondsState) -> dict[str, float]:
        """Return what is fitted so far, by keys of `cost.ledger.METRICS`."""
        metrics: dict[str, float] = {}
        engine = state.engine.fitted(ENGINE_PRIOR, self.doubt)
        if engine is not None:
            metrics["cost/price_overhead_seconds"] = float(engine[0])
            metrics["cost/price_prefill_seconds_per_token"] = float(engine[1])
            metrics["cost/price_decode_seconds_per_token"] = float(engine[2])
            metrics["cost/price_tool_seconds_per_second"] = float(engine[3])
            metrics["cost/price_trained_share"] = _trained_share(state)
        learner = state.learner.fitted(LEARNER_PRIOR, self.doubt)
        if learner is not None:
            metrics["cost/price_update_overhead_seconds"] = float(learner[0])
            metrics["cost/price_update_seconds_per_token"] = float(learner[1])
        if math.isfinite(state.error_share):
            metrics["cost/price_error_share"] = state.error_share
        return metrics

    def _learner_seconds(
        self, prompt_tokens: IntArray, lengths: IntArray | FloatArray, state: SecondsState
    ) -> FloatArray | None:
        per_count = state.learner.fitted(LEARNER_PRIOR, self.doubt)
        if per_count is None:
            return None
        overhead, per_token = per_count
        tokens = np.asarray(prompt_tokens, dtype=np.float64) + lengths
        seconds: FloatArray = np.maximum(overhead + per_token * tokens, _least(state.learner))
        return seconds

    def _error_share(self, state: SecondsState, spending: BatchSpending) -> float:
        """Return |predicted - measured| of both kinds of machines over what was measured."""
        engine = state.engine.fitted(ENGINE_PRIOR, self.doubt)
        learner = state.learner.fitted(LEARNER_PRIOR, self.doubt)
        total = spending.engine_seconds + spending.learner_seconds
        if engine is None or learner is None or total <= LEAST_SECONDS:
            return state.error_share
        errors = (
            engine @ _engine_counts(spending) - spending.engine_seconds,
            learner @ _learner_counts(spending) - spending.learner_seconds,
        )
        return float(np.abs(errors).sum() / total)


def nonnegative_least_squares(gram: FloatArray, cross: FloatArray) -> FloatArray:
    """Minimise x' gram x / 2 - cross' x over x >= 0 by trying every set of positive entries.

    The answer is exact. Its cost doubles with every unknown, of which there are few here.

    Args:
        gram: [K, K] positive definite.
        cross: [K] any numbers.

    Returns:
        [K] the minimising x, not negative.
    """
    best, least = np.zeros(len(cross)), 0.0
    for choice in product((False, True), repeat=len(cross)):
        free = np.array(choice)
        if not free.any():
            continue
        x = np.zeros(len(cross))
        x[free] = np.linalg.solve(gram[np.ix_(free, free)], cross[free])
        value = float(x @ gram @ x / 2 - cross @ x)
        if (x >= 0).all() and value < least:
            best, least = x, value
    return best


def _likeliest_noise(
    mass: float, gram: FloatArray, cross: FloatArray, squares: float, doubt: float
) -> float:
    """Pick the noise of errors e = z delta + noise, with delta normal of deviation `doubt`.

    The usual noise counts as so many errors more.

    Its evidence: -2 log p(e) = mass log noise^2 + log det(1 + gram / ridge)
                  + (e e - cross (gram + ridge)^-1 cross) / noise^2,     ridge = (noise / doubt)^2

    Args:
        mass: Number of batches.
        gram: [K, K] sum of z z.
        cross: [K] sum of z e.
        squares: Sum of e e.
        doubt: Standard deviation of delta, positive.
    """
    values, vectors = np.linalg.eigh(gram)
    values = np.maximum(values, 0.0)[:, None]
    turned = ((vectors.T @ cross) ** 2)[:, None]
    ridges = (NOISES / doubt) ** 2
    left = squares - (turned / (values + ridges)).sum(axis=0) + USUAL_MASS * USUAL_NOISE**2
    surprise = (mass + USUAL_MASS) * np.log(NOISES**2) + left / NOISES**2
    surprise += np.log1p(values / ridges).sum(axis=0)
    return float(NOISES[np.argmin(surprise)])


def _engine_counts(spending: BatchSpending) -> FloatArray:
    counts = (
        spending.responses, spending.prefill_tokens, spending.response_tokens,
        spending.tool_seconds,
    )  # fmt: skip
    return np.array(counts, dtype=np.float64)


def _learner_counts(spending: BatchSpending) -> FloatArray:
    tokens = spending.trained_prompt_tokens + spending.trained_response_tokens
    return np.array((spending.trained_responses, tokens), dtype=np.float64)


def _least(fit: FitState) -> float:
    """Return the seconds of one average token, for an empty response still takes a slot."""
    return fit.seconds / float(fit.counts[1:3].sum())


def _trained_share(state: SecondsState) -> float:
    """Return the mean number of passes of the learner over a generated response."""
    responses = state.engine.counts[0]
    return float(state.learner.counts[0] / responses) if responses > 0 else 0.0
