"""Counts of everything spent: generated, selectable, trained, and what went wrong.

Tokens are counted twice over: with the share of the prompt that the machine really processes, and
response tokens alone. Generation prefills a cached prompt once; the learner repeats it with every
response. "Selectable" is what keeping all usable responses would have trained on: the yardstick of
thinning, in the same unit as "trained".
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np

from cost.types import (
    BatchSpending,
    BoolArray,
    LengthReport,
    PlayEnd,
    RewardStatus,
    Selection,
    Ticket,
)

METRICS = {
    "cost/tickets": "reports of tickets that came back",
    "cost/pilot_tickets": "of these, pilots and profiles; never trained on",
    "cost/pilot_tokens": "generated tokens of these",
    "cost/exploring_tickets": "of these, exploring ones; no statistic learns from them",
    "cost/exploring_tokens": "generated tokens of these",
    "cost/filtered_tickets": "tickets that an allocator generated and then left out of every batch",
    "cost/filtered_tokens": "generated tokens of these",
    "cost/failed_tickets": "of these, tickets that failed all retries (empty groups)",
    "cost/lost_attempts": "attempts at tickets that were given up and ended after all; never "
    "trained on",
    "cost/wasted_tokens": "generated tokens of these",
    "cost/responses": "responses generated",
    "cost/truncated_responses": "responses that hit the length limit, so that lengths are censored",
    "cost/timed_out_rewards": "responses whose scoring timed out; never trained on",
    "cost/crashed_rewards": "responses whose play or scoring crashed; never trained on",
    "cost/truncated_rewards": "responses left out because the length limit cut them; never trained "
    "on",
    "cost/generated_tokens": "tokens the engines computed: prefilled and sampled tokens",
    "cost/generated_response_tokens": "tokens the engines sampled",
    "cost/turns": "calls of the engines for responses, at least one each",
    "cost/environment_tokens": "tokens of responses that environments wrote",
    "cost/turn_prefill_tokens": "tokens that engines prefilled before turns after the first",
    "cost/tool_seconds": "seconds in which responses waited for environments, added up",
    "cost/tool_calls": "calls of tools",
    "cost/failed_tool_calls": "of these, calls that were bad or that the tool refused",
    "cost/max_turns_responses": "responses that an environment's limit on turns ended",
    "cost/failed_responses": "responses that a tool or environment that failed ended",
    "cost/selectable_responses": "usable responses of learned batches, of exploring tickets those "
    "trained on; once per epoch over a batch",
    "cost/selectable_tokens": "their tokens, the prompt repeated with each response",
    "cost/selectable_response_tokens": "their response tokens",
    "cost/trained_responses": "responses kept for training, once per epoch over a batch",
    "cost/trained_tokens": "their tokens, the prompt repeated with each response",
    "cost/trained_response_tokens": "their response tokens",
    "cost/engine_seconds": "seconds with a ticket in generation, times the engines' accelerators",
    "cost/learner_seconds": "seconds of updating and scoring, times the number of learners",
    "cost/score_seconds": "of these, seconds of gradient norms, and of the reference where it is "
    "in the reward",
    "cost/uniform_generated_tokens_estimated": "tokens that uniform draws would have generated for "
    "the learned batches at the same variance: theirs over 1 - draw_saving_estimated",
    "cost/uniform_trained_tokens_estimated": "tokens that uniform thinning would have trained on "
    "at the same variance, the draws as they are: trained over 1 - thinning_saving_estimated",
    "cost/spent_currency": "accelerator_hour_price times engine and learner hours; waits are free",
    "cost/trained_share": "trained over selectable tokens, since the start of the run",
    "cost/weight_ess_share": "last batch: (sum w)^2 / sum w^2 over the number of responses kept",
    "cost/weight_max": "last batch: largest weight of a kept response",
    "cost/gradient_max_share": "last batch: largest response's share of the squared gradient, by "
    "|advantage| sqrt(surprise) times factor and weight",
    "cost/gradient_clipped_share": "last batch: share of responses kept whose weight "
    "scheduler.clipping lowered",
    "cost/reward_mean_uniform": "last batch: mean reward as under uniform draws, without bias: the "
    "mean over tickets of weight times mean reward, which may leave the range of rewards; with an "
    "allocator that is not objective_preserving, of the prompts that its batches hold",
    "cost/thinning_target_cost": "last batch: expected cost of what is kept, in the price's unit",
    "cost/thinning_realised_share": "last batch: realised over expected cost of what was kept",
    "cost/thinning_capped_share": "last batch: share of candidates kept for certain",
    "cost/thinning_floored_share": "last batch: share of candidates at or below the floor",
    "cost/thinning_chosen_share": "last batch, thinning=priced: expected cost of what is kept over "
    "that of all candidates",
    "cost/thinning_floored_variance_share": "last batch, thinning=priced: part of the gradient's "
    "variance that responses at the floor make",
    "cost/thinning_priced_saving_estimated": "last batch, thinning=priced: share of cost times "
    "variance saved over keeping every candidate, generating included, if the proxy is right",
    "cost/thinning_saving_estimated": "last batch: share of cost saved over keeping each candidate "
    "with one probability, for the same variance if the proxy is right; negative for a loss",
    "cost/draw_saving_estimated": "share of cost saved over uniform draws of prompts, for the same "
    "variance if utilities and lengths are right; negative for a loss, 0 where biased by design",
    "cost/draw_floored_share": "share of prompts within 1% of the least draw probability",
    "cost/price_overhead_seconds": "fitted engine seconds of a response beside its tokens",
    "cost/price_prefill_seconds_per_token": "fitted engine seconds of a prefilled token",
    "cost/price_decode_seconds_per_token": "fitted engine seconds of a response token",
    "cost/price_tool_seconds_per_second": "fitted engine seconds of a second in which a response "
    "waits for a tool",
    "cost/price_update_overhead_seconds": "fitted learner seconds of a response beside its tokens",
    "cost/price_update_seconds_per_token": "fitted learner seconds of a token, prompts repeated",
    "cost/price_trained_share": "fitted passes of the learner over a generated response",
    "cost/price_error_share": "last fold: |predicted - measured| over measured seconds, both kinds "
    "of machines, predicted before the batch was seen",
    "cost/total_variation": "distance of the draw probabilities from uniform, in [0, 1]",
    "cost/expected_length_ratio": "expected length of a draw over that of a uniform draw",
    "cost/length_error_share": "last fold: mean |estimate - seen| over mean seen group-mean length",
    "cost/exploring_temperature_factor": "batch drawn last: temperature of its exploring tickets "
    "over the run's; 1 without one",
    "cost/sizing_group_size": "scheduler.sizing: responses of a group of the next batch",
    "cost/sizing_tickets": "scheduler.sizing: tickets of the next batch",
    "cost/sizing_saving_estimated": "of cost times variance, over groups of the configured size",
    "cost/earlier_tokens": "mean response length of earlier batches, the constant divisor",
}
"""Every metric of this package with its meaning; counters run since the start of the run."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """Counters since the start of the run; a new ledger for every entry."""

    tickets: int = 0
    pilot_tickets: int = 0
    pilot_tokens: int = 0
    exploring_tickets: int = 0
    exploring_tokens: int = 0
    filtered_tickets: int = 0
    filtered_tokens: int = 0
    failed_tickets: int = 0
    lost_attempts: int = 0
    wasted_tokens: int = 0
    responses: int = 0
    truncated_responses: int = 0
    timed_out_rewards: int = 0
    crashed_rewards: int = 0
    truncated_rewards: int = 0
    generated_tokens: int = 0
    generated_response_tokens: int = 0
    turns: int = 0
    environment_tokens: int = 0
    turn_prefill_tokens: int = 0
    tool_seconds: float = 0.0
    tool_calls: int = 0
    failed_tool_calls: int = 0
    max_turns_responses: int = 0
    failed_responses: int = 0
    selectable_responses: int = 0
    selectable_tokens: int = 0
    selectable_response_tokens: int = 0
    trained_responses: int = 0
    trained_tokens: int = 0
    trained_response_tokens: int = 0
    engine_seconds: float = 0.0
    learner_seconds: float = 0.0
    score_seconds: float = 0.0
    uniform_generated_tokens_estimated: float = 0.0
    uniform_trained_tokens_estimated: float = 0.0

    def with_report(self, report: LengthReport, ticket: Ticket) -> "Ledger":
        """Enter one finished ticket."""
        return self._changed(_counts(report, ticket), 1)

    def without_reports(self, reports: Sequence[tuple[Ticket, LengthReport]]) -> "Ledger":
        """Turn what `with_report` entered into lost attempts."""
        ledger = self
        for ticket, report in reports:
            ledger = ledger._changed(_counts(report, ticket), -1).with_lost(report)
        return ledger

    def with_lost(self, report: LengthReport) -> "Ledger":
        """Enter an attempt at a ticket whose responses nobody will learn from."""
        return replace(
            self,
            lost_attempts=self.lost_attempts + 1,
            wasted_tokens=self.wasted_tokens + report.generated_tokens,
            generated_tokens=self.generated_tokens + report.generated_tokens,
            generated_response_tokens=self.generated_response_tokens
            + int(report.sampled_lengths.sum()),
        )

    def _changed(self, counts: Mapping[str, float], sign: int) -> "Ledger":
        return replace(
            self, **{name: getattr(self, name) + sign * count for name, count in counts.items()}
        )

    def with_filtered(self, reports: Sequence[LengthReport]) -> "Ledger":
        """Enter finished tickets that no batch will learn from."""
        return replace(
            self,
            filtered_tickets=self.filtered_tickets + len(reports),
            filtered_tokens=self.filtered_tokens
            + sum(report.generated_tokens for report in reports),
        )

    def with_spending(self, spending: BatchSpending) -> "Ledger":
        """Enter the seconds that one batch took."""
        return replace(
            self,
            engine_seconds=self.engine_seconds + spending.engine_seconds,
            learner_seconds=self.learner_seconds
            + spending.learner_seconds
            + spending.score_seconds,
            score_seconds=self.score_seconds + spending.score_seconds,
        )

    def with_selection(
        self,
        reports: Sequence[LengthReport],
        selections: Sequence[Selection],
        *,
        first_pass: bool = True,
        draw_saving: float = 0.0,
        thinning_saving: float = 0.0,
    ) -> "Ledger":
        """Enter one pass of the learner over a batch.

        Args:
            reports: The reports of the batch's members, or of some of them.
            selections: One selection for each report, in the same order.
            first_pass: Whether the batch was not entered before.
            draw_saving: What the draws of the batch save by `cost.scheduler.savings`, less than 1.
            thinning_saving: What this pass saves by `cost.scheduler.savings`, less than 1.
        """
        selectable, trained = np.zeros(3, dtype=np.int64), np.zeros(3, dtype=np.int64)
        for report, selection in zip(reports, selections, strict=True):
            selectable += _spent(report, selectable_responses(report, selection))
            trained += _spent(report, selection.keep)
        return replace(
            self,
            selectable_responses=self.selectable_responses + int(selectable[0]),
            selectable_tokens=self.selectable_tokens + int(selectable[1]),
            selectable_response_tokens=self.selectable_response_tokens + int(selectable[2]),
            trained_responses=self.trained_responses + int(trained[0]),
            trained_tokens=self.trained_tokens + int(trained[1]),
            trained_response_tokens=self.trained_response_tokens + int(trained[2]),
            uniform_generated_tokens_estimated=self.uniform_generated_tokens_estimated
            + first_pass * sum(report.generated_tokens for report in reports) / (1 - draw_saving),
            uniform_trained_tokens_estimated=self.uniform_trained_tokens_estimated
            + int(trained[1]) / (1 - thinning_saving),
        )

    def metrics(self, accelerator_hour_price: float | None = None) -> dict[str, float]:
        """Return all counters under their metric keys; the money spent if a price is given."""
        counters = {
            f"cost/{field.name}": float(getattr(self, field.name)) for field in fields(self)
        }
        share = self.trained_tokens / self.selectable_tokens if self.selectable_tokens else 1.0
        if accelerator_hour_price is not None:
            hours = (self.engine_seconds + self.learner_seconds) / 3600
            counters["cost/spent_currency"] = accelerator_hour_price * hours
        return counters | {"cost/trained_share": share}

    def state_dict(self) -> dict[str, Any]:
        """Return the counters as a dict of numbers."""
        return asdict(self)


def _counts(report: LengthReport, ticket: Ticket) -> dict[str, float]:
    """What one finished ticket adds, by the ledger's counter."""
    tokens = report.generated_tokens
    statuses = np.bincount(report.status, minlength=len(RewardStatus)).tolist()
    return {
        "tickets": 1,
        "pilot_tickets": int(not ticket.trainable),
        "pilot_tokens": 0 if ticket.trainable else tokens,
        "exploring_tickets": int(ticket.exploring),
        "exploring_tokens": tokens if ticket.exploring else 0,
        "failed_tickets": int(report.num_responses == 0),
        "responses": report.num_responses,
        "truncated_responses": int(report.truncated.sum()),
        "timed_out_rewards": statuses[RewardStatus.TIMED_OUT],
        "crashed_rewards": statuses[RewardStatus.CRASHED],
        "truncated_rewards": statuses[RewardStatus.TRUNCATED] + statuses[RewardStatus.MASKED],
        "generated_tokens": tokens,
        "generated_response_tokens": int(report.sampled_lengths.sum()),
        "turns": int(report.num_turns.sum()),
        "environment_tokens": int(report.environment_tokens.sum()),
        "turn_prefill_tokens": int(report.turn_prefill_tokens.sum()),
        "tool_seconds": float(report.tool_seconds.sum()),
        "tool_calls": int(report.calls.sum()),
        "failed_tool_calls": int(report.failed_calls.sum()),
        "max_turns_responses": int((report.ends == int(PlayEnd.MAX_TURNS)).sum()),
        "failed_responses": int((report.ends == int(PlayEnd.FAILURE)).sum()),
    }


def selectable_responses(report: LengthReport, selection: Selection) -> BoolArray:
    """Return [n] True for responses that a thinning could have kept, or that none may leave out."""
    return selection.keep if selection.exploring else report.trainable


def weight_metrics(selections: Sequence[Selection]) -> dict[str, float]:
    """Describe the weights of one batch's kept responses."""
    kept = [selection.weight[selection.keep] for selection in selections]
    weights = np.concatenate([np.zeros(0), *kept])
    if len(weights) == 0:
        return {"cost/weight_ess_share": 1.0, "cost/weight_max": 0.0}
    effective = float(weights.sum() ** 2 / (weights**2).sum())
    return {
        "cost/weight_ess_share": effective / len(weights),
        "cost/weight_max": float(weights.max()),
    }


def _spent(report: LengthReport, chosen: np.ndarray) -> np.ndarray:
    """Return number, tokens with prompts, and response tokens of the chosen responses."""
    count, response_tokens = int(chosen.sum()), int(report.lengths[chosen].sum())
    return np.array([count, report.prompt_tokens * count + response_tokens, response_tokens])
