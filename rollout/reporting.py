"""What the scheduler is told of a group: numbers, one a response, and no tokens."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from cost.types import IntArray, LengthReport, Ticket
from rollout.environments.branching import entropy_change
from rollout.types import Group, Prompt, Trajectory

MOST_COMPONENTS = 32
"""Parts of a group's rewards that are reported, the first by name: a reward may name its parts by
what a response says."""


def make_report(ticket: Ticket, prompt: Prompt, group: Group) -> LengthReport:
    """Summarise a group for the scheduler; see `LengthReport` for every field."""
    trajectories = group.trajectories
    versions = [span.version for t in trajectories for span in t.version_spans]
    first_with: dict[str, int] = {}
    return LengthReport(
        ticket_id=ticket.ticket_id,
        prompt_index=ticket.prompt_index,
        prompt_tokens=len(prompt.token_ids),
        prefill_tokens=sum(t.prefill_tokens for t in trajectories),
        lengths=np.asarray([len(t.token_ids) for t in trajectories], dtype=np.int64),
        truncated=np.asarray([t.truncated for t in trajectories], dtype=np.bool_),
        rewards=group.rewards,
        status=group.reward_status,
        surprise=np.asarray([surprise(t) for t in trajectories], dtype=np.float64),
        answer_codes=np.asarray(
            [first_with.setdefault(answer, j) for j, answer in enumerate(group.answers)],
            dtype=np.int64,
        ),
        engine_seconds=group.seconds,
        version=min(versions, default=0),
        attempt=ticket.attempt,
        reward_failure=group.reward_failure,
        num_turns=per_response(max(len(t.turns), 1) for t in trajectories),
        environment_tokens=per_response(int((~t.loss_mask).sum()) for t in trajectories),
        turn_prefill_tokens=per_response(
            sum(turn.prefill_tokens for turn in t.turns[1:]) for t in trajectories
        ),
        tool_seconds=np.asarray(
            [sum(turn.seconds for turn in t.turns) for t in trajectories], dtype=np.float64
        ),
        calls=per_response(sum(turn.calls for turn in t.turns) for t in trajectories),
        failed_calls=per_response(sum(turn.failed_calls for turn in t.turns) for t in trajectories),
        ends=per_response(int(t.end) for t in trajectories),
        inherited_tokens=per_response(t.inherited_tokens for t in trajectories),
        entropy_changes=np.asarray([entropy_change(t) for t in trajectories], dtype=np.float64),
        reward_components=_components(group),
    )


def _components(group: Group) -> dict[str, tuple[float, int]]:
    """Sum up the parts of rewards; a response whose scoring failed has none."""
    found = {}
    for name in sorted(group.reward_components)[:MOST_COMPONENTS]:
        values = group.reward_components[name]
        scored = values[~np.isnan(values)]
        found[name] = (float(scored.sum()), len(scored))
    return found


def per_response(values: Iterable[int]) -> IntArray:
    """Return one number a response, [n]."""
    return np.fromiter(values, dtype=np.int64)


def empty_report(ticket: Ticket, prompt: Prompt) -> LengthReport:
    """What a ticket that failed all its retries hands over: counted, without a gradient."""
    none = np.zeros(0)
    return LengthReport(
        ticket_id=ticket.ticket_id,
        prompt_index=ticket.prompt_index,
        prompt_tokens=len(prompt.token_ids),
        prefill_tokens=0,
        lengths=none.astype(np.int64),
        truncated=none.astype(np.bool_),
        rewards=none,
        status=none.astype(np.int64),
        surprise=none,
        answer_codes=none.astype(np.int64),
        engine_seconds=0.0,
        version=0,
        attempt=ticket.attempt,
    )


def surprise(trajectory: Trajectory) -> float:
    """Sum over the policy's own tokens of (1 - probability)^2 (algorithms: ours, no source)."""
    probabilities = np.exp(trajectory.rollout_logprobs[trajectory.loss_mask].astype(np.float64))
    return float(np.sum((1.0 - probabilities) ** 2))
