"""Chunk-wise training: the gradient of the whole row, for any chunk, in bounded memory."""

from itertools import pairwise

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from launch.study.bench.peak_memory import PeakMemory
from learner import attention, lora
from learner.chunked import ChunkedPolicy, chunks_of
from learner.logprobs import PackedPolicy

LENGTHS = (3, 41, 5, 2, 30, 4)
NUM_TOKENS = sum(LENGTHS)


@pytest.fixture(scope="module")
def row():
    generator = torch.Generator().manual_seed(5)
    token_ids = torch.randint(0, 261, (NUM_TOKENS,), generator=generator)
    position_ids = torch.cat([torch.arange(length) for length in LENGTHS])
    loss_mask = (position_ids > 0) & (torch.rand(NUM_TOKENS, generator=generator) < 0.8)
    return token_ids, position_ids, loss_mask


def load(path, dtype):
    return AutoModelForCausalLM.from_pretrained(
        path, dtype=dtype, attn_implementation=attention.register()
    )


def loss_of(policy, row, entropy_gradient):
    """One that couples the tokens of a row, as sequence-level objectives do."""
    logprobs, entropies = policy(*row, entropy_gradient)
    assert entropies.requires_grad == entropy_gradient
    mask = row[2]
    total = (logprobs[mask] / 10).tanh().sum().exp() + logprobs[mask].square().mean()
    return total + (0.1 * entropies[mask].square().sum() if entropy_gradient else 0.0)


def gradients(policy, row, entropy_gradient=False):
    loss = loss_of(policy, row, entropy_gradient)
    loss.backward()
    found = {
        name: parameter.grad.clone()
        for name, parameter in policy.named_parameters()
        if parameter.grad is not None
    }
    policy.zero_grad()
    return loss.detach(), found


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("chunk_tokens", [1, 7, 10, 16, 40, 64, NUM_TOKENS])
def test_gradients_are_those_of_the_whole_row(model_paths, row, tied, chunk_tokens):
    model = load(model_paths[tied], torch.float64)
    # Half of the cases, so that either way is seen with either kind of chunk.
    entropy = chunk_tokens % 2 == 0
    loss, expected = gradients(PackedPolicy(model, 0.9), row, entropy)
    chunked = ChunkedPolicy(model, 0.9, chunk_tokens=chunk_tokens, logits_chunk_tokens=6)
    ours, found = gradients(chunked, row, entropy)
    torch.testing.assert_close(ours, loss, rtol=1e-6, atol=1e-6)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-6, msg=name)


def test_in_bfloat16_many_chunks_are_as_exact_as_one_row(model_paths, row):
    """Each against float64; what waits for a chunk is not rounded at every addition."""
    _, exact = gradients(PackedPolicy(load(model_paths[False], torch.float64), 1.0), row)
    model = load(model_paths[False], torch.bfloat16)
    _, whole = gradients(PackedPolicy(model, 1.0), row)
    _, chunked = gradients(ChunkedPolicy(model, 1.0, chunk_tokens=2), row)

    def error(found):
        apart = sum((found[name].double() - exact[name]).square().sum() for name in exact)
        return (apart / sum(value.square().sum() for value in exact.values())).sqrt().item()

    assert 0 < error(chunked) < 1.2 * error(whole) < 0.1


def test_scores_without_gradient_are_those_of_the_whole_row(model_paths, row):
    model = load(model_paths[False], torch.float32)
    with torch.no_grad():
        expected = PackedPolicy(model, 1.0)(*row)
        found = ChunkedPolicy(model, 1.0, chunk_tokens=8)(*row)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("targets", ["all-linear", ["o_proj"], ["down_proj"]])
def test_only_adapters_receive_gradients_when_only_they_are_trained(model_paths, row, targets):
    """Without one at q, k or v, the first layer's keys and values have no gradient."""
    model = load(model_paths[False], torch.float64)
    lora.attach(model, lora.LoraConfig(rank=3, target_modules=targets))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(0, 0.05, generator=torch.Generator().manual_seed(len(name)))
    _, expected = gradients(PackedPolicy(model, 0.9), row)
    _, found = gradients(ChunkedPolicy(model, 0.9, chunk_tokens=9), row)
    assert found.keys() == expected.keys()
    assert all(".lora_" in name for name in found)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-6, msg=name)


def test_the_model_is_left_as_it_was(model_paths, row):
    model = load(model_paths[False], torch.float32)
    before = model.config._attn_implementation
    gradients(ChunkedPolicy(model, 1.0, chunk_tokens=8), row)
    assert model.config._attn_implementation == before
    assert not model.model._forward_pre_hooks


@pytest.mark.parametrize("chunk_tokens", range(1, 50))
def test_chunks_cover_the_row_and_cut_long_segments_only(row, chunk_tokens):
    position_ids = row[1]
    starts = {*(position_ids == 0).nonzero().squeeze(1).tolist(), NUM_TOKENS}
    groups = chunks_of(position_ids, chunk_tokens)
    flat = [chunk for group in groups for chunk in group]
    assert flat[0][0] == 0 and flat[-1][1] == NUM_TOKENS
    assert all(a[1] == b[0] for a, b in pairwise(flat))
    assert all(0 < stop - start <= chunk_tokens for start, stop in flat)
    for group in groups:
        assert group[0][0] in starts and group[-1][1] in starts
        inner = {edge for chunk in group for edge in chunk} - {group[0][0], group[-1][1]}
        assert not inner & starts


def most_bytes(policy, num_tokens):
    generator = torch.Generator().manual_seed(num_tokens)
    token_ids = torch.randint(0, 261, (num_tokens,), generator=generator)
    positions = torch.arange(num_tokens)
    with PeakMemory() as peak:
        logprobs, _ = policy(token_ids, positions, positions > 0)
        logprobs.sum().backward()
    policy.zero_grad()
    return peak.most


def test_memory_does_not_grow_with_the_row_but_for_the_cache(model_paths):
    """Keys and values, and the gradients that wait at them; everything else is a chunk's."""
    model = load(model_paths[False], torch.float32)
    whole, chunked = PackedPolicy(model, 1.0), ChunkedPolicy(model, 1.0, chunk_tokens=16)
    growth = most_bytes(chunked, 1024) - most_bytes(chunked, 256)
    # Two layers, 2 heads of 16 dimensions.
    cache = 768 * 2 * 2 * 2 * 16 * 4
    assert 2 * cache <= growth < 3 * cache
    assert 6 * growth < most_bytes(whole, 1024) - most_bytes(whole, 256)


def test_the_gradients_of_a_chunk_are_not_held_beside_their_sum():
    config = LlamaConfig(
        vocab_size=261, hidden_size=64, intermediate_size=4096, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.set_attn_implementation(attention.register())
    weights = sum(parameter.nbytes for parameter in model.parameters())
    # The weights themselves, which operators return views of, and one sum of their gradients.
    assert most_bytes(ChunkedPolicy(model, 1.0, chunk_tokens=4), 16) < 2.5 * weights
