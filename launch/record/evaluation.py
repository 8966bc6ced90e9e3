"""What a policy's responses to named sets of prompts come to: figures, metrics, JSON, a table.

    reports of a set -> SetResult -> Evaluation -> metrics, files, table

avg@n is the mean over prompts of the share of a prompt's n responses that pass, which is pass@1;
pass@k is estimated without bias from the same responses (`launch.record.outcomes.pass_at_k`), and
maj@n says how often the answer that most of them give passes (`majority_passes`). Rewards that say
no answer (`Score.extracted`) have no maj@n.
Responses to one prompt are alike, so the interval of each figure is over prompts: Student's t, 95%,
cut to [0, 1] where the figure is a share. It speaks of other prompts of the same kind. Where all
prompts agree it has no width, which says nothing about prompts that were not asked.

A prompt without a scored response is lost: it is in no rate, is counted and named. What is lost
is not lost by chance (long responses are, more than others), so that figures over fewer prompts
than were asked may be off by more than their intervals; each says over how many it is.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from conf.evaluation import HELD_OUT
from cost.types import LengthReport, RewardStatus
from launch.record.formatting import number_text, share_text
from launch.record.outcomes import (
    EvaluationResult,
    PromptOutcome,
    count_of,
    evaluate_statistics,
    majority_passes,
    outcomes,
    pass_at_k,
)
from launch.record.statistics import MARGIN, Estimate, t_quantile
from rollout.types import Prompt

UNCUT_COLUMNS = 160
"""Characters that hold every column of the table."""
NAMED_PROMPTS = 20
"""Lost prompts that are named on the terminal; `evaluation.json` names all."""
MOST_SOURCES = 64
"""Sources of a set that get rows and metrics of their own. Where there are more, as where every
prompt names the page that it is from, `evaluation.json` alone has them."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What the responses to some prompts came to, each figure with its uncertainty."""

    num_prompts: int
    """All prompts that were asked."""
    num_lost: int
    """Of these, prompts without a scored response, which are in no rate."""
    num_responses: int
    """Responses with a usable reward."""
    avg: Estimate
    """Mean over prompts of the share of responses that pass (avg@n), in [0, 1]."""
    pass_at: dict[int, Estimate]
    """pass@k by k, each over the prompts with at least k scored responses, in [0, 1]."""
    majority: Estimate | None
    """Share of prompts where the answer that most responses give passes (maj@n), in [0, 1]; None
    where no two responses to a prompt gave different answers."""
    length: Estimate
    """Mean over prompts of the mean response length, tokens."""
    truncated_share: float
    """Share of all responses that hit the length limit; NaN without one."""
    timed_out: int
    """Responses whose scoring ran out of time."""
    crashed: int
    """Responses whose scoring crashed."""

    @classmethod
    def of(cls, reports: Sequence[LengthReport], pass_at: Iterable[int]) -> "Figures":
        """Take the reports of an evaluation together.

        Args:
            reports: One or more per prompt; those of failed tickets are empty.
            pass_at: Each k of pass@k, at least 1.
        """
        prompts = outcomes(reports)
        num_responses = sum(report.num_responses for report in reports)
        truncated = sum(int(report.truncated.sum()) for report in reports)
        differ = any(len(set(report.answer_codes.tolist())) > 1 for report in reports)
        return cls(
            num_prompts=len(prompts),
            num_lost=sum(not prompt.num_scored for prompt in prompts),
            num_responses=sum(prompt.num_scored for prompt in prompts),
            avg=Estimate.of([prompt.rate for prompt in prompts if prompt.num_scored]),
            pass_at={
                k: Estimate.of(
                    [pass_at_k(p.num_scored, p.num_passed, k) for p in prompts if p.num_scored >= k]
                )
                for k in pass_at
            },
            majority=Estimate.of([majority_passes(r) for r in reports if r.usable.any()])
            if differ
            else None,
            length=Estimate.of([p.length_mean for p in prompts if math.isfinite(p.length_mean)]),
            truncated_share=truncated / num_responses if num_responses else math.nan,
            timed_out=count_of(reports, RewardStatus.TIMED_OUT),
            crashed=count_of(reports, RewardStatus.CRASHED),
        )

    @property
    def num_scored(self) -> int:
        """Prompts with a scored response."""
        return self.num_prompts - self.num_lost

    def to_json(self) -> dict[str, Any]:
        """Return every figure with its standard error and interval."""
        return {
            "num_prompts": self.num_prompts,
            "num_scored_prompts": self.num_scored,
            "num_lost_prompts": self.num_lost,
            "num_responses": self.num_responses,
            "avg": _share_json(self.avg),
            "pass_at": {k: _share_json(found) for k, found in self.pass_at.items()},
            "majority": _share_json(self.majority) if self.majority else None,
            "length_tokens": _json(self.length, self.length.low, self.length.high),
            "truncated_share": self.truncated_share,
            "timed_out": self.timed_out,
            "crashed": self.crashed,
        }


@dataclass(frozen=True, slots=True)
class SetResult:
    """How a policy did on one set."""

    overall: Figures
    sources: dict[str, Figures]
    """The figures of each source of prompts, in order of first appearance."""
    reports: Sequence[LengthReport] = field(repr=False)
    """What the figures are made of: one report per prompt, in the set's order."""
    lost: tuple[int, ...] = ()
    """Positions in the set, from 0, of the prompts without a scored response."""

    @classmethod
    def of(
        cls, prompts: Sequence[Prompt], reports: Sequence[LengthReport], pass_at: Sequence[int]
    ) -> "SetResult":
        """Summarise one set, in all and by source.

        Args:
            prompts: The prompts of the set.
            reports: One per prompt, in the same order.
            pass_at: Each k of pass@k.
        """
        by_source: dict[str, list[LengthReport]] = {}
        for prompt, report in zip(prompts, reports, strict=True):
            by_source.setdefault(prompt.source, []).append(report)
        return cls(
            Figures.of(reports, pass_at),
            {source: Figures.of(group, pass_at) for source, group in by_source.items()},
            reports,
            tuple(i for i, report in enumerate(reports) if not report.usable.any()),
        )

    @property
    def told_sources(self) -> dict[str, Figures]:
        """The sources to tell of: none if one alone would say the same, or if they are too many."""
        return self.sources if 1 < len(self.sources) <= MOST_SOURCES else {}

    def to_json(self) -> dict[str, Any]:
        """Return the figures, in all and by source, and which prompts were lost."""
        sources = {source: figures.to_json() for source, figures in self.sources.items()}
        return self.overall.to_json() | {"lost_prompts": self.lost, "sources": sources}


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How a policy did on every set."""

    version: int
    """Version that the engines held at the start."""
    last_version: int
    """Version that they held at the end; later only where learning went on meanwhile."""
    num_samples: int
    """Responses per prompt in `sampled`."""
    seconds: float
    sampled: dict[str, SetResult]
    """The results of `num_samples` responses per prompt, by name of the set."""
    greedy: dict[str, SetResult] | None
    """The same with one greedy response per prompt; None if not taken."""

    def held_out(self) -> tuple[EvaluationResult, EvaluationResult | None]:
        """Return what `summary.json` tells of the held-out set: sampled and greedy."""
        sampled = evaluate_statistics(self.sampled[HELD_OUT].reports, k=self.num_samples)
        if self.greedy is None:
            return sampled, None
        return sampled, evaluate_statistics(self.greedy[HELD_OUT].reports, k=1)

    def held_out_outcomes(self) -> tuple[list[PromptOutcome], list[PromptOutcome]]:
        """Return what came of every held-out prompt: sampled and greedy, which may not be there."""
        greedy = {} if self.greedy is None else self.greedy
        sets = (self.sampled[HELD_OUT], greedy.get(HELD_OUT))
        sampled, best = ([] if found is None else outcomes(found.reports) for found in sets)
        return sampled, best

    def metrics(self) -> dict[str, float]:
        """Return metrics of the sampled responses, in all and by `told_sources`."""
        found = {
            "evaluation/seconds": self.seconds,
            "evaluation/version": float(self.version),
            "evaluation/last_version": float(self.last_version),
            "evaluation/scored_prompts": float(
                sum(result.overall.num_scored for result in self.sampled.values())
            ),
            "evaluation/lost_prompts": float(
                sum(result.overall.num_lost for result in self.sampled.values())
            ),
        }
        for name, result in self.sampled.items():
            found |= _metrics(f"evaluation/{name}", result.overall)
            for source, figures in result.told_sources.items():
                found |= _metrics(f"evaluation/{name}/{source}", figures)
        return found

    def to_json(self) -> dict[str, Any]:
        """Return everything but the single reports."""
        content: dict[str, Any] = {
            "version": self.version,
            "last_version": self.last_version,
            "num_samples": self.num_samples,
            "seconds": self.seconds,
            "interval": "95%, Student's t over prompts",
        }
        for way, results in (("sampled", self.sampled), ("greedy", self.greedy)):
            if results is not None:
                content[way] = {name: result.to_json() for name, result in results.items()}
        return content


def print_evaluation(evaluation: Evaluation, run_dir: Path) -> None:
    """Print the table, and the folder that holds the files."""
    console = Console()
    if not console.is_terminal:
        # Output that goes to a file need not fit a screen.
        console = Console(width=UNCUT_COLUMNS)
    console.print(table(evaluation))
    for line in lost_lines(evaluation):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(f"files: {run_dir}", markup=False, highlight=False, soft_wrap=True)


def lost_lines(evaluation: Evaluation) -> list[str]:
    """Return a line for each set with lost prompts, naming the first of them."""
    ways = [("", evaluation.sampled), (", greedy", evaluation.greedy or {})]
    return [
        f"{name}{way}: {len(result.lost):,} of {result.overall.num_prompts:,} prompts are lost, "
        "none of their responses was scored; rates are over the other "
        f"{result.overall.num_scored:,}: prompts {_named(result.lost)}"
        for way, results in ways
        for name, result in results.items()
        if result.lost
    ]


def _named(lost: Sequence[int]) -> str:
    shown = ", ".join(str(index) for index in lost[:NAMED_PROMPTS])
    more = len(lost) - NAMED_PROMPTS
    return f"{shown} and {more:,} more, all of them in evaluation.json" if more > 0 else shown


def table(evaluation: Evaluation) -> Table:
    """Return a row per set and source, each figure with its 95% interval.

    A figure that is not over all prompts that were asked has the number of its prompts in brackets.
    """
    figures = evaluation.sampled[HELD_OUT].overall
    ks = [k for k in figures.pass_at if k > 1]
    votes = any(result.overall.majority for result in evaluation.sampled.values())
    headings = [f"avg@{evaluation.num_samples}", *(f"pass@{k}" for k in ks)]
    headings += [f"maj@{evaluation.num_samples}"] * votes
    if evaluation.greedy is not None:
        headings.append("greedy")
    out = Table(
        title="held-out prompts", caption=_caption(evaluation), box=box.ROUNDED,
        title_style="bold",
    )  # fmt: skip
    out.add_column("set", style="cyan", no_wrap=True)
    for heading in ("prompts", *headings, "length", "cut", "not scored", "lost"):
        out.add_column(heading, justify="right")

    def add(label: str, sampled: Figures, greedy: Figures | None) -> None:
        shares: list[Estimate | None] = [sampled.avg, *(sampled.pass_at[k] for k in ks)]
        shares += [sampled.majority] * votes + ([greedy.avg] if greedy else [])
        out.add_row(
            Text(label),
            f"{sampled.num_prompts:,}",
            *(
                _share_text(share) + _over(share, sampled.num_prompts) if share else "-"
                for share in shares
            ),
            number_text(sampled.length.mean, 1) + _over(sampled.length, sampled.num_prompts),
            share_text(sampled.truncated_share),
            f"{sampled.timed_out + sampled.crashed:,}",
            f"{sampled.num_lost:,}",
        )

    for name, result in evaluation.sampled.items():
        best = evaluation.greedy[name] if evaluation.greedy is not None else None
        add(name, result.overall, best.overall if best else None)
        for source, sampled in result.told_sources.items():
            add(f"  {source}", sampled, best.sources[source] if best else None)
    return out


def _metrics(prefix: str, figures: Figures) -> dict[str, float]:
    found = {
        f"{prefix}/pass_rate": figures.avg.mean,
        f"{prefix}/pass_rate_stderr": _stderr(figures.avg),
        f"{prefix}/length_mean_tokens": figures.length.mean,
        f"{prefix}/scored_prompts": float(figures.num_scored),
        f"{prefix}/lost_prompts": float(figures.num_lost),
    }
    for k, estimate in figures.pass_at.items():
        if k > 1:
            found[f"{prefix}/pass_at_{k}"] = estimate.mean
            found[f"{prefix}/pass_at_{k}_stderr"] = _stderr(estimate)
    if figures.majority is not None:
        found[f"{prefix}/majority"] = figures.majority.mean
        found[f"{prefix}/majority_stderr"] = _stderr(figures.majority)
    return found


def _stderr(estimate: Estimate) -> float:
    if estimate.count < 2:
        return math.nan
    return estimate.half_width / t_quantile(estimate.count - 1)


def _share_ends(estimate: Estimate) -> tuple[float, float]:
    if estimate.count < 2:
        return math.nan, math.nan
    return max(estimate.low, 0.0), min(estimate.high, 1.0)


def _share_json(estimate: Estimate) -> dict[str, float]:
    return _json(estimate, *_share_ends(estimate))


def _json(estimate: Estimate, low: float, high: float) -> dict[str, float]:
    return {
        "mean": estimate.mean,
        "stderr": _stderr(estimate),
        "low": low,
        "high": high,
        "num_prompts": estimate.count,
    }


def _share_text(estimate: Estimate) -> str:
    margin = "" if math.isnan(estimate.half_width) else f" +- {estimate.half_width:.3f}"
    return number_text(estimate.mean) + margin


def _over(estimate: Estimate, num_prompts: int) -> str:
    return "" if estimate.count == num_prompts else f" ({estimate.count:,})"


def _caption(evaluation: Evaluation) -> str:
    caption = f"{MARGIN} prompts"
    results = [*evaluation.sampled.values(), *(evaluation.greedy or {}).values()]
    partial = any(
        estimate.count < result.overall.num_prompts
        for result in results
        for estimate in (result.overall.length, *result.overall.pass_at.values())
    )
    return f"{caption}; (n): over n prompts only" if partial else caption
