"""Packed rows against one response at a time."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from learner.batch import collate, segment_of
from learner.logprobs import PackedPolicy


def naive_logprobs(model, token_ids, num_prompt, temperature):
    logits = model(input_ids=token_ids[None]).logits[0, num_prompt - 1 : -1].double()
    logprobs = torch.log_softmax(logits / temperature, dim=-1)
    return logprobs.gather(1, token_ids[num_prompt:, None]).squeeze(1), logprobs


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_packing_isolates_segments(model_paths, batch, tied, temperature):
    groups, selections = batch
    model = AutoModelForCausalLM.from_pretrained(model_paths[tied], dtype=torch.float32)
    policy = PackedPolicy(model, temperature)
    chosen = [(0, 1), (3, 1), (1, 3), (4, 0)]
    row = collate([segment_of(groups[k], selections[k], j, num_groups=5) for k, j in chosen])
    logprobs, entropies = policy(row.token_ids, row.position_ids, row.loss_mask)
    logprobs[row.loss_mask].square().sum().backward()
    packed = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

    model.zero_grad()
    total = 0
    for segment, (k, _) in enumerate(chosen):
        here = row.segment_ids == segment
        expected, full = naive_logprobs(
            model, row.token_ids[here], len(groups[k].prompt.token_ids), temperature
        )
        mask = here & row.loss_mask
        assert (logprobs[mask] - expected).abs().max() < 1e-5
        entropy = -(full.exp() * full).sum(dim=-1)
        assert (entropies[mask] - entropy).abs().max() < 1e-4
        total = total + expected.square().sum()
    total.backward()
    for name, parameter in model.named_parameters():
        scale = parameter.grad.abs().max()
        assert (packed[name] - parameter.grad).abs().max() < 1e-5 * scale.clamp(min=1), name
    assert not logprobs[~row.loss_mask].any() and not entropies[~row.loss_mask].any()


def test_prompts_cost_no_logits(model_paths, batch):
    groups, selections = batch
    model = AutoModelForCausalLM.from_pretrained(model_paths[False], dtype=torch.float32)
    shapes = []
    model.lm_head.register_forward_hook(lambda _, __, logits: shapes.append(tuple(logits.shape)))
    row = collate([segment_of(groups[0], selections[0], 1, num_groups=5)])
    PackedPolicy(model, 1.0)(row.token_ids, row.position_ids, row.loss_mask)
    assert shapes == [(1, 17, 261)]


def test_the_temperature_must_be_positive():
    with pytest.raises(ValueError, match=r"^temperature must be positive, got 0\.0$"):
        PackedPolicy(torch.nn.Identity(), 0.0)
