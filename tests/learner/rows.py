"""Segments with prompts in common, and how a policy scores a row of them."""

import numpy as np

from learner.batch import Segment

GROUPS = [(7, [5, 1, 9]), (1, [2, 4]), (4, [6])]
"""Prompt and response lengths of a row."""


def segments_of(groups=GROUPS, vocabulary=97, seed=0):
    rng = np.random.default_rng(seed)
    segments = []
    for prompt, lengths in groups:
        prompt_tokens = rng.integers(3, vocabulary, prompt)
        for length in lengths:
            total = prompt + length
            segments.append(
                Segment(
                    token_ids=np.concatenate([prompt_tokens, rng.integers(3, vocabulary, length)]),
                    loss_mask=(np.arange(total) >= prompt) & (np.arange(total) % 4 != 3),
                    rollout_logprobs=rng.normal(size=total).astype(np.float32),
                    advantage=float(rng.normal()),
                    loss_weight=float(rng.random()),
                    num_prompt_tokens=prompt,
                )
            )
    return segments


def scored(policy, row, entropy_gradient=True):
    return policy(row.token_ids, row.position_ids, row.loss_mask, entropy_gradient)
