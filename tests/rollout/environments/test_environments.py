import asyncio

import numpy as np
import pytest

from rollout.environments import SingleTurn
from rollout.types import Completion, Prompt, VersionSpan

PROMPT = Prompt(0, np.array([2, 7, 8], dtype=np.int32), "5", "chain", "a3")


@pytest.mark.parametrize(("finish_reason", "truncated"), [("stop", False), ("length", True)])
def test_single_turn_keeps_what_the_policy_wrote(finish_reason, truncated):
    completion = Completion(
        token_ids=np.array([4, 5], dtype=np.int32),
        rollout_logprobs=np.array([-0.5, -0.1], dtype=np.float32),
        finish_reason=finish_reason,
        version_spans=(VersionSpan(0, 2, 3),),
        cached_tokens=2,
    )
    calls = []

    async def generate(token_ids, max_tokens):
        calls.append((token_ids.tolist(), max_tokens))
        return completion

    trajectory = asyncio.run(SingleTurn().play(generate, PROMPT, 16))
    assert calls == [([2, 7, 8], 16)]
    assert trajectory.token_ids is completion.token_ids
    assert trajectory.rollout_logprobs is completion.rollout_logprobs
    assert trajectory.version_spans == completion.version_spans
    assert trajectory.loss_mask.tolist() == [True, True]
    assert trajectory.loss_mask.dtype == np.bool_
    assert trajectory.truncated is truncated
    assert trajectory.prefill_tokens == 1
