"""Engines are sent what stands on disk, whatever the model makes of it in memory."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from learner.disk_names import converts, metadata_on_disk, name_on_disk, on_disk
from tests.model_folders import KINDS, make_folder


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_sent_as_they_stand_on_disk(tmp_path, kind):
    stored = load_file(make_folder(tmp_path, kind) / "model.safetensors")
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    weights = dict(model.named_parameters())
    metadata = metadata_on_disk(
        model, [(name, w.dtype, tuple(w.shape)) for name, w in weights.items()]
    )
    sent = [pair for name, w in weights.items() for pair in on_disk(model, {name: w.detach()})]
    assert [(name, w.dtype, tuple(w.shape)) for name, w in sent] == metadata
    assert {name for name, _ in sent} == set(stored)
    for name, weight in sent:
        assert torch.equal(weight, stored[name]), name
    assert converts(model) == (set(weights) != set(stored))
    ends = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
    for name, weight in weights.items():
        if any(weight is end for end in ends):
            assert torch.equal(stored[name_on_disk(model, name)], weight)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2"])
def test_a_model_that_is_on_disk_what_it_is_in_memory_is_left_alone(tmp_path, kind):
    model = AutoModelForCausalLM.from_pretrained(make_folder(tmp_path, kind))
    assert not converts(model)
    weights = dict(model.named_parameters())
    assert all(sent is weights[name] for name, sent in on_disk(model, weights))
