"""Checkpoints: whole or absent, and readable by others."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from learner.checkpoint import save_checkpoint
from learner.config import LearnerConfig
from learner.numerics import Numerics
from learner.policy import load_policy
from rollout.stopping import stopping_of
from tests.model_folders import KINDS, make_folder, make_tokenizer


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


def test_an_old_checkpoint_that_cannot_be_replaced_stays(model_paths, tmp_path, monkeypatch):
    model = AutoModelForCausalLM.from_pretrained(model_paths[False])
    save_checkpoint(model, changed(model), tmp_path / "latest")
    rename = Path.rename

    def refuse(path, target):
        if path.suffix == ".partial":
            raise OSError(5, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="Input/output"):
        save_checkpoint(model, changed(model), tmp_path / "latest")
    assert [file.name for file in tmp_path.iterdir()] == ["latest"]


def test_what_killed_saves_left_goes_with_the_next_one(model_paths, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(model_paths[False])
    for name in (".latest.0123abcd.partial", ".latest.4567cdef.old", ".other.0123abcd.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_text("half of it")
    save_checkpoint(model, changed(model), tmp_path / "latest")
    assert {file.name for file in tmp_path.iterdir()} == {"latest", ".other.0123abcd.partial"}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_trained_folder_loads_as_the_one_it_came_from(tmp_path, kind, dtype):
    """From several files, with a padded embedding, no pad token, and a generation of its own."""
    generation = {"eos_token_id": [1, 4], "stop_strings": ["###"], "temperature": 0.6}
    tokenizer = make_tokenizer("ends_with_turn", pad=False, begins=True)
    source = make_folder(
        tmp_path / "source", kind, dtype=dtype, num_shards=3, tokenizer=tokenizer,
        generation=generation,
    )  # fmt: skip
    assert len(list(source.glob("*.safetensors"))) > 1
    numerics = Numerics(dtype=dtype, temperature=0.8)
    model = load_policy(str(source), LearnerConfig(), numerics)
    weights = {name: w.detach() * 1.5 for name, w in model.named_parameters()}
    save_checkpoint(model, weights, tmp_path / "policy", source)

    loaded = load_policy(
        str(tmp_path / "policy"), LearnerConfig(), Numerics(dtype=dtype, temperature=0.8)
    )
    for name, parameter in loaded.named_parameters():
        assert torch.equal(parameter, weights[name]), name
    tied = [m.get_output_embeddings().weight is m.get_input_embeddings().weight
            for m in (model, loaded)]  # fmt: skip
    assert tied[0] == tied[1]
    before, after = (
        json.loads((folder / "config.json").read_text()) for folder in (source, tmp_path / "policy")
    )
    assert before == after
    assert json.loads((tmp_path / "policy" / "generation_config.json").read_text()) == generation
    first, again = (AutoTokenizer.from_pretrained(path) for path in (source, tmp_path / "policy"))
    assert again.chat_template == tokenizer.chat_template
    assert again.get_vocab() == first.get_vocab()
    assert (again.pad_token, again.encode("hi")) == (first.pad_token, first.encode("hi"))
    assert stopping_of(str(source), first) == stopping_of(str(tmp_path / "policy"), again)
