"""Packed rows against the same responses one by one, and chunked logits against whole ones."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from learner.batch import collate, segment_of
from learner.logprobs import PackedPolicy, predictors
from learner.packing_check import check_packing
from tests.learner.architectures import small_model
from tests.learner.rows import scored, segments_of

WORKING = ("llama", "qwen2", "gemma", "gemma3", "gpt_neox", "granite", "cohere", "phi")


def naive_logprobs(model, token_ids, num_prompt, temperature):
    """One segment by itself, every step spelt out."""
    logits = model(input_ids=token_ids[None]).logits[0].float() / temperature
    logprobs = logits.log_softmax(dim=-1)
    rows = torch.arange(num_prompt, len(token_ids))
    return logprobs[rows - 1, token_ids[rows]], logprobs[rows - 1]


def gradients(policy, row):
    """Loss tokens' log-probabilities and entropies, and the gradient of a function of both."""
    policy.zero_grad()
    logprobs, entropies = scored(policy, row)
    # Weighed by the rollout's log-probabilities, so that every token counts differently.
    (row.rollout_logprobs * (logprobs + 0.3 * entropies)).sum().backward()
    found = {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}
    mask = row.loss_mask
    return logprobs[mask].detach(), entropies[mask].detach(), found


def assert_same(one, other, tolerance=1e-5):
    for mine, theirs in zip(one[:2], other[:2], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=tolerance)
    assert one[2].keys() == other[2].keys()
    scale = max(gradient.abs().max().item() for gradient in other[2].values())
    for name, gradient in one[2].items():
        assert (gradient - other[2][name]).abs().max() <= tolerance * scale, name


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_packing_isolates_segments(model_paths, batch, tied, temperature):
    groups, selections = batch
    model = AutoModelForCausalLM.from_pretrained(model_paths[tied], dtype=torch.float32)
    policy = PackedPolicy(model, temperature)
    chosen = [(0, 1), (3, 1), (1, 3), (4, 0)]
    row = collate([segment_of(groups[k], selections[k], j, num_groups=5) for k, j in chosen])
    logprobs, entropies = policy(row.token_ids, row.position_ids, row.loss_mask)
    assert not entropies.requires_grad
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


@pytest.mark.parametrize("name", WORKING)
def test_a_shared_prompt_is_a_repeated_one_and_chunks_are_the_whole(name):
    model = small_model(name)
    segments = segments_of()
    repeated, shared = collate(segments), collate(segments, shared_prefix=True)
    assert len(repeated.token_ids) == 54 and len(shared.token_ids) == 39
    reference = gradients(PackedPolicy(model, 0.8), repeated)
    assert len(reference[0]) == int(shared.loss_mask.sum()) > 10
    for chunk in (3, 1000):
        policy = PackedPolicy(model, 0.8, logits_chunk_tokens=chunk)
        assert_same(gradients(policy, shared), reference)
        assert_same(gradients(policy, repeated), reference)
    check_packing(policy)
    # What everything is compared with is the model's own attention and its own softmax.
    model.set_attn_implementation("eager")
    begin = 0
    for segment in segments:
        prompt = segment.num_prompt_tokens
        expected, full = naive_logprobs(model, torch.tensor(segment.token_ids), prompt, 0.8)
        mask = torch.tensor(segment.loss_mask[prompt:])
        part = slice(begin, begin := begin + int(mask.sum()))
        torch.testing.assert_close(reference[0][part], expected[mask], rtol=0, atol=1e-5)
        entropy = -(full.exp() * full).sum(dim=-1)
        torch.testing.assert_close(reference[1][part], entropy[mask], rtol=0, atol=1e-5)


def test_chunks_that_other_ranks_need_change_nothing():
    policy = PackedPolicy(small_model("llama"), 0.8, logits_chunk_tokens=4)
    row = collate(segments_of(), shared_prefix=True)
    expected, asked = gradients(policy, row), []
    policy.most = lambda number: asked.append(number) or number + 3
    assert_same(gradients(policy, row), expected, 1e-6)
    assert asked == [-(-int(row.loss_mask.sum()) // 4)]


def test_responses_see_neither_each_other_nor_their_order():
    policy = PackedPolicy(small_model("llama"), 1.0, logits_chunk_tokens=5)
    segments = segments_of()

    def by_response(chosen):
        row = collate(chosen, shared_prefix=True)
        logprobs = scored(policy, row)[0].detach()
        return [logprobs[row.loss_mask & (row.segment_ids == j)] for j in range(len(chosen))]

    before = by_response(segments)
    order = [5, 2, 0, 1, 4, 3]
    for j, logprobs in zip(order, by_response([segments[j] for j in order]), strict=True):
        torch.testing.assert_close(logprobs, before[j], rtol=0, atol=1e-5)
    other = segments[0].token_ids.copy()
    other[7:] = (other[7:] + 11) % 97
    changed = by_response([replace(segments[0], token_ids=other), *segments[1:]])
    assert not torch.equal(changed[0], before[0])
    for one, same in zip(changed[1:], before[1:], strict=True):
        assert torch.equal(one, same)


@pytest.mark.parametrize("rows", [[[0, 1, 2, 3, 4, 5]], [[0, 2], [1], [3, 5], [4]]])
def test_a_group_over_several_rows_has_the_same_gradient(rows):
    policy = PackedPolicy(small_model("qwen2"), 1.0, logits_chunk_tokens=4)
    segments = segments_of()
    expected = gradients(policy, collate(segments))[2]
    total = {name: torch.zeros_like(gradient) for name, gradient in expected.items()}
    for row in rows:
        packed = collate([segments[j] for j in row], shared_prefix=True)
        for name, gradient in gradients(policy, packed)[2].items():
            total[name] += gradient
    scale = max(gradient.abs().max() for gradient in expected.values())
    for name, gradient in total.items():
        assert (gradient - expected[name]).abs().max() < 1e-5 * scale, name


def test_gradient_checkpointing_changes_nothing():
    model = small_model("llama")
    row = collate(segments_of(), shared_prefix=True)
    policy = PackedPolicy(model, 1.0, logits_chunk_tokens=4)
    expected = gradients(policy, row)
    model.train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    assert_same(gradients(policy, row), expected, tolerance=1e-6)


def test_sixteen_bits_are_near():
    model = small_model("llama")
    row = collate(segments_of(), shared_prefix=True)
    expected = gradients(PackedPolicy(model, 1.0), row)
    policy = PackedPolicy(model.bfloat16(), 1.0, logits_chunk_tokens=4)
    logprobs, entropies, found = gradients(policy, row)
    assert logprobs.dtype == entropies.dtype == torch.float32
    assert (logprobs - expected[0]).abs().mean() < 0.1
    cosine = torch.nn.functional.cosine_similarity
    both = (torch.cat([g[n].flatten().float() for n in found]) for g in (found, expected[2]))
    assert cosine(*both, dim=0) > 0.99
    check_packing(policy)


def test_only_a_chunk_of_logits_exists_at_a_time():
    model = small_model("llama", vocab_size=5003)
    row = collate(segments_of([(3, [40, 40])], vocabulary=5003), shared_prefix=True)
    shapes = []
    model.lm_head.register_forward_hook(lambda _, __, logits: shapes.append(tuple(logits.shape)))
    num_loss = int(row.loss_mask.sum())
    policy = PackedPolicy(model, 1.0, logits_chunk_tokens=16)
    logprobs, _ = scored(policy, row, entropy_gradient=False)
    forward = [(1, 16, 5003)] * (num_loss // 16) + [(1, num_loss % 16, 5003)]
    assert shapes == forward
    logprobs.sum().backward()
    # All but the last chunk once more, when its turn comes.
    assert shapes == forward + forward[:-1]


def test_predictors_are_the_token_before_or_the_prompts_last():
    positions = torch.tensor([0, 1, 2, 3, 2, 3, 2, 0, 1, 1, 0])
    found = predictors(positions).tolist()
    assert [p for p, position in zip(found, positions, strict=True) if position] == [
        0, 1, 2, 1, 4, 1, 7, 7,
    ]  # fmt: skip


def test_a_row_without_loss_tokens_gives_every_parameter_a_gradient():
    policy = PackedPolicy(small_model("llama"), 1.0)
    row = collate(segments_of())
    logprobs, entropies = policy(row.token_ids, row.position_ids, torch.zeros_like(row.loss_mask))
    assert not logprobs.any() and not entropies.any()
    logprobs.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in policy.parameters())


def test_prompts_cost_no_logits(model_paths, batch):
    groups, selections = batch
    model = AutoModelForCausalLM.from_pretrained(model_paths[False], dtype=torch.float32)
    shapes = []
    model.lm_head.register_forward_hook(lambda _, __, logits: shapes.append(tuple(logits.shape)))
    row = collate([segment_of(groups[0], selections[0], 1, num_groups=5)])
    PackedPolicy(model, 1.0)(row.token_ids, row.position_ids, row.loss_mask)
    assert shapes == [(1, 17, 261)]


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"^temperature must be positive, got 0\.0$"):
        PackedPolicy(torch.nn.Identity(), 0.0)
    with pytest.raises(
        ValueError, match=r"^learner\.logits_chunk_tokens must be at least 1, got 0"
    ):
        PackedPolicy(torch.nn.Identity(), 1.0, logits_chunk_tokens=0)
