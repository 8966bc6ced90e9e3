"""Optimisers: torch's own, with our settings."""

import pytest
import torch

from learner.config import LearnerConfig
from learner.optimizers import Adafactor, AdamW, Sgd

BUILT = [
    (
        AdamW(betas=[0.8, 0.95], eps=1e-3, weight_decay=0.1),
        lambda p: torch.optim.AdamW(p, lr=0.1, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1),
    ),
    (
        Sgd(momentum=0.5, weight_decay=0.1),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.5, weight_decay=0.1),
    ),
    (
        Adafactor(beta2_decay=-0.5, clip=2.0, weight_decay=0.1),
        lambda p: torch.optim.Adafactor(p, lr=0.1, beta2_decay=-0.5, d=2.0, weight_decay=0.1),
    ),
]


@pytest.mark.parametrize(("plug", "theirs"), BUILT)
def test_the_steps_are_torchs(plug, theirs):
    generator = torch.Generator().manual_seed(0)
    start, gradients = torch.randn(3, 5, generator=generator), torch.randn(4, 3, 5)
    results = []
    for build in (lambda p: plug.build(p, 0.1), theirs):
        weight = torch.nn.Parameter(start.clone())
        optimizer = build([weight])
        for gradient in gradients:
            weight.grad = gradient.clone()
            optimizer.step()
        results.append(weight.detach())
    # One kernel over all state rounds in another order.
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-7)
    assert not torch.equal(results[0], start)


@pytest.mark.parametrize(("size", "relative"), [(0.0, 1e-3), (0.02, 0.02), (5.0, 5.0)])
def test_adafactor_s_first_step_is_relative_to_the_weights_and_adamw_s_is_not(size, relative):
    generator = torch.Generator().manual_seed(0)
    start, gradient = (torch.randn(64, 64, generator=generator) for _ in range(2))
    for plug, expected in ((Adafactor(), relative), (AdamW(), 1.0)):
        weight = torch.nn.Parameter(size * start)
        optimizer = plug.build([weight], 1e-3)
        weight.grad = gradient.clone()
        optimizer.step()
        step = (weight.detach() - size * start).square().mean().sqrt().item() / 1e-3
        assert step == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("plug", [AdamW(weight_decay=0.1), Sgd(momentum=0.9), Adafactor()])
def test_elementwise_optimisers_step_alike_on_flat_slices(plug):
    """What ZeRO 1 to 3 rest on; where it fails they are refused."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(4, 6, generator=generator)
    # Rows and columns of very different size, which only factored moments average over.
    scales = torch.outer(10.0 ** torch.arange(4), 10.0 ** torch.arange(6).flip(0) / 1e3)
    gradients = torch.randn(3, 4, 6, generator=generator) * scales

    def steps(parts):
        weights = [torch.nn.Parameter(part(start).clone()) for part in parts]
        optimizer = plug.build(weights, 0.01)
        for gradient in gradients:
            for weight, part in zip(weights, parts, strict=True):
                weight.grad = part(gradient).clone()
            optimizer.step()
        return torch.cat([weight.detach().flatten() for weight in weights])

    whole = steps([lambda t: t])
    slices = steps([lambda t: t.flatten()[:13], lambda t: t.flatten()[13:]])
    assert torch.allclose(whole, slices, rtol=1e-5, atol=0) == plug.elementwise
    if not plug.elementwise:
        with pytest.raises(ValueError, match=r"^learner\.zero_stage must be 0 .*got 1$"):
            LearnerConfig(optimizer=plug, zero_stage=1)
    assert LearnerConfig(optimizer=plug, zero_stage=0).optimizer is plug


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        (AdamW, "betas", [0.9]), (AdamW, "betas", [0.9, 1.0]), (AdamW, "eps", 0.0),
        (AdamW, "weight_decay", -0.1), (Sgd, "momentum", 1.0), (Sgd, "weight_decay", -1.0),
        (Adafactor, "beta2_decay", 0.0), (Adafactor, "clip", 0.0),
        (Adafactor, "weight_decay", float("nan")),
    ],
)  # fmt: skip
def test_a_value_outside_its_range_is_refused_by_name(kind, key, value):
    with pytest.raises(ValueError, match=rf"^optimizer\.{key} .*got ") as error:
        kind(**{key: value})
    assert str(error.value).endswith(f"got {value!r}")
