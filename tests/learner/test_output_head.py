"""What the output head is given and gives, and which heads are refused."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from learner.batch import collate
from learner.chunked import ChunkedPolicy
from learner.logprobs import PackedPolicy
from learner.output_head import check_head, head_inputs, widen_head
from tests.learner.architectures import small_model
from tests.learner.rows import scored, segments_of


@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma", "gemma3", "gpt_neox", "mixtral"])
def test_logits_that_are_a_product_with_the_head_pass(name):
    check_head(PackedPolicy(small_model(name), 0.7))


@pytest.mark.parametrize(
    ("name", "settings"),
    [("granite", {}), ("cohere", {}), ("phi", {}), ("gemma3", {"final_logit_softcapping": 30.0})],
)
def test_logits_that_are_scaled_capped_or_shifted_are_refused_for_the_mask(name, settings):
    model = small_model(name, **settings)
    with pytest.raises(ValueError, match=rf"^learner\.curvature\..* got {type(model).__name__}$"):
        check_head(PackedPolicy(model, 0.7))


@pytest.mark.parametrize("chunk_tokens", [None, 7, 20])
def test_the_head_is_given_the_states_that_predict_the_loss_tokens(model_paths, chunk_tokens):
    model = AutoModelForCausalLM.from_pretrained(model_paths[False], dtype=torch.float32)
    row = collate(segments_of())
    policy = PackedPolicy(model, 1.0, logits_chunk_tokens=5)
    if chunk_tokens is not None:
        policy = ChunkedPolicy(model, 1.0, logits_chunk_tokens=5, chunk_tokens=chunk_tokens)
    with torch.no_grad(), head_inputs(model) as seen:
        logprobs, _ = scored(policy, row)
    states = torch.cat(seen, dim=1)[0]
    found = model.lm_head(states).log_softmax(-1).gather(1, row.token_ids[row.loss_mask][:, None])
    torch.testing.assert_close(found[:, 0], logprobs[row.loss_mask], rtol=0, atol=1e-5)


def wide_and_narrow(vocabulary=4000):
    """Logits and the head's gradient of one bfloat16 head, both ways, and exactly."""
    torch.manual_seed(0)
    head = torch.nn.Linear(64, vocabulary, bias=False).bfloat16()
    hidden = torch.randn(7, 64).bfloat16()
    found = []
    for wide in (False, True):
        if wide:
            widen_head(head)
        head.weight.grad = None
        logits = head(hidden)
        logits.float().log_softmax(-1)[:, 3].sum().backward()
        found.append((logits, head.weight.grad))
    exact = hidden.double() @ head.weight.detach().double().T
    return *found, exact


def test_a_wide_head_computes_float32_logits_of_sixteen_bit_weights():
    (narrow, of_narrow), (wide, of_wide), exact = wide_and_narrow()
    assert wide.dtype == torch.float32 and of_wide.dtype == torch.bfloat16
    assert (wide - exact).abs().max() < 1e-5 < 1e-3 < (narrow - exact).abs().max()
    torch.testing.assert_close(of_wide, of_narrow, rtol=0.1, atol=1e-2)


def test_a_wide_head_changes_nothing_in_float32():
    row = collate(segments_of())
    expected = scored(PackedPolicy(small_model("cohere"), 1.0), row)[0]
    model = small_model("cohere")
    widen_head(model.get_output_embeddings())
    torch.testing.assert_close(scored(PackedPolicy(model, 1.0), row)[0], expected)


@pytest.mark.parametrize("wide", [False, True])
def test_a_wide_head_takes_its_rounding_out_of_log_probabilities(wide):
    row = collate(segments_of())
    model = small_model("llama").bfloat16()
    if wide:
        widen_head(model.get_output_embeddings())
    policy = PackedPolicy(model, 1.0, logits_chunk_tokens=4)
    with head_inputs(model) as seen:
        found = scored(policy, row)[0]
    states = torch.cat(seen, dim=1)[0].double()
    exact = (states @ model.lm_head.weight.double().T).log_softmax(-1)
    mask = row.loss_mask
    exact = exact[torch.arange(len(exact)), row.token_ids[mask]]
    assert bool((found[mask] - exact).abs().max() < 1e-6) is wide
    found.sum().backward()
    assert all(p.grad is not None and p.grad.dtype == p.dtype for p in policy.parameters())


def test_a_head_that_is_no_linear_layer_is_not_widened():
    with pytest.raises(ValueError, match=r"^model\.float32_head must be false .* got Identity"):
        widen_head(torch.nn.Identity())
