"""Loading weights into a model that has some, by vLLM's own functions."""

from types import SimpleNamespace

import pytest
import torch
from vllm.model_executor.model_loader.reload import record_metadata_for_reloading

from rollout.gloo_transfer import GlooWeightTransferEngine
from rollout.nccl_transfer import NcclWeightTransferEngine
from rollout.reloading import unpack_experts


class Fused(torch.nn.Module):
    """Two matrices of a checkpoint in one, as vLLM has queries and keys."""

    def __init__(self):
        super().__init__()
        self.both = torch.nn.Parameter(torch.zeros(4, 3), requires_grad=False)
        self.both.weight_loader = self.load_half

    def load_half(self, param, loaded, half):
        param.data[2 * half : 2 * half + 2].copy_(loaded)


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleList([Fused(), Fused(), Fused()])

    def load(self, halves):
        """Load (layer, half, value); parameters are looked up once, as models of vLLM do."""
        parameters = [layer.both for layer in self.layers]
        for layer, half, value in halves:
            parameters[layer].weight_loader(parameters[layer], torch.full((2, 3), value), half)

    def load_all(self, value):
        self.load([(k, half, value + 10 * k + half) for k in range(3) for half in range(2)])

    def values(self):
        return [layer.both[[0, 2], 0].tolist() for layer in self.layers]


@pytest.fixture(params=[GlooWeightTransferEngine, NcclWeightTransferEngine])
def engine(request):
    made = object.__new__(request.param)
    made.model, made.device = Model(), torch.device("cpu")
    made.model_config = SimpleNamespace(dtype=torch.float32)
    record_metadata_for_reloading(made.model)
    return made


def test_an_update_after_one_that_broke_off_loads_what_it_brings(engine):
    model = engine.model
    kept = [layer.both for layer in model.layers]
    engine.start_weight_update()
    model.load_all(1.0)
    engine.finish_weight_update()
    assert model.values() == [[1.0, 2.0], [11.0, 12.0], [21.0, 22.0]]
    # The first layer whole and half of the second; the third not begun.
    engine.start_weight_update()
    model.load([(0, 0, 3.0), (0, 1, 3.0), (1, 0, 3.0)])
    engine.start_weight_update()
    model.load_all(7.0)
    engine.finish_weight_update()
    assert model.values() == [[7.0, 8.0], [17.0, 18.0], [27.0, 28.0]]
    # Where CUDA graphs look for them.
    assert all(layer.both is before for layer, before in zip(model.layers, kept, strict=True))


def test_a_layer_that_an_update_broke_off_in_has_the_weights_before_it(engine):
    engine.start_weight_update()
    engine.model.load_all(1.0)
    engine.finish_weight_update()
    engine.start_weight_update()
    engine.model.load([(1, 0, 3.0)])
    engine.start_weight_update()
    engine.finish_weight_update()
    assert engine.model.values() == [[1.0, 2.0], [11.0, 12.0], [21.0, 22.0]]


def test_experts_are_packed_anew_after_every_load():
    model = torch.nn.ModuleList([torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)])
    model[0].quant_method = SimpleNamespace(moe_kernel="packs what it was built with")
    model[1].quant_method = SimpleNamespace()
    unpack_experts(model)
    # Without one, vLLM builds a kernel when it has loaded the layer, and packs its weights.
    assert model[0].quant_method.moe_kernel is None
    assert vars(model[1].quant_method) == {}
