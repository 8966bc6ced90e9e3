"""What a reward is worth once the response's length is known (DAPO, arXiv 2503.14476, section 3.4).

    penalty(L) = 0                                      L <= L_max - L_buffer
                 (L - (L_max - L_buffer)) / L_buffer    up to L_max
                 1                                      beyond

L_max is the ticket's limit on response tokens. Responses that reached it may be left out of the
loss alone (DAPO's overlong filtering "masks the loss of truncated samples"), or of their group's
mean and deviation as well. Training alone sees shaped rewards, and with it all that learns from
reports: pass rates, retirement, and which groups count as mixed, so that a group of right answers
of different length is one (DAPO itself filters by the number of right answers). Evaluations see the
reward as the plug gave it.
"""

from dataclasses import replace

import numpy as np

from cost.types import FloatArray, IntArray, RewardStatus
from rollout.config import OverlongConfig
from rollout.types import Group


def overlong_shares(lengths: IntArray, max_tokens: int, buffer_share: float) -> FloatArray:
    """Return [n] float64 in [0, 1], how much of the penalty a response gets.

    Args:
        lengths: [n] tokens of each response.
        max_tokens: L_max, the limit on a response's tokens.
        buffer_share: L_buffer / L_max, in [0, 1]; 0 for no penalty.
    """
    if buffer_share == 0:
        return np.zeros(len(lengths))
    buffer_tokens = buffer_share * max_tokens
    return np.clip((lengths - (max_tokens - buffer_tokens)) / buffer_tokens, 0.0, 1.0)


def shape_rewards(group: Group, overlong: OverlongConfig) -> Group:
    """Return the group with rewards less the penalty, and what truncated responses are left out of.

    Only usable rewards change: a scoring that failed keeps its status.
    """
    trajectories = group.trajectories
    ok = group.reward_status == RewardStatus.OK
    truncated = np.array([t.truncated for t in trajectories], dtype=np.bool_)
    dropped = ok & truncated & overlong.filter_truncated
    masked = ok & truncated & overlong.mask_truncated
    status = np.where(masked, int(RewardStatus.MASKED), group.reward_status)
    lengths = np.array([len(t.token_ids) for t in trajectories], dtype=np.int64)
    shares = overlong_shares(lengths, group.ticket.max_tokens, overlong.buffer_share)
    return replace(
        group,
        rewards=np.where(dropped, np.nan, group.rewards - overlong.penalty * shares),
        reward_status=np.where(dropped, int(RewardStatus.TRUNCATED), status),
    )
