"""What of a policy goes to engines and checkpoints: all that its own checkpoint has."""

from contextlib import nullcontext

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from learner.config import LearnerConfig
from learner.deepspeed_weights import DeepSpeedWeights
from tests.learner.architectures import small_model

ROUTERS = ("glm4_moe", "deepseek_v3")
"""Models whose routers have a bias that is no parameter."""
BIAS = "model.layers.1.mlp.gate.e_score_correction_bias"


class Holder:
    """One rank that holds a whole policy."""

    rank = 0
    adapted = None

    def __init__(self, path):
        self.config = LearnerConfig()
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)

    def whole(self, parameters):
        return nullcontext()

    def agree(self, value):
        return value


@pytest.fixture(params=("llama", *ROUTERS))
def folder(tmp_path, request):
    model = small_model(request.param)
    with torch.no_grad():
        for buffer in model.buffers():
            if buffer.shape == (4,):
                buffer.copy_(torch.tensor([0.5, -1.0, 2.0, 0.25]))
    model.save_pretrained(tmp_path / "v0")
    return tmp_path / "v0"


def test_everything_on_disk_is_published_and_saved(folder):
    weights = DeepSpeedWeights(Holder(folder))
    stored = load_file(folder / "model.safetensors")
    published = dict(weights.published())
    assert [(name, t.dtype, tuple(t.shape)) for name, t in published.items()] == (
        weights.published_metadata()
    )
    weights.save(folder.parent / "v1")
    for found in (published, load_file(folder.parent / "v1" / "model.safetensors")):
        assert found.keys() == stored.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in stored.items())


def test_buffers_are_disturbed_and_restored_with_the_weights(folder):
    holder = Holder(folder)
    weights = DeepSpeedWeights(holder)
    # What moves a model to a device makes other buffers, under the same names.
    holder.model.double().float()
    before = {name: tensor.clone() for name, tensor in weights.full()}
    assert (BIAS in before) == (holder.model.config.model_type in ROUTERS)
    weights.disturb()
    assert all(torch.equal(tensor * 2, before[name]) for name, tensor in weights.full())
    weights.restore()
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights.full())
