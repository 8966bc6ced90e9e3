import json
import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import rollout.tasks.chain
from conf.models import WarmStartConfig
from launch.cli.refusals import UserError
from launch.models.warmstart import (
    build_model,
    build_tokenizer,
    learning_rate,
    longest_chain,
    make_batches,
    warm_start,
)
from rollout.tasks.chain import HELD_OUT_ONE_IN
from rollout.tasks.prompts import is_held_out

SHIPPED = Path(rollout.tasks.chain.__file__).parent / "chain_model"


@pytest.fixture(autouse=True)
def restored_torch():
    threads = torch.get_num_threads()
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


def train(out, **settings):
    return warm_start(WarmStartConfig(out=str(out), steps=4, batch_tokens=600, **settings))


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


def test_a_seed_gives_the_same_bits(tmp_path):
    first = weights(train(tmp_path / "first", seed=1))
    assert first == weights(train(tmp_path / "again", seed=1))
    assert first != weights(train(tmp_path / "other", seed=2))


def test_the_checkpoint_loads_with_its_tokenizer(tmp_path):
    out = train(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert sum(p.numel() for p in model.parameters()) == 624_128
    message = [{"role": "user", "content": "a3 b+4"}]
    text = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    assert text == "<|user|>a3 b+4<|end|><|assistant|>"


def test_the_shipped_model_is_what_the_code_builds():
    built = build_model(0).config.to_dict()
    shipped = json.loads((SHIPPED / "config.json").read_text())
    for key in ("dtype", "architectures", "_name_or_path", "transformers_version"):
        built.pop(key, None)
        shipped.pop(key, None)
    assert {key: built[key] for key in shipped if key in built} == {
        key: value for key, value in shipped.items() if key in built
    }
    assert build_tokenizer().get_vocab() == AutoTokenizer.from_pretrained(SHIPPED).get_vocab()


@pytest.mark.parametrize(
    ("architecture", "name", "num_weights", "tied"),
    [
        ("qwen3", "Qwen3ForCausalLM", 624_320, True),
        ("gpt_neox", "GPTNeoXForCausalLM", 612_544, False),
    ],
)
def test_other_shapes_have_about_as_many_weights(architecture, name, num_weights, tied):
    model = build_model(0, architecture=architecture)
    assert type(model).__name__ == name
    assert sum(p.numel() for p in model.parameters()) == num_weights
    head = model.get_output_embeddings().weight
    assert (head is model.get_input_embeddings().weight) == tied


def test_half_of_a_neox_head_knows_positions(tmp_path):
    model = AutoModelForCausalLM.from_pretrained(train(tmp_path / "m", architecture="gpt_neox"))
    assert len(model.gpt_neox.rotary_emb.inv_freq) == 8
    assert model.config.use_parallel_residual


def test_an_existing_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"out must be a folder that does not exist yet, got"):
        train(tmp_path)


def test_batches_learn_the_response_and_its_end_only():
    tokenizer = build_tokenizer()
    config = WarmStartConfig(steps=6)
    for token_ids, labels in make_batches(config, tokenizer):
        assert token_ids.shape == labels.shape
        assert token_ids.numel() <= config.batch_tokens
        for ids, targets in zip(token_ids.tolist(), labels.tolist(), strict=True):
            text = tokenizer.decode(ids, skip_special_tokens=False).rstrip()
            prompt, response = text.replace("<|pad|>", "").split("<|assistant|>")
            learned = [t for t in targets if t != -100]
            assert tokenizer.decode(learned) == response
            assert learned[-1] == tokenizer.eos_token_id
            assert all(t in (-100, i) for t, i in zip(targets, ids, strict=True))
            question = prompt.removeprefix("<|user|>").removesuffix("<|end|>")
            assert not is_held_out(question, HELD_OUT_ONE_IN)


def test_the_curriculum_grows_from_three_steps_to_all():
    lengths = [longest_chain(step, 2000) for step in range(2000)]
    assert lengths[0] == lengths[299] == 3
    assert lengths[1000] == lengths[-1] == 25
    assert lengths == sorted(lengths)


def test_the_learning_rate_rises_and_follows_the_cosine():
    config = WarmStartConfig(steps=1000, schedule_steps=1000, warmup_steps=10, lr=1.0)
    assert learning_rate(config, 0) == pytest.approx(0.1)
    assert learning_rate(config, 500) == pytest.approx(0.525)
    assert learning_rate(config, 999) == pytest.approx(0.05, abs=1e-4)
    assert all(math.isfinite(learning_rate(config, step)) for step in range(1000))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"batch_tokens": 100}, "batch_tokens must be at least 512, .* got 100"),
        ({"lr": 0.0}, "lr must be positive, got 0.0"),
        (
            {"architecture": "gpt2"},
            "architecture must be one of llama, qwen3, gpt_neox, got 'gpt2'",
        ),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        WarmStartConfig(**settings)
