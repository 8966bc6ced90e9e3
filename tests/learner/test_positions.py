"""LongRoPE in packed rows: the engine's factors for all, whatever is packed beside a response."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from learner.config import LearnerConfig
from learner.logprobs import PackedPolicy
from learner.numerics import Numerics
from learner.policy import load_policy
from tests.model_folders import make_folder

ORIGINAL, LONGEST = 32, 128
SHORT, LONG = (torch.arange(2, 2 + size) * 7919 % 261 for size in (20, 60))
SHORT_FACTORS, LONG_FACTORS = [1.0] * 16, [1.0 + 0.5 * i for i in range(16)]


def make_phi3(path, short_factors, long_factors):
    return make_folder(
        path, "phi3", sliding_window=None, max_position_embeddings=LONGEST,
        original_max_position_embeddings=ORIGINAL,
        rope_parameters={
            "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": short_factors,
            "long_factor": long_factors, "original_max_position_embeddings": ORIGINAL,
        },
    )  # fmt: skip


@torch.no_grad()
def packed(policy, *texts):
    """Score texts in one row; [T] per text."""
    positions = torch.cat([torch.arange(len(text)) for text in texts])
    logprobs = policy(torch.cat(texts), positions, positions > 0)[0]
    return logprobs.split([len(text) for text in texts])


@torch.no_grad()
def alone(folder, text):
    """Score a text by itself with transformers' own attention and choice of factors."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    logprobs = model(input_ids=text[None], use_cache=False).logits[0].log_softmax(-1)
    scores = torch.zeros(len(text))
    scores[1:] = logprobs[:-1].gather(1, text[1:, None]).squeeze(1)
    return scores


@pytest.mark.parametrize(
    ("max_model_len", "factors"),
    [(ORIGINAL, SHORT_FACTORS), (ORIGINAL + 1, LONG_FACTORS), (None, LONG_FACTORS)],
)
def test_the_longest_text_that_there_may_be_decides_for_all(tmp_path, max_model_len, factors):
    folder = make_phi3(tmp_path / "v0", SHORT_FACTORS, LONG_FACTORS)
    numerics = Numerics("float32", 1.0, max_model_len=max_model_len)
    policy = PackedPolicy(load_policy(str(folder), LearnerConfig(), numerics), 1.0)
    # The same weights, with the same factors for texts of any length.
    fixed = make_phi3(tmp_path / "fixed", factors, factors)
    for texts in ([SHORT], [SHORT, LONG], [SHORT, SHORT]):
        for text, scores in zip(texts, packed(policy, *texts), strict=True):
            torch.testing.assert_close(scores, alone(fixed, text), rtol=0, atol=1e-5)
    assert (alone(folder, SHORT) - alone(folder, LONG)[: len(SHORT)]).abs().max() > 0.1
