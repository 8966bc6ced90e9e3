"""Counts of everything spent: generated, selectable, trained, and what went wrong.

Tokens are counted twice over: with the share of the prompt that the machine really processes, and
response tokens alone. Generation prefills a cached prompt once; the learner repeats it with every
response. "Selectable" is what keeping all usable responses would have trained on: the yardstick of
thinning, in the same unit as "trained".
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np

from cost.reports import usable
from cost.types import LengthReport, RewardStatus, Selection

METRICS = {
    "cost/tickets": "reports of tickets that came back",
    "cost/failed_tickets": "of these, tickets that failed all retries (empty groups)",
    "cost/responses": "responses generated",
    "cost/truncated_responses": "responses that hit the length limit, so that lengths are censored",
    "cost/timed_out_rewards": "responses whose scoring timed out; never trained on",
    "cost/crashed_rewards": "responses whose scoring crashed; never trained on",
    "cost/generated_tokens": "tokens the engines computed: prefilled and response tokens",
    "cost/generated_response_tokens": "response tokens the engines computed",
    "cost/selectable_responses": "usable responses of learned batches, once per epoch over a batch",
    "cost/selectable_tokens": "their tokens, the prompt repeated with each response",
    "cost/selectable_response_tokens": "their response tokens",
    "cost/trained_responses": "responses kept for training, once per epoch over a batch",
    "cost/trained_tokens": "their tokens, the prompt repeated with each response",
    "cost/trained_response_tokens": "their response tokens",
    "cost/trained_share": "trained over selectable tokens, since the start of the run",
    "cost/weight_ess_share": "last batch: (sum w)^2 / sum w^2 over the number of responses kept",
    "cost/weight_max": "last batch: largest weight of a kept response",
    "cost/reward_mean_uniform": "last batch: mean reward as under uniform draws (ratio estimate)",
    "cost/thinning_target_cost": "last batch: expected cost of what is kept, in the price's unit",
    "cost/thinning_realised_share": "last batch: realised over expected cost of what was kept",
    "cost/thinning_capped_share": "last batch: share of candidates kept for certain",
    "cost/thinning_floored_share": "last batch: share of candidates at or below the floor",
    "cost/total_variation": "distance of the draw probabilities from uniform, in [0, 1]",
    "cost/expected_length_ratio": "expected length of a draw over that of a uniform draw",
    "cost/length_error_share": "last fold: mean |estimate - seen| over mean seen group-mean length",
    "cost/earlier_tokens": "mean response length of earlier batches, the constant divisor",
}
"""Every metric of this package with its meaning; counters run since the start of the run."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """Counters since the start of the run; a new ledger for every entry."""

    tickets: int = 0
    failed_tickets: int = 0
    responses: int = 0
    truncated_responses: int = 0
    timed_out_rewards: int = 0
    crashed_rewards: int = 0
    generated_tokens: int = 0
    generated_response_tokens: int = 0
    selectable_responses: int = 0
    selectable_tokens: int = 0
    selectable_response_tokens: int = 0
    trained_responses: int = 0
    trained_tokens: int = 0
    trained_response_tokens: int = 0

    def with_report(self, report: LengthReport) -> "Ledger":
        """Enter one finished ticket."""
        response_tokens = int(report.lengths.sum())
        return replace(
            self,
            tickets=self.tickets + 1,
            failed_tickets=self.failed_tickets + (report.num_responses == 0),
            responses=self.responses + report.num_responses,
            truncated_responses=self.truncated_responses + int(report.truncated.sum()),
            timed_out_rewards=self.timed_out_rewards
            + int((report.status == RewardStatus.TIMED_OUT).sum()),
            crashed_rewards=self.crashed_rewards
            + int((report.status == RewardStatus.CRASHED).sum()),
            generated_tokens=self.generated_tokens + int(report.prefill_tokens) + response_tokens,
            generated_response_tokens=self.generated_response_tokens + response_tokens,
        )

    def with_selection(
        self, reports: Sequence[LengthReport], selections: Sequence[Selection]
    ) -> "Ledger":
        """Enter one pass of the learner over a batch; the sequences are aligned."""
        selectable, trained = np.zeros(3, dtype=np.int64), np.zeros(3, dtype=np.int64)
        for report, selection in zip(reports, selections, strict=True):
            selectable += _spent(report, usable(report))
            trained += _spent(report, selection.keep)
        return replace(
            self,
            selectable_responses=self.selectable_responses + int(selectable[0]),
            selectable_tokens=self.selectable_tokens + int(selectable[1]),
            selectable_response_tokens=self.selectable_response_tokens + int(selectable[2]),
            trained_responses=self.trained_responses + int(trained[0]),
            trained_tokens=self.trained_tokens + int(trained[1]),
            trained_response_tokens=self.trained_response_tokens + int(trained[2]),
        )

    def metrics(self) -> dict[str, float]:
        """Return all counters under their metric keys."""
        counters = {
            f"cost/{field.name}": float(getattr(self, field.name)) for field in fields(self)
        }
        share = self.trained_tokens / self.selectable_tokens if self.selectable_tokens else 1.0
        return counters | {"cost/trained_share": share}

    def state_dict(self) -> dict[str, Any]:
        """Return the counters as a dict of numbers."""
        return asdict(self)


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
    """Responses, tokens with prompts, response tokens of the chosen responses."""
    count, response_tokens = int(chosen.sum()), int(report.lengths[chosen].sum())
    return np.array([count, report.prompt_tokens * count + response_tokens, response_tokens])
