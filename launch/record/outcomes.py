"""What the responses to prompts came to: pass rates, lengths, and their errors over prompts.

    reports -> outcomes, one a prompt -> evaluate_statistics -> EvaluationResult

With c successes among n responses to a prompt, the chance that k responses hold at least one is
estimated without bias by 1 - C(n - c, k) / C(n, k) (Chen et al. 2021, arXiv:2107.03374, eq. 1).
Responses to one prompt are alike, so errors are over prompts. A standard error is the deviation of
the per-prompt means over the root of the number of prompts; a half width is half of the 95%
interval that Student's t makes of it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cost.types import LengthReport, RewardStatus
from launch.record.metrics import successes
from launch.record.statistics import Estimate, t_quantile


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """The policy on held-out prompts; responses without a usable reward are left out of the rates.

    Example: 100 prompts with 8 responses each give pass_rate=0.42, k=8, pass_at_k=0.8.
    """

    num_prompts: int
    """Prompts with at least one usable reward."""
    num_responses: int
    """Responses with a usable reward."""
    pass_rate: float
    """pass@1: mean over prompts of the share of successes."""
    pass_rate_stderr: float
    pass_rate_half_width: float
    k: int
    pass_at_k: float
    """Mean over the prompts with at least k usable rewards; NaN if there is none."""
    pass_at_k_stderr: float
    pass_at_k_half_width: float
    length_mean: float
    """Mean over prompts of the mean response length, tokens."""
    length_stderr: float
    length_half_width: float
    truncated_share: float
    """Share of all responses that hit the length limit."""
    timed_out: int
    """Responses whose scoring ran out of time."""
    crashed: int
    """Responses whose scoring crashed."""
    num_lost: int = 0
    """Prompts that were asked without any response being scored: they are in no rate."""


def pass_at_k(num_responses: int, num_successes: int, k: int) -> float:
    """Return the chance that k of the responses, drawn without replacement, hold a success.

    Raises:
        ValueError: If there are fewer than k responses, where no unbiased estimate exists.
    """
    if not 1 <= k <= num_responses:
        raise ValueError(f"k must lie in [1, {num_responses}], got {k!r}")
    return 1 - math.comb(num_responses - num_successes, k) / math.comb(num_responses, k)


def majority_passes(report: LengthReport) -> float:
    """Return the chance that the answer which most responses give passes (maj@n, cons@n).

    The vote is of all scored responses; those without an answer vote as if that were one (Wang et
    al. 2022, arXiv:2203.11171, section 2). Between answers with equally many votes chance decides.

    Args:
        report: Of one prompt.

    Returns:
        In [0, 1]; NaN without a scored response.
    """
    codes, votes = np.unique(report.answer_codes[report.usable], return_counts=True)
    if not len(codes):
        return math.nan
    passed = successes(report)
    most = codes[votes == votes.max()]
    shares = [passed[report.usable & (report.answer_codes == code)].mean() for code in most]
    return float(np.mean(shares))


@dataclass(frozen=True, slots=True)
class PromptOutcome:
    """What all responses to one prompt came to."""

    num_scored: int
    """Responses with a usable reward."""
    num_passed: int
    """Of these, with a reward of 1 or more."""
    length_mean: float
    """Mean length of all responses, tokens; NaN without one."""

    @property
    def rate(self) -> float:
        """Share of the scored responses that passed; at least one must have been scored."""
        return self.num_passed / self.num_scored


def outcomes(reports: Sequence[LengthReport]) -> list[PromptOutcome]:
    """Return one outcome per prompt, several reports of one prompt taken together."""
    of_prompt: dict[int, list[LengthReport]] = {}
    for report in reports:
        of_prompt.setdefault(report.prompt_index, []).append(report)
    found = []
    for group in of_prompt.values():
        tokens = np.concatenate([report.lengths for report in group])
        found.append(
            PromptOutcome(
                num_scored=sum(int(report.usable.sum()) for report in group),
                num_passed=sum(int(successes(report).sum()) for report in group),
                length_mean=float(tokens.mean()) if len(tokens) else math.nan,
            )
        )
    return found


def evaluate_statistics(reports: Sequence[LengthReport], k: int) -> EvaluationResult:
    """Summarise an evaluation; several reports of one prompt are taken together.

    Args:
        reports: One or more per prompt; those of failed tickets are empty and add nothing.
        k: Of pass@k, at least 1.
    """
    prompts = outcomes(reports)
    rates = [prompt.rate for prompt in prompts if prompt.num_scored]
    at_k = [pass_at_k(p.num_scored, p.num_passed, k) for p in prompts if p.num_scored >= k]
    lengths = [prompt.length_mean for prompt in prompts if math.isfinite(prompt.length_mean)]
    num_usable = sum(prompt.num_scored for prompt in prompts)
    num_responses = sum(report.num_responses for report in reports)
    truncated = sum(int(report.truncated.sum()) for report in reports)
    pass_rate, pass_rate_stderr, pass_rate_half_width = _mean_and_errors(rates)
    pass_k, pass_k_stderr, pass_k_half_width = _mean_and_errors(at_k)
    length, length_stderr, length_half_width = _mean_and_errors(lengths)
    return EvaluationResult(
        num_prompts=len(rates),
        num_responses=num_usable,
        pass_rate=pass_rate,
        pass_rate_stderr=pass_rate_stderr,
        pass_rate_half_width=pass_rate_half_width,
        k=k,
        pass_at_k=pass_k,
        pass_at_k_stderr=pass_k_stderr,
        pass_at_k_half_width=pass_k_half_width,
        length_mean=length,
        length_stderr=length_stderr,
        length_half_width=length_half_width,
        truncated_share=truncated / num_responses if num_responses else math.nan,
        timed_out=count_of(reports, RewardStatus.TIMED_OUT),
        crashed=count_of(reports, RewardStatus.CRASHED),
        num_lost=len(prompts) - len(rates),
    )


def changes(
    before: Sequence[PromptOutcome], after: Sequence[PromptOutcome], k: int
) -> dict[str, Estimate]:
    """Estimate what changed between two evaluations of the same prompts, paired over them.

    Prompts differ more from each other than a policy changes on one of them, so that the interval
    of the mean difference is narrower than those of the two means suggest.

    Args:
        before: [N] outcomes.
        after: [N] those of the same prompts, in the same order.
        k: Of pass@k.

    Returns:
        Mean over prompts of after less before, by figure: `pass_rate`, `pass_at_K` and
        `length_mean`; each over the prompts for which both evaluations have it.
    """
    figures: dict[str, Callable[[PromptOutcome], float]] = {
        "pass_rate": lambda one: one.rate if one.num_scored else math.nan,
        f"pass_at_{k}": lambda one: (
            pass_at_k(one.num_scored, one.num_passed, k) if one.num_scored >= k else math.nan
        ),
        "length_mean": lambda one: one.length_mean,
    }
    found = {}
    for name, figure in figures.items():
        differences = [figure(b) - figure(a) for a, b in zip(before, after, strict=True)]
        found[name] = Estimate.of([each for each in differences if math.isfinite(each)])
    return found


def evaluation_keys(
    when: str,
    k: int,
    sampled: EvaluationResult | None = None,
    greedy: EvaluationResult | None = None,
) -> dict[str, object]:
    """Return what `summary.json` tells of an evaluation "before" or "after"; None without one."""
    assert sampled is None or sampled.k == k
    return {
        f"num_prompts_{when}": sampled and sampled.num_prompts,
        f"lost_prompts_{when}": sampled and sampled.num_lost,
        f"pass_rate_{when}": sampled and sampled.pass_rate,
        f"pass_rate_{when}_stderr": sampled and sampled.pass_rate_stderr,
        f"pass_rate_{when}_half_width": sampled and sampled.pass_rate_half_width,
        f"pass_at_{k}_{when}": sampled and sampled.pass_at_k,
        f"pass_at_{k}_{when}_stderr": sampled and sampled.pass_at_k_stderr,
        f"pass_at_{k}_{when}_half_width": sampled and sampled.pass_at_k_half_width,
        f"greedy_{when}": greedy and greedy.pass_rate,
        f"greedy_{when}_stderr": greedy and greedy.pass_rate_stderr,
        f"greedy_{when}_half_width": greedy and greedy.pass_rate_half_width,
        f"length_mean_{when}": sampled and sampled.length_mean,
        f"length_mean_{when}_stderr": sampled and sampled.length_stderr,
        f"length_mean_{when}_half_width": sampled and sampled.length_half_width,
        f"truncated_share_{when}": sampled and sampled.truncated_share,
    }


def change_keys(k: int, changes: Mapping[str, Estimate]) -> dict[str, object]:
    """Return what `summary.json` tells of the changes between them; None where there is none."""
    keys: dict[str, object] = {}
    for figure in ("pass_rate", f"pass_at_{k}", "greedy", "length_mean"):
        found = changes.get(figure)
        keys[f"{figure}_change"] = found and found.mean
        keys[f"{figure}_change_half_width"] = found and found.half_width
    return keys


def _mean_and_errors(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean, its standard error and half width; NaN where there are too few values."""
    if not values:
        return math.nan, math.nan, math.nan
    if len(values) == 1:
        return values[0], math.nan, math.nan
    error = float(np.std(values, ddof=1) / math.sqrt(len(values)))
    return float(np.mean(values)), error, t_quantile(len(values) - 1) * error


def count_of(reports: Sequence[LengthReport], status: RewardStatus) -> int:
    """Return how many responses have a status."""
    return sum(int((report.status == status).sum()) for report in reports)
