"""Groups made of numbers, for tests."""

import numpy as np

from cost.types import Ticket
from rollout.types import Group, Prompt, Trajectory, VersionSpan

TICKET = Ticket(7, 2, 3, 0.25, 0.5, 16)
PROMPT = Prompt(2, np.arange(5, dtype=np.int32), "1", "fake", "question")


def make_trajectory(probabilities, mask=None, versions=((0, None, 3),), truncated=False):
    logprobs = np.log(np.asarray(probabilities, dtype=np.float32))
    mask = np.ones(len(logprobs), bool) if mask is None else np.asarray(mask)
    spans = tuple(VersionSpan(a, len(logprobs) if b is None else b, v) for a, b, v in versions)
    tokens = np.arange(len(logprobs), dtype=np.int32)
    return Trajectory(tokens, mask, logprobs, spans, truncated, prefill_tokens=5)


def make_group(trajectories, rewards, status=None):
    rewards = np.asarray(rewards, dtype=np.float64)
    status = np.zeros(len(rewards), np.int64) if status is None else np.asarray(status)
    return Group(TICKET, PROMPT, tuple(trajectories), rewards, {}, status, ("",) * 3, 1.5)
