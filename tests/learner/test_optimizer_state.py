"""What torch's optimisers keep between steps, theirs and others'."""

import json
from dataclasses import asdict

import pytest
import torch

from learner.optimizer_state import changed_settings, made, settings_of, taken_apart
from learner.optimizers import Adafactor, AdamW, Sgd
from learner.state_description import Number

OWN = [AdamW(), Sgd(), Sgd(momentum=0.9), Adafactor()]
OTHERS = [torch.optim.Adagrad, torch.optim.NAdam, torch.optim.RMSprop, torch.optim.Rprop]


class Counting(torch.optim.SGD):
    """An optimiser that keeps a number among its settings, as schedule-free ones do."""

    def __init__(self, parameters, lr):
        super().__init__(parameters, lr=lr)
        self.param_groups[0]["k"] = 0

    def step(self):
        self.param_groups[0]["k"] += 1
        for parameter in self.param_groups[0]["params"]:
            parameter.data -= parameter.grad * self.param_groups[0]["lr"]
            parameter.data /= self.param_groups[0]["k"]


def gradients():
    return torch.randn(6, 4, 3, generator=torch.Generator().manual_seed(0))


def stepped(optimizer, parameter, of):
    for gradient in of:
        parameter.grad = gradient.clone()
        optimizer.step()


def built(optimizer):
    parameter = torch.nn.Parameter(torch.ones(4, 3))
    make = optimizer.build if hasattr(optimizer, "build") else optimizer
    return make([parameter], lr=0.1), parameter


@pytest.mark.parametrize("kind", [*OWN, *OTHERS, Counting], ids=str)
def test_an_optimiser_put_together_again_goes_on(kind):
    first, parameter = built(kind)
    settings = settings_of(first.param_groups[0])
    stepped(first, parameter, gradients()[:3])
    tensors, numbers = taken_apart(first.state.get(parameter, {}), parameter, whole=True)
    changed = changed_settings(first.param_groups[0], settings)
    assert changed == ({"k": 3} if kind is Counting else {})
    numbers = json.loads(json.dumps({key: asdict(number) for key, number in numbers.items()}))
    second, other = built(kind)
    other.data.copy_(parameter.data)
    second.param_groups[0].update(changed)
    second.state[other] = {key: tensor.clone() for key, tensor in tensors.items()} | {
        key: made(Number(**number), other.device, fused=False) for key, number in numbers.items()
    }
    stepped(first, parameter, gradients()[3:])
    stepped(second, other, gradients()[3:])
    assert torch.equal(parameter, other)


def test_what_cannot_be_saved_is_named():
    flat = torch.zeros(12)
    with pytest.raises(ValueError, match=r"^learner\.optimizer must .* got 'old' = a list$"):
        taken_apart({"old": [torch.zeros(12)]}, flat, whole=True)
    rows = {"row_var": torch.zeros(4, 1)}
    assert taken_apart(rows, torch.zeros(4, 3), whole=True) == (rows, {})
    found = r"got 'row_var' = a float32 tensor of shape \[4, 1\]$"
    with pytest.raises(ValueError, match=found):
        taken_apart(rows, flat, whole=False)
    with pytest.raises(ValueError, match=r"got 'z' = a complex64 tensor of shape \[12\]$"):
        taken_apart({"z": flat.to(torch.complex64)}, flat, whole=False)
    with pytest.raises(ValueError, match=r"settings .* got 'averaged' = a float32 tensor of"):
        changed_settings({"lr": 0.1, "averaged": flat}, {})
    with pytest.raises(ValueError, match=r"settings .* got 'mode' = a str$"):
        changed_settings({"mode": "eval"}, {"mode": "train"})


def test_one_kernel_gets_numbers_on_the_device_of_its_tensors():
    """Of a state that was saved on another one, where they lay beside the tensors or did not."""
    elsewhere, plain = torch.device("meta"), Number(3.0, "float32")
    assert made(plain, elsewhere, fused=False).device.type == "cpu"
    assert made(plain, elsewhere, fused=True).device == elsewhere
    assert made(Number(3), elsewhere, fused=True) == 3
