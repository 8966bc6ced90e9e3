"""Checkpoints: whole or absent, and readable by others."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from learner.checkpoint import save_checkpoint


def changed(model):
    """New weights by parameter name; the model itself keeps its own."""
    return {name: parameter.detach() + 0.5 for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("tied", [False, True])
def test_a_checkpoint_comes_back_as_it_was(model_paths, tmp_path, tied):
    model = AutoModelForCausalLM.from_pretrained(model_paths[tied])
    weights = changed(model)
    save_checkpoint(model, weights, tmp_path / "deep" / "v1")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "deep" / "v1")
    for name, parameter in loaded.named_parameters():
        assert torch.equal(parameter, weights[name]), name
    shared = loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert shared == tied
    files = {file.name for file in (tmp_path / "deep" / "v1").iterdir()}
    assert files == {"config.json", "generation_config.json", "model.safetensors"}


def test_the_tokenizer_comes_along_and_old_weights_do_not(model_paths, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "merges.txt"):
        (source / name).write_text(name)
    (source / "model.safetensors").write_text("old")
    model = AutoModelForCausalLM.from_pretrained(model_paths[False])
    save_checkpoint(model, changed(model), tmp_path / "v1", source)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "merges.txt"):
        assert (tmp_path / "v1" / name).read_text() == name
    AutoModelForCausalLM.from_pretrained(tmp_path / "v1")


def test_a_second_checkpoint_replaces_the_first(model_paths, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(model_paths[False])
    save_checkpoint(model, dict(model.named_parameters()), tmp_path / "latest")
    (tmp_path / "latest" / "stale.txt").write_text("")
    save_checkpoint(model, changed(model), tmp_path / "latest")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "latest")
    assert torch.equal(loaded.lm_head.weight, changed(model)["lm_head.weight"])
    assert [file.name for file in tmp_path.iterdir()] == ["latest"]
    assert not (tmp_path / "latest" / "stale.txt").exists()


def test_a_failed_save_leaves_the_old_checkpoint_and_nothing_else(model_paths, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(model_paths[False])
    save_checkpoint(model, changed(model), tmp_path / "latest")
    with pytest.raises(TypeError):
        save_checkpoint(model, changed(model), tmp_path / "latest", tokenizer_path=3.5)
    assert [file.name for file in tmp_path.iterdir()] == ["latest"]
    assert json.loads((tmp_path / "latest" / "config.json").read_text())["vocab_size"] == 261
    AutoModelForCausalLM.from_pretrained(tmp_path / "latest")
