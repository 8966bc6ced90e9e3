"""Every metric of a run with its meaning, and those that a step's reports and selections give.

    rollout/, cost/step_*  from `step_metrics`: this step alone
    cost/..._flops         from `launch.run.budget`: counters run since the start
    cost/ (others)         from the scheduler's ledger: counters run since the start
    learner/               from the learner team, of the last pass over the batch that had something
                           to learn from; optimiser steps are counted over all passes
    evaluation/            from `launch.train`, on steps that `evaluation.every` picks; also with
                           the name of a set, and of a source, in between
    publish/, parity/      from the weight transfer and the parity guard
    loop/                  from `launch.run.loop`

Keys are `package/quantity_unit`. Tokens are counted with the prompt share, since the machine
processes it too: a response costs its prompt plus itself. Keys with `_response_tokens` leave the
prompts out.
"""

import math
from collections.abc import Sequence

import numpy as np

from cost.ledger import METRICS as LEDGER_METRICS
from cost.ledger import selectable_responses
from cost.prices.compute import METRICS as COMPUTE_METRICS
from cost.thinning.calibration import METRICS as CALIBRATION_METRICS
from cost.types import (
    BoolArray,
    FloatArray,
    IntArray,
    LengthReport,
    PlayEnd,
    RewardStatus,
    Selection,
)
from launch.record.reward_components import component_metrics
from launch.record.step import StepResult

TURNS = ("first", "second", "later")
"""Turns of a response that `learner.mismatch` tells apart, which only torch can import."""

_COST_METRICS = LEDGER_METRICS | COMPUTE_METRICS | CALIBRATION_METRICS
METRICS: dict[str, str] = _COST_METRICS | {
    "rollout/reward_mean": "Mean reward of the step's usable responses.",
    "rollout/reward_components": "With /NAME behind it, the mean of that named part of the rewards "
    "over the responses that have it.",
    "rollout/pass_rate": "Share of usable responses with a reward of 1.",
    "rollout/length_mean_tokens": "Mean response length; a response cut at the limit counts as is.",
    "rollout/length_p95_tokens": "95th percentile of the response lengths.",
    "rollout/truncated_share": "Share of responses that hit the length limit.",
    "rollout/surprise_mean": "Mean over responses of the sum of (1 - probability)^2 of tokens.",
    "rollout/mixed_group_share": "Share of the step's groups in which some advantage is not zero.",
    "rollout/exploring_reward_mean": "Mean reward of usable responses of exploring tickets, which "
    "the other means leave out; absent without one.",
    "rollout/turns_mean": "Mean turns of a response; this and the next eleven are absent in steps "
    "of single turns.",
    "rollout/turn_length_mean_tokens": "Mean tokens that the policy sampled in a turn.",
    "rollout/environment_mean_tokens": "Mean tokens of a response that its environment wrote.",
    "rollout/inherited_mean_tokens": "Mean tokens of a response that another of its group sampled, "
    "where rollout.branching makes them share beginnings.",
    "rollout/turn_prefill_mean_tokens": "Mean tokens that an engine prefilled before a response's "
    "turns after the first.",
    "rollout/tool_mean_seconds": "Mean seconds for which a response waited for its environment.",
    "rollout/tool_calls_mean": "Mean calls of tools in a response.",
    "rollout/failed_call_share": "Share of calls that were bad or that the tool refused.",
    "rollout/end_answer_share": "Share of responses that ended with an answer.",
    "rollout/end_tokens_share": "Share of responses that the length limit ended.",
    "rollout/end_max_turns_share": "Share of responses that the limit on turns ended.",
    "rollout/end_failure_share": "Share of responses that a failing environment ended.",
    "rollout/reward_timed_out": "Responses whose scoring ran out of time; they get weight 0.",
    "rollout/reward_crashed": "Responses whose play or scoring crashed; they get weight 0.",
    "rollout/reward_truncated": "Responses left out because they hit the length limit; weight 0.",
    "rollout/retries": "Tries of tickets that failed and were repeated, since the start.",
    "rollout/tickets_in_flight": "Tickets with the engines, or waiting for one, as the step ended.",
    "rollout/engines": "Engines in use when the step was written down.",
    "rollout/replaced_actors": "Rollout actors replaced after a death, since the start.",
    "rollout/failed_tickets": "Tickets that failed all their retries; their gradient is zero.",
    "cost/step_generated_tokens": "Tokens computed by engines for the groups learned from: prompts "
    "not cached, and responses.",
    "cost/step_selectable_tokens": "Tokens of all usable responses, each with its prompt; of "
    "exploring tickets those that are trained on.",
    "cost/step_trained_tokens": "Tokens of the kept responses with their prompts, last pass.",
    "cost/step_generated_response_tokens": "As step_generated_tokens, without prompts.",
    "cost/step_selectable_response_tokens": "As step_selectable_tokens, without prompts.",
    "cost/step_trained_response_tokens": "As step_trained_tokens, without prompts.",
    "cost/step_saved_share": "Share of the step's selectable tokens that was not trained on.",
    "learner/loss": "Weighted loss, mean over the optimiser steps that were applied.",
    "learner/grad_norm": "Norm of the gradient before clipping, mean over applied optimiser steps.",
    "learner/ratio": "Mean ratio of learner to rollout probability over trained tokens.",
    "learner/clip_fraction": "Share of tokens at which the objective's clip is active.",
    "learner/clipping_bias": "Mean size of a response's part of the clipping bias over trained "
    "tokens (objective.corrects_bias).",
    "learner/entropy": "Mean entropy of the policy at the trained tokens, nats.",
    **{
        f"learner/turn_{name}_{quantity}": f"{what} the {name} turn{'s' * (name == 'later')} of "
        "responses; absent in steps of single turns."
        for name in TURNS
        for quantity, what in (
            ("share", "Share of the trained tokens in"),
            ("entropy", "Mean entropy of the policy, nats, in"),
            ("ratio", "Mean of learner over rollout probability in"),
        )
    },
    "learner/exploring_share": "Share of the trained tokens that exploring tickets sampled, which "
    "other means over tokens leave out; absent without one.",
    "learner/kl_rollout": "KL from sampling to training policy per token: mean of r - 1 - log r.",
    "learner/kl_rollout_k1": "The same by its plain estimate, mean of -log r; it may be negative.",
    "learner/max_logprob_difference": "Largest difference of learner and rollout_logprobs.",
    "learner/rollout_ratio": "Mean of r = learner over rollout probability, whatever the objective "
    "works with; not cut.",
    "learner/rollout_chi_square": "Chi-square divergence of the same r: mean of r^2, minus 1.",
    "learner/rollout_effective_share": "Share of effective tokens: (sum r)^2 / (n sum r^2).",
    "learner/cut_share": "Share of trained tokens whose ratio the correction cut or masked.",
    "learner/curvature_rejected_share": "Share of trained tokens that learner.curvature masked.",
    "learner/token_staleness": "Mean staleness of the trained tokens, versions.",
    "learner/stale_share": "Share of trained tokens that an older version than the learner's made.",
    "learner/kl_rollout_stale": "kl_rollout over those tokens; NaN without one.",
    "learner/kl_rollout_fresh": "kl_rollout over all others; NaN without one.",
    "learner/kl_old": "As kl_rollout, with the learner before the pass in the learner's place "
    "(learner.behaviour: recomputed).",
    "learner/kl_old_k1": "As kl_rollout_k1, likewise.",
    "learner/old_ratio": "As rollout_ratio, likewise.",
    "learner/old_chi_square": "As rollout_chi_square, likewise.",
    "learner/old_effective_share": "As rollout_effective_share, likewise.",
    "learner/max_old_difference": "As max_logprob_difference, likewise.",
    "learner/kl_reference": "KL from learner to reference policy per trained token, nats (k3).",
    "learner/kl_reference_response": "KL from rollout to reference policy per response of the "
    "batch, nats (k1; learner.reference.kl_in: reward).",
    "learner/reused_tokens": "Tokens, with prompts, of responses that were learned from once more, "
    "of earlier batches or the batch itself (scheduler.reuse).",
    "learner/tokens": "Trained tokens under the loss mask.",
    "learner/row_tokens": "Tokens put into rows, prompts included.",
    "learner/rows": "Packed rows of all ranks.",
    "learner/row_fill": "Tokens in rows over the room in them.",
    "learner/rank_balance": "Mean over largest work of a rank (linear and attention), 1 at best.",
    "learner/skipped_steps": "Optimiser steps left out because the gradient was not finite, all "
    "passes over the batch.",
    "learner/empty_steps": "Optimiser steps without a response to train on, all passes.",
    "learner/optimizer_steps": "Optimiser steps that were applied, all passes.",
    "learner/flops": "FLOPs of one pass over the batch, all ranks, from the model's shape.",
    "learner/update_seconds": "Seconds of one pass over the batch, all ranks.",
    "learner/lr": "Learning rate of the last optimiser step.",
    "parity/max_logprob_difference": "Largest difference of engine and learner, a version before.",
    "parity/mean_logprob_difference": "Mean difference of engine and learner, a version before.",
    "evaluation/pass_rate": "Held-out pass@1 where evaluated, of the version just published; with "
    "evaluation.background of an earlier one, evaluation/version.",
    "evaluation/pass_rate_stderr": "Its standard error over prompts.",
    "evaluation/pass_rate_half_width": "Half of its 95% interval, Student's t over prompts.",
    "evaluation/length_mean_tokens": "Mean length of the held-out responses.",
    "evaluation/scored_prompts": "Held-out prompts, of all sets, with a scored response; the "
    "rates are over these.",
    "evaluation/lost_prompts": "Held-out prompts, of all sets, without one: they are in no rate.",
    "evaluation/seconds": "Seconds of the evaluation; no part of the run's other seconds, unless "
    "it went on in the background.",
    "evaluation/version": "Version that the engines held when the evaluation began.",
    "evaluation/last_version": "Version that they held when it ended.",
    "parity/flops": "FLOPs of the probe, engines and learners.",
    "publish/seconds": "Seconds until every engine had the new weights.",
    "publish/bytes": "Bytes of one copy of the weights.",
    "publish/bytes_per_second": "publish/bytes over publish/seconds.",
    "checkpoint/pause_seconds": "Seconds the run stood still for the last checkpoint; logged once, "
    "with the next step, as the two below.",
    "checkpoint/seconds": "Seconds until that checkpoint was whole on the disk.",
    "checkpoint/bytes": "Bytes of it.",
    "loop/wait_seconds": "Seconds the learners waited for the batch.",
    "loop/update_seconds": "Seconds of selecting and learning.",
    "loop/publish_seconds": "Seconds of publishing, and of what was left of the last parity check.",
    "loop/done_share": "Share of the run that is over, by whichever bound ends it first.",
    "loop/generate_seconds": "Seconds since the last step with at least one ticket in generation.",
    "loop/generated_tokens": "Tokens computed by engines for all tickets drawn for the batch, also "
    "pilots and filtered ones, which cost/step_generated_tokens leaves out.",
    "loop/restarts": "Times that the run went on after a stop; handed to Ray only, since "
    "restarts.json has them.",
    "loop/staleness": "Largest staleness of a group of the batch when it was learned, versions.",
}
PASSED = 1 - 1e-9
"""The least reward of a success: 1, to rounding."""


def successes(report: LengthReport) -> BoolArray:
    """Return [n] True where the reward is usable and 1 (to rounding) or more."""
    return report.usable & (report.rewards >= PASSED)


def step_metrics(result: StepResult) -> dict[str, float]:
    """Compute what a person watches from the step's reports and selections.

    A mean over nothing, as in a step in which every ticket failed, is NaN.
    """
    reports, selections = result.reports, result.selections
    num_plain = sum(not selection.exploring for selection in selections)
    return (
        _rollout_metrics(reports[:num_plain], selections[:num_plain])
        | _exploring_metrics(reports[num_plain:])
        | component_metrics(reports[:num_plain])
        | _turn_metrics(reports[:num_plain])
        | _failure_metrics(reports)
        | _cost_metrics(reports, selections)
    )


def _turn_metrics(reports: Sequence[LengthReport]) -> dict[str, float]:
    """What turns came to; nothing where no response had more than one, or could have."""
    turns, ends = (_join([getattr(r, name) for r in reports]) for name in ("num_turns", "ends"))
    calls = _join([report.calls for report in reports])
    if not np.any(turns > 1) and not np.any(ends >= int(PlayEnd.MAX_TURNS)):
        return {}
    own = _join([report.own_lengths for report in reports])
    failed = float(_join([report.failed_calls for report in reports]).sum())
    shares = {
        f"rollout/end_{end.name.lower()}_share": float(np.mean(ends == int(end))) for end in PlayEnd
    }
    return shares | {
        "rollout/turns_mean": _mean(turns),
        "rollout/turn_length_mean_tokens": float(own.sum() / turns.sum()),
        "rollout/environment_mean_tokens": _mean(
            _join([report.environment_tokens for report in reports])
        ),
        "rollout/inherited_mean_tokens": _mean(
            _join([report.inherited_tokens for report in reports])
        ),
        "rollout/turn_prefill_mean_tokens": _mean(
            _join([report.turn_prefill_tokens for report in reports])
        ),
        "rollout/tool_mean_seconds": _mean(_join([report.tool_seconds for report in reports])),
        "rollout/tool_calls_mean": _mean(calls),
        "rollout/failed_call_share": failed / float(calls.sum()) if calls.any() else math.nan,
    }


def _exploring_metrics(reports: Sequence[LengthReport]) -> dict[str, float]:
    if not reports:
        return {}
    rewards = _join([report.rewards[report.usable] for report in reports])
    return {"rollout/exploring_reward_mean": _mean(rewards)}


def _failure_metrics(reports: Sequence[LengthReport]) -> dict[str, float]:
    status = _join([report.status for report in reports])
    return {
        "rollout/reward_timed_out": float((status == RewardStatus.TIMED_OUT).sum()),
        "rollout/reward_crashed": float((status == RewardStatus.CRASHED).sum()),
        "rollout/reward_truncated": float(
            np.isin(status, (RewardStatus.TRUNCATED, RewardStatus.MASKED)).sum()
        ),
        "rollout/failed_tickets": float(sum(report.num_responses == 0 for report in reports)),
    }


def _rollout_metrics(
    reports: Sequence[LengthReport], selections: Sequence[Selection]
) -> dict[str, float]:
    ok = _join([report.usable for report in reports])
    lengths = _join([report.lengths for report in reports])
    rewards = _join([report.rewards for report in reports])[ok]
    mixed = np.array([bool(np.any(selection.advantages)) for selection in selections])
    return {
        "rollout/reward_mean": _mean(rewards),
        "rollout/pass_rate": _mean(rewards >= PASSED),
        "rollout/length_mean_tokens": _mean(lengths),
        "rollout/length_p95_tokens": float(np.quantile(lengths, 0.95))
        if len(lengths)
        else math.nan,
        "rollout/truncated_share": _mean(_join([report.truncated for report in reports])),
        "rollout/surprise_mean": _mean(_join([report.surprise for report in reports])),
        "rollout/mixed_group_share": _mean(mixed),
    }


def _cost_metrics(
    reports: Sequence[LengthReport], selections: Sequence[Selection]
) -> dict[str, float]:
    ok = _join([selectable_responses(r, s) for r, s in zip(reports, selections, strict=True)])
    keep = _join([selection.keep for selection in selections])
    lengths = _join([report.lengths for report in reports]).astype(np.float64)
    counts = np.array([report.num_responses for report in reports], np.int64)
    prompts = np.repeat([float(report.prompt_tokens) for report in reports], counts)
    elsewhere = [t for r in reports for t in (r.environment_tokens, r.inherited_tokens)]
    generated = float(lengths.sum() - _join(elsewhere).sum())
    selectable = float((lengths + prompts)[ok].sum())
    trained = float((lengths + prompts)[keep].sum())
    return {
        "cost/step_generated_tokens": generated + sum(report.prefill_tokens for report in reports),
        "cost/step_selectable_tokens": selectable,
        "cost/step_trained_tokens": trained,
        "cost/step_generated_response_tokens": generated,
        "cost/step_selectable_response_tokens": float(lengths[ok].sum()),
        "cost/step_trained_response_tokens": float(lengths[keep].sum()),
        "cost/step_saved_share": 1 - trained / selectable if selectable else math.nan,
    }


def _join(parts: Sequence[BoolArray | IntArray | FloatArray]) -> np.ndarray:
    # Masks stay masks: the empty batch must not turn them into floats.
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.bool_)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else math.nan
