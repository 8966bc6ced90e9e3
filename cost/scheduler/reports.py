"""Checks on what the rollout side reports, before any statistic believes it."""

import math
from dataclasses import replace
from typing import Any

import numpy as np

from cost.types import (
    PER_TURN,
    REAL_NUMBERS,
    FloatArray,
    IntArray,
    LengthReport,
    RewardStatus,
    Ticket,
)

# Plain numbers: numpy compares with a member of an enum ten times slower. Statuses count from 0.
_USABLE = (int(RewardStatus.OK), int(RewardStatus.MASKED))
_NUM_STATUSES = len(RewardStatus)
PER_RESPONSE = (
    "lengths", "truncated", "rewards", "status", "surprise", "answer_codes", "num_turns",
    "entropy_changes", *PER_TURN,
)  # fmt: skip
"""Fields of a report that are arrays, one entry a response."""
_AMOUNTS = ("lengths", "surprise", "num_turns", *PER_TURN)


def checked(report: LengthReport, ticket: Ticket) -> LengthReport:
    """Return the report with the declared dtypes, NaN rewards where not usable, and no components.

    Args:
        report: What a rollout actor sent.
        ticket: The ticket it answers.

    Raises:
        ValueError: If a field cannot be true.
    """
    if report.prompt_index != ticket.prompt_index:
        raise ValueError(
            f"report.prompt_index must be {ticket.prompt_index} as on ticket {ticket.ticket_id}, "
            f"got {report.prompt_index!r}"
        )
    count = len(report.lengths)
    if count > ticket.num_samples:
        raise ValueError(
            f"report.lengths must hold at most the {ticket.num_samples} responses of ticket "
            f"{ticket.ticket_id}, got {count!r}"
        )
    for name in PER_RESPONSE:
        shape = np.shape(getattr(report, name))
        if shape != (count,):
            raise ValueError(f"report.{name} must have shape {(count,)!r}, got {shape!r}")
    if report.prompt_tokens < 1:
        raise ValueError(f"report.prompt_tokens must be positive, got {report.prompt_tokens!r}")
    for name in ("prefill_tokens", "engine_seconds", "version", "attempt"):
        value = getattr(report, name)
        if not 0 <= value < math.inf:
            raise ValueError(f"report.{name} must be finite and not negative, got {value!r}")
    # All at once: of a few numbers each, asking takes longer than looking.
    values = np.array([getattr(report, name) for name in _AMOUNTS], dtype=np.float64)
    right = (values >= 0) & (values < np.inf)
    if not right.all():
        row, column = np.argwhere(~right)[0]
        value = np.asarray(getattr(report, _AMOUNTS[row]))[column].item()
        raise ValueError(f"report.{_AMOUNTS[row]} must be finite and not negative, got {value!r}")
    status, codes, rewards = _checked_answers(report, count)
    return replace(
        report,
        lengths=np.asarray(report.lengths, dtype=np.int64),
        truncated=np.asarray(report.truncated, dtype=np.bool_),
        rewards=rewards,
        status=status,
        surprise=np.asarray(report.surprise, dtype=np.float64),
        answer_codes=codes,
        reward_components={},
        **_checked_turns(report),
    )


def _checked_turns(report: LengthReport) -> dict[str, Any]:
    """Return what the report says of turns, [n] each."""
    found: dict[str, Any] = {
        name: np.asarray(
            getattr(report, name), dtype=np.float64 if name in REAL_NUMBERS else np.int64
        )
        for name in ("num_turns", "entropy_changes", *PER_TURN)
    }
    if not np.isfinite(found["entropy_changes"]).all():
        raise ValueError(
            f"report.entropy_changes must be finite, got {found['entropy_changes'].tolist()!r}"
        )
    written = found["environment_tokens"]
    if (written > np.asarray(report.lengths)).any():
        raise ValueError(
            f"report.environment_tokens must be at most lengths, got {written.tolist()!r}"
        )
    if (found["inherited_tokens"] > np.asarray(report.lengths) - written).any():
        raise ValueError(
            "report.inherited_tokens must be at most what the policy sampled, got "
            f"{found['inherited_tokens'].tolist()!r}"
        )
    return found


def _checked_answers(report: LengthReport, count: int) -> tuple[IntArray, IntArray, FloatArray]:
    """Return status, answer codes and rewards of `count` responses, [n] each."""
    status = np.asarray(report.status, dtype=np.int64)
    unknown = (status < 0) | (status >= _NUM_STATUSES)
    if unknown.any():
        first = status[unknown][0].item()
        raise ValueError(f"report.status must be a RewardStatus, got {first!r}")
    codes = np.asarray(report.answer_codes, dtype=np.int64)
    beyond = (codes < 0) | (codes > np.arange(count))
    if beyond.any() or (codes[codes] != codes).any():
        raise ValueError(
            "report.answer_codes must name the first response with the same answer, "
            f"got {codes.tolist()!r}"
        )
    ok = (status == _USABLE[0]) | (status == _USABLE[1])
    rewards = np.where(ok, report.rewards, np.nan).astype(np.float64, copy=False)
    missing = ok & ~np.isfinite(rewards)
    if missing.any():
        first = rewards[missing][0].item()
        raise ValueError(
            f"report.rewards must be finite where the status is OK or MASKED, got {first!r}"
        )
    return status, codes, rewards


def checked_norms(norms: FloatArray, ticket: Ticket) -> FloatArray:
    """Return the gradient norms of a ticket's responses as [n] float64.

    Raises:
        ValueError: If there are too many, or one is negative or not finite.
    """
    values = np.asarray(norms, dtype=np.float64)
    if values.ndim != 1 or len(values) > ticket.num_samples:
        raise ValueError(
            f"gradient norms must hold at most the {ticket.num_samples} responses of ticket "
            f"{ticket.ticket_id}, got shape {values.shape!r}"
        )
    wrong = ~(np.isfinite(values) & (values >= 0))
    if wrong.any():
        raise ValueError(
            f"gradient norms must be finite and not negative, got {values[wrong][0].item()!r} for "
            f"ticket {ticket.ticket_id}"
        )
    return values
