"""The learner's model computes what the engine computes: without chance, checkpointed or not."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from learner.config import LearnerConfig
from learner.logprobs import PackedPolicy
from learner.numerics import Numerics
from learner.policy import load_policy
from tests.model_folders import make_folder

CHANCE = {
    "mixtral": {"router_jitter_noise": 0.5},
    "qwen2": {"attention_dropout": 0.5},
    "gpt_neox": {"hidden_dropout": 0.5, "attention_dropout": 0.5},
}
"""Kinds of models that chance plays a part in while they train, and the settings that say so."""
TEXT = torch.arange(2, 26) * 7919 % 261


@pytest.fixture(params=CHANCE)
def folder(request, tmp_path):
    return make_folder(tmp_path, request.param, **CHANCE[request.param])


def policy_of(folder, **settings):
    return load_policy(str(folder), LearnerConfig(**settings), Numerics("float32", 1.0))


def score(model):
    positions = torch.arange(len(TEXT))
    return PackedPolicy(model, 1.0)(TEXT, positions, positions > 0)[0]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_nothing_is_left_to_chance(folder, checkpointing):
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    with torch.no_grad():
        logprobs = model(input_ids=TEXT[None], use_cache=False).logits[0].log_softmax(-1)
    expected = logprobs[:-1].gather(1, TEXT[1:, None]).squeeze(1)
    found = score(policy_of(folder, gradient_checkpointing=checkpointing))
    torch.testing.assert_close(found[1:], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_checkpointed_layers_are_computed_again_in_the_backward_pass(folder, checkpointing):
    model = policy_of(folder, gradient_checkpointing=checkpointing)
    calls, first = [], next(m for name, m in model.named_modules() if name.endswith("layers.0.mlp"))
    first.register_forward_pre_hook(lambda *_: calls.append(1))
    score(model).sum().backward()
    assert len(calls) == 1 + checkpointing
