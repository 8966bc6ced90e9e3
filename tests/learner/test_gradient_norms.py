"""All responses of a row at once against autograd over the layer's weight, one at a time."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from learner import attention
from learner import gradient_norms as module
from learner.batch import collate, padding_row, segment_of
from learner.gradient_norms import LAYERS, gradient_norms
from learner.logprobs import PackedPolicy

CHOSEN = [(0, 1), (3, 1), (1, 3), (3, 0), (4, 0)]


def load(path, **settings):
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, **settings)


def weight_of(model, layer):
    if layer == "embedding":
        return model.get_input_embeddings().weight
    return model.get_output_embeddings().weight


def one_by_one(model, row, layer, temperature):
    """Autograd over the layer's weight for each segment by itself, without packing."""
    norms = []
    for segment in range(int(row.segment_ids[-1]) + 1):
        here = row.segment_ids == segment
        token_ids, mask = row.token_ids[here], row.loss_mask[here]
        logits = model(input_ids=token_ids[None]).logits[0, :-1] / temperature
        logprobs = logits.log_softmax(-1).gather(1, token_ids[1:, None]).squeeze(1)
        score = logprobs[mask[1:]].sum()
        (gradient,) = torch.autograd.grad(score, weight_of(model, layer))
        norms.append(gradient.double().norm().item())
    return norms


@pytest.fixture
def row(batch):
    groups, selections = batch
    return collate([segment_of(groups[k], selections[k], j, num_groups=5) for k, j in CHOSEN])


@pytest.mark.parametrize("chunk", [64, 8192])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("layer", LAYERS)
def test_exact_for_every_response(model_paths, row, monkeypatch, layer, tied, temperature, chunk):
    monkeypatch.setattr(module, "_VOCABULARY_CHUNK", chunk)
    policy = PackedPolicy(load(model_paths[tied]), temperature)
    # The same function with two matrices, so that autograd can tell the two uses apart.
    alone = load(model_paths[tied])
    alone.lm_head.weight = torch.nn.Parameter(alone.lm_head.weight.detach().clone())
    norms = gradient_norms(policy, row, layer)
    assert norms.dtype == torch.float64
    expected = one_by_one(alone, row, layer, temperature)
    np.testing.assert_allclose(norms.numpy(), expected, rtol=1e-5)
    assert min(expected) > 0.1


def test_responses_longer_than_the_state_has_dimensions(row):
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(5)
    config = Qwen2Config(
        hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, vocab_size=261, max_position_embeddings=256,
        tie_word_embeddings=False, initializer_range=0.3,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config)
    counts = [int(row.loss_mask[row.segment_ids == segment].sum()) for segment in range(5)]
    assert min(counts) < 8 < max(counts)
    for layer in LAYERS:
        norms = gradient_norms(PackedPolicy(model, 1.0), row, layer).numpy()
        np.testing.assert_allclose(norms, one_by_one(model, row, layer, 1.0), rtol=1e-5)


@pytest.mark.parametrize("layer", LAYERS)
def test_chunks_of_logits_change_nothing(model_paths, row, layer):
    whole = gradient_norms(PackedPolicy(load(model_paths[True]), 0.7), row, layer)
    chunked = PackedPolicy(load(model_paths[True]), 0.7, logits_chunk_tokens=7)
    np.testing.assert_allclose(gradient_norms(chunked, row, layer), whole, rtol=1e-6)


def test_responses_may_share_their_prompt_for_the_head_only(model_paths, batch):
    groups, selections = batch
    segments = [segment_of(groups[0], selections[0], j, num_groups=5) for j in range(4)]
    model = load(model_paths[False], attn_implementation=attention.register())
    policy = PackedPolicy(model, 1.0, logits_chunk_tokens=8)
    row = collate(segments, shared_prefix=True)
    expected = gradient_norms(policy, collate(segments), "lm_head")
    np.testing.assert_allclose(gradient_norms(policy, row, "lm_head"), expected, rtol=1e-5)
    with pytest.raises(ValueError, match=r"^row must repeat shared prompts"):
        gradient_norms(policy, row, "embedding")


@pytest.mark.parametrize("layer", LAYERS)
def test_only_loss_tokens_count_but_all_tokens_are_read(model_paths, row, layer):
    mask = row.loss_mask.clone()
    mask[row.segment_ids == 1] = False
    inside = (row.segment_ids == 0).nonzero().squeeze(1)
    mask[inside[-9:-4]] = False
    masked = module.MicroBatch(
        row.token_ids, row.position_ids, row.segment_ids, mask,
        row.rollout_logprobs, row.advantages, row.loss_weights,
    )  # fmt: skip
    model = load(model_paths[False])
    norms = gradient_norms(PackedPolicy(model, 1.0), masked, layer).numpy()
    expected = one_by_one(model, masked, layer, 1.0)
    np.testing.assert_allclose(norms, expected, rtol=1e-5)
    assert norms[1] == 0.0 and norms[0] > 0


@pytest.mark.parametrize("layer", LAYERS)
def test_rows_without_a_loss_token_and_padding(model_paths, row, layer):
    policy = PackedPolicy(load(model_paths[False]), 1.0)
    silent = module.MicroBatch(
        row.token_ids, row.position_ids, row.segment_ids, torch.zeros_like(row.loss_mask),
        row.rollout_logprobs, row.advantages, row.loss_weights,
    )  # fmt: skip
    assert gradient_norms(policy, silent, layer).tolist() == [0.0] * 5
    assert gradient_norms(policy, padding_row(), layer).tolist() == []


def test_the_padding_token_has_no_gradient_as_in_torch(model_paths, row):
    token = int(row.token_ids[0])
    model = load(model_paths[False])
    with_it = gradient_norms(PackedPolicy(model, 1.0), row, "embedding").numpy()
    model.get_input_embeddings().padding_idx = token
    norms = gradient_norms(PackedPolicy(model, 1.0), row, "embedding").numpy()
    np.testing.assert_allclose(norms, one_by_one(model, row, "embedding", 1.0), rtol=1e-5)
    assert norms[0] < with_it[0] * 0.999


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("layer", LAYERS)
def test_leaves_gradients_mode_and_weights_alone(model_paths, row, layer, checkpointing):
    model = load(model_paths[True]).train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    policy = PackedPolicy(model, 1.0)
    policy(row.token_ids, row.position_ids, row.loss_mask)[0].sum().backward()
    before = {name: (p.detach().clone(), p.grad.clone()) for name, p in model.named_parameters()}
    hooks = [len(m._forward_hooks) for m in model.modules()]
    norms = gradient_norms(policy, row, layer)
    assert model.training
    assert [len(m._forward_hooks) for m in model.modules()] == hooks
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad
        assert torch.equal(parameter, before[name][0])
        assert torch.equal(parameter.grad, before[name][1])
    plain = gradient_norms(PackedPolicy(load(model_paths[True]), 1.0), row, layer)
    np.testing.assert_allclose(norms, plain, rtol=1e-5)


@pytest.mark.parametrize("layer", LAYERS)
def test_bfloat16_is_near_float32(model_paths, row, layer):
    exact = gradient_norms(PackedPolicy(load(model_paths[False]), 1.0), row, layer)
    model = load(model_paths[False]).bfloat16()
    np.testing.assert_allclose(
        gradient_norms(PackedPolicy(model, 1.0), row, layer), exact, rtol=0.05
    )


def test_refuses_what_it_cannot_do_exactly(model_paths, row):
    class ScaledEmbedding(torch.nn.Embedding):
        def forward(self, input):
            return super().forward(input) * 8

    model = load(model_paths[False])
    policy = PackedPolicy(model, 1.0)
    with pytest.raises(ValueError, match=r"^layer must be one of embedding, lm_head, got 'body'"):
        gradient_norms(policy, row, "body")
    model.set_input_embeddings(ScaledEmbedding(261, 64))
    with pytest.raises(ValueError, match=r"^layer must be lm_head .* ScaledEmbedding"):
        gradient_norms(policy, row, "embedding")
    capped = load(model_paths[False])
    capped.register_forward_hook(lambda _, __, output: change(output))
    with pytest.raises(ValueError, match=r"^layer must be embedding for a model that changes"):
        gradient_norms(PackedPolicy(capped, 1.0), row, "lm_head")


def change(output):
    output.logits = output.logits.tanh()
    return output
