"""Thinning to subsets of largest variance, without weights: PODS and D3S.

Both are biased by design: which response is taken is decided by its reward or advantage, and its
own probability is not undone. They stand beside the rules of `cost.thinning.thinning` so that they
can be compared with them.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cost.advantages.penalties import excess_penalties
from cost.ranges import Range, amount, positive, require_ranges
from cost.thinning.max_variance import max_variance_subsets
from cost.thinning.thinning import Candidates, Thinning
from cost.types import FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class Pods:
    """Train on the responses of each group whose rewards vary most (Xu et al. 2025, 2504.13818).

    Of a group's n usable responses the m of largest reward variance are selected, and their
    advantages are (R - mean) / (deviation + epsilon) over the selected, whatever the `advantage`
    plug made of the full group, less a penalty's excess over their mean. q = m / n, so that 1 / q
    turns the estimator's mean over the group into the mean over the selected. No response's own
    probability is undone: biased by design. Selected responses of advantage exactly 0 are left out,
    like those of equal rewards; with penalties any m of the latter are selected.
    """

    num_kept: int = 4
    """m, the responses of a group to select, at least 2, since advantages compare them with each
    other; a group with fewer is selected whole."""
    epsilon: float = 1e-6
    """Added to the deviation, in units of reward, not negative."""

    objective_preserving: ClassVar[bool] = False
    keeps_zero_advantage: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse settings that are out of range."""
        require_ranges("thinning.", self, {"num_kept": Range(2, 1e9), "epsilon": amount()})

    def thin(self, candidates: Candidates, rng: np.random.Generator) -> Thinning:
        """Select the responses of every group; `rng` breaks ties between equal rewards."""
        size = len(candidates.usable)
        items = rng.permutation(np.flatnonzero(candidates.usable))
        groups = candidates.groups[items]
        selected = max_variance_subsets(candidates.rewards[items], groups, self.num_kept)
        share = np.ones(len(items))
        if len(items):
            num_usable = np.bincount(groups)[groups]
            share = np.minimum(self.num_kept, num_usable) / num_usable
        chosen = items[selected]
        advantages, probabilities = np.zeros(size), np.zeros(size)
        advantages[chosen] = _standardised(
            candidates.rewards[chosen], candidates.groups[chosen], self.epsilon
        )
        if candidates.penalties is not None:
            chosen = np.sort(chosen)
            sizes = np.bincount(candidates.groups[chosen], minlength=1)
            advantages[chosen] -= excess_penalties(
                candidates.penalties[chosen], np.ones(len(chosen), dtype=bool), sizes
            )
        keep = advantages != 0
        probabilities[items] = share
        probabilities[~keep] = 0.0
        return Thinning(keep=keep, probabilities=probabilities, advantages=advantages)


@dataclass(frozen=True, slots=True)
class D3s:
    """Train on few responses and few tokens at first, on more later (D3S, 2509.22115).

    Responses: the N of largest advantage variance over the whole batch, which are the k lowest and
    the N - k highest. Tokens: of these the top K percent by |advantage| x entropy (the learner's
    part). (N, K) moves in a straight line over the run, the aggressive end first. The paper's
    endpoints are not known to us; the defaults are ours, and stay below the fifth of the tokens
    that the paper reports. It goes with `advantage=group_standardised`, as in the paper.

    Each selected response gets q = N / (usable responses), so that 1 / q turns the estimator's mean
    over the batch into the mean over the selected. No response's own probability is undone: biased
    by design. Selected responses of advantage exactly 0 are left out.
    """

    response_share_start: float = 0.25
    """N at the start of the run over the usable responses of a batch, in (0, 1]."""
    response_share_end: float = 0.5
    """N at the end of the run over the usable responses of a batch, in (0, 1]."""
    token_share_start: float = 0.2
    """K at the start of the run, as a share of the selected responses' tokens, in (0, 1]."""
    token_share_end: float = 0.5
    """K at the end of the run, in (0, 1]."""

    objective_preserving: ClassVar[bool] = False
    keeps_zero_advantage: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse settings that are out of range."""
        shares = [f"{of}_share_{end}" for of in ("response", "token") for end in ("start", "end")]
        require_ranges("thinning.", self, dict.fromkeys(shares, positive(1)))

    @property
    def thins_tokens(self) -> bool:
        """Whether there are tokens that it leaves out of the responses it keeps."""
        return min(self.token_share_start, self.token_share_end) < 1

    def shares(self, progress: float) -> tuple[float, float]:
        """Return (N as a share of the usable responses, K) at a progress in [0, 1]."""
        before, after = 1.0 - progress, progress
        return (
            before * self.response_share_start + after * self.response_share_end,
            before * self.token_share_start + after * self.token_share_end,
        )

    def thin(self, candidates: Candidates, rng: np.random.Generator) -> Thinning:
        """Select the responses of the batch; `rng` breaks ties between equal advantages."""
        response_share, token_share = self.shares(candidates.progress)
        items = rng.permutation(np.flatnonzero(candidates.usable))
        # One response alone has no variance.
        num_selected = min(max(round(response_share * len(items)), 2), len(items))
        keep = np.zeros(len(candidates.usable), dtype=bool)
        if len(items):
            one_group = np.zeros(len(items), dtype=np.int64)
            advantages = candidates.advantages[items]
            keep[items] = max_variance_subsets(advantages, one_group, num_selected)
        keep &= candidates.advantages != 0
        probabilities = np.where(keep, num_selected / max(len(items), 1), 0.0)
        return Thinning(keep=keep, probabilities=probabilities, token_share=token_share)


def _standardised(values: FloatArray, groups: IntArray, epsilon: float) -> FloatArray:
    """Standardise within groups: (value - mean) / (population deviation + epsilon).

    Equal values give exact zeros.
    """
    if len(values) == 0:
        return np.zeros(0)
    order = np.lexsort((values, groups))
    _, starts, counts = np.unique(groups[order], return_index=True, return_counts=True)
    in_order = values[order]
    equal = np.repeat(in_order[starts] == in_order[starts + counts - 1], counts)
    means = np.add.reduceat(in_order, starts) / counts
    centred = np.where(equal, 0.0, in_order - np.repeat(means, counts))
    deviations = np.sqrt(np.add.reduceat(centred**2, starts) / counts) + epsilon
    result = np.zeros(len(values))
    scale = np.repeat(deviations, counts)
    result[order] = np.divide(centred, scale, out=np.zeros(len(values)), where=~equal)
    return result
