"""Adapters: in which layers, merged how, and under which names others see the result."""

import copy

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from learner.checkpoint import save_checkpoint
from learner.deepspeed_weights import lasting_buffers
from learner.logprobs import PackedPolicy
from learner.lora import (
    LoraConfig,
    adapter_files,
    attach,
    checksum,
    save_adapter,
    targets_of,
    weights_of,
)
from tests.learner.architectures import small_model
from tests.model_folders import make_folder

LINEAR = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
ROW = (torch.arange(24) * 7, torch.arange(24) % 12, torch.arange(24) % 12 > 0)


def load(path, dtype=torch.float32):
    return AutoModelForCausalLM.from_pretrained(path, dtype=dtype)


def disturbed(path, dtype=torch.float32, **settings):
    """A model with adapters that change something, and peft's view of it."""
    model = load(path, dtype)
    adapted = attach(model, LoraConfig(**settings))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model, adapted


@torch.no_grad()
def logprobs(model):
    return PackedPolicy(model, 1.0)(*ROW)[0]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "v_proj"], ["layers.1.mlp.up_proj"]])
def test_merged_weights_are_the_adapted_policy_under_its_own_names(model_paths, tied, targets):
    model, _ = disturbed(model_paths[tied], rank=3, alpha=5.0, target_modules=targets)
    before = copy.deepcopy(model.state_dict())
    plain = load(model_paths[tied])
    merged = {weight.name: weight.merged() for weight in weights_of(model)}
    assert list(merged) == [name for name, _ in plain.named_parameters()]
    changed = [n for n, p in plain.named_parameters() if not torch.equal(p, merged[n])]
    ends = tuple(f"{t}.weight" for t in (LINEAR if targets == "all-linear" else targets))
    assert changed == [name for name in merged if name.endswith(ends)]
    plain.load_state_dict(merged, strict=False)
    assert (logprobs(plain) - logprobs(load(model_paths[tied]))).abs().max() > 1e-2
    torch.testing.assert_close(logprobs(plain), logprobs(model), rtol=0, atol=1e-5)
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before), "merging changes nothing"


def test_training_starts_from_the_policy_and_trains_adapters_only(model_paths):
    model = load(model_paths[False])
    expected = logprobs(model)
    attach(model, LoraConfig(rank=2))
    assert torch.equal(logprobs(model), expected)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {n for n, _ in model.named_parameters() if ".lora_A." in n or ".lora_B." in n}
    assert len(trained) == 2 * len(LINEAR) * model.config.num_hidden_layers


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_checksum_is_of_the_weights_and_not_of_the_adapters(model_paths, dtype):
    model, _ = disturbed(model_paths[False], dtype, rank=2)
    other, _ = disturbed(model_paths[False], dtype, rank=3)
    assert checksum(model) == checksum(other) != 0
    with torch.no_grad():
        other.lm_head.weight.mul_(1.01)
    assert checksum(model) != checksum(other)


def test_a_model_without_adapters_has_plain_weights(model_paths):
    model = load(model_paths[True])
    for weight, (name, parameter) in zip(weights_of(model), model.named_parameters(), strict=True):
        assert weight.name == name and weight.parts == [parameter]
        assert weight.merged().data_ptr() == parameter.data_ptr(), "no copy"


def test_adapters_keep_the_models_precision_and_merge_in_float32(model_paths):
    model, _ = disturbed(model_paths[False], torch.bfloat16, rank=4, alpha=4.0)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    weight = next(weight for weight in weights_of(model) if weight.a is not None)
    exact = weight.parameter.double() + weight.b.double() @ weight.a.double()
    assert weight.merged().dtype == torch.bfloat16
    assert torch.equal(weight.merged(), exact.to(torch.bfloat16))


def test_disabled_adapters_give_the_starting_policy_back(model_paths):
    model, adapted = disturbed(model_paths[False], rank=5)
    with_adapters = logprobs(model)
    with adapted.disable_adapter():
        assert torch.equal(logprobs(model), logprobs(load(model_paths[False])))
    assert torch.equal(logprobs(model), with_adapters)


def test_others_load_the_saved_adapters_and_the_merged_checkpoint(model_paths, tmp_path):
    model, adapted = disturbed(model_paths[False], rank=2)
    expected = logprobs(model)
    tensors = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    merged = {weight.name: weight.merged().clone() for weight in weights_of(model)}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()  # What is written must not be what the model holds, as under ZeRO-3.
    save_checkpoint(
        model, merged, tmp_path / "v1", None, lambda path: save_adapter(adapted, tensors, path)
    )
    files = {file.name for file in (tmp_path / "v1" / "adapter").iterdir()}
    assert files >= {"adapter_model.safetensors", "adapter_config.json"}
    torch.testing.assert_close(logprobs(load(tmp_path / "v1")), expected, rtol=0, atol=1e-5)
    base = load(model_paths[False])
    peft.PeftModel.from_pretrained(base, tmp_path / "v1" / "adapter")
    torch.testing.assert_close(logprobs(base), expected, rtol=0, atol=1e-5)


def test_all_linear_leaves_the_head_out(model_paths):
    assert targets_of(load(model_paths[False]), LoraConfig()) == LINEAR


@pytest.mark.parametrize("name", ["deepseek_v3", "glm4_moe", "phimoe"])
def test_experts_and_routers_have_no_adapters(tmp_path, name):
    """Beside the experts, whose layers have names of theirs, and in layers without experts."""
    small_model(name, vocab_size=261).save_pretrained(tmp_path / "v0")
    model, adapted = disturbed(tmp_path / "v0", rank=2)
    expected, base = logprobs(model), load(tmp_path / "v0")
    assert (logprobs(base) - expected).abs().max() > 1e-2
    tensors = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    assert {n.split(".lora_")[0].split(".")[-2] for n in tensors} == {"self_attn"}
    merged = {weight.name: weight.merged().clone() for weight in weights_of(model)}
    assert list(merged) == [n for n, _ in base.named_parameters()]
    merged |= {name: model.get_buffer(name) for name in lasting_buffers(model)}
    save_checkpoint(
        model, merged, tmp_path / "v1", None, lambda path: save_adapter(adapted, tensors, path)
    )
    torch.testing.assert_close(logprobs(load(tmp_path / "v1")), expected, rtol=0, atol=1e-5)
    peft.PeftModel.from_pretrained(base, tmp_path / "v1" / "adapter")
    torch.testing.assert_close(logprobs(base), expected, rtol=0, atol=1e-5)
    named = "router" if name == "phimoe" else "up_proj"
    with pytest.raises(ValueError, match=rf"^learner\.lora\.target_modules .*got '{named}'$"):
        attach(load(tmp_path / "v0"), LoraConfig(rank=2, target_modules=["o_proj", named]))


def test_a_model_without_linear_layers_gets_no_adapters(tmp_path):
    """GPT-2's layers are ones of its own."""
    with pytest.raises(ValueError, match=r"^learner\.lora\.rank must be 0 .*got GPT2LMHeadModel$"):
        attach(load(make_folder(tmp_path, "gpt2")), LoraConfig(rank=2))


def test_published_files_are_those_that_are_saved(model_paths, tmp_path):
    model, adapted = disturbed(model_paths[False], rank=2)
    tensors = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    save_adapter(adapted, tensors, tmp_path)
    files = adapter_files(adapted, tensors)
    assert sorted(files) == ["adapter_config.json", "adapter_model.safetensors"]
    for name, content in files.items():
        assert content == (tmp_path / name).read_bytes()


@pytest.mark.parametrize(("rank", "published"), [(0, None), (1, 1), (512, 512), (513, None)])
def test_adapters_by_themselves_need_a_rank_that_engines_take(rank, published):
    assert LoraConfig(rank=rank).published_rank == 0
    if published is not None:
        assert LoraConfig(rank=rank, publish="adapters").published_rank == published
        return
    with pytest.raises(ValueError, match=r"^learner\.lora\.rank must lie in \[1, 512\] with"):
        LoraConfig(rank=rank, publish="adapters")


@pytest.mark.parametrize("target", ["wq", "proj", "lm_head", "embed_tokens", "self_attn"])
def test_a_target_that_is_no_linear_layer_is_refused_with_those_there_are(model_paths, target):
    config = LoraConfig(rank=2, target_modules=["q_proj", target])
    with pytest.raises(ValueError, match=r"^learner\.lora\.target_modules .*down_proj") as error:
        attach(load(model_paths[False]), config)
    assert str(error.value).endswith(f"got {target!r}")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rank", -1), ("alpha", 0.0), ("alpha", float("nan")), ("alpha", float("inf")),
        ("target_modules", "q_proj"), ("target_modules", []), ("target_modules", [""]),
        ("target_modules", None), ("publish", "both"),
    ],
)  # fmt: skip
def test_a_value_outside_its_range_is_refused_by_name(key, value):
    with pytest.raises(ValueError, match=rf"^learner\.lora\.{key} .*got ") as error:
        LoraConfig(**{key: value})
    assert str(error.value).endswith(f"got {value!r}")
