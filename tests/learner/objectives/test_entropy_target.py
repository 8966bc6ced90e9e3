"""The switch, and that it holds the entropy of a bandit."""

import math

import pytest
import torch

from learner.objectives.cispo import Cispo
from learner.objectives.entropy_target import EntropyTarget

REWARDS = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0], dtype=torch.float64)


def test_the_temperature_switches_at_the_target():
    switch = EntropyTarget(target=0.5)
    assert [switch.temperature(h) for h in (0.0, 0.499, 0.5, 3.0)] == [1.2, 1.2, 0.8, 0.8]


def tempered_loss(logits, temperature, rewards):
    """E over pi^T of REINFORCE's token loss, every arm weighed by its probability."""
    logprobs = logits.log_softmax(0)
    drawn = (logits.detach() / temperature).softmax(0)
    losses = Cispo(max_ratio=1.0, min_ratio=1.0).token_losses(
        logprobs, drawn.log(), rewards, torch.arange(8), torch.ones(8, dtype=torch.bool)
    )
    return (drawn * losses.token_losses).sum()


def train(start, switch, alpha, num_steps=3000, lr=0.2):
    """Exact gradients on eight arms of which four are right; returns entropies and reward."""
    logits = start.clone().requires_grad_()
    entropies = []
    for _ in range(num_steps):
        logprobs = logits.log_softmax(0)
        pi = logprobs.exp().detach()
        entropies.append(-(pi * pi.log()).sum().item())
        loss = -(pi * (REWARDS - pi @ REWARDS) * logprobs).sum()
        if alpha:
            temperature = switch.temperature(entropies[-1])
            loss = loss + tempered_loss(logits, temperature, alpha * REWARDS)
        (gradient,) = torch.autograd.grad(loss, logits)
        logits = (logits - lr * gradient).detach().requires_grad_()
    return entropies, (logits.softmax(0) @ REWARDS).item()


@pytest.mark.parametrize("target", [0.3, 0.75, 1.1])
@pytest.mark.parametrize("peak", [0.0, 4.0])
def test_the_entropy_of_a_bandit_ends_at_the_target(target, peak):
    start = torch.zeros(8, dtype=torch.float64)
    start[0], start[1] = peak, 0.1
    entropies, reward = train(start, EntropyTarget(target=target), alpha=0.5)
    assert all(abs(h - target) < 0.05 for h in entropies[-50:])
    assert reward > 0.95
    uncontrolled, _ = train(start, EntropyTarget(target=target), alpha=0.0)
    assert abs(uncontrolled[-1] - target) > 0.1


@pytest.mark.parametrize(
    ("key", "value"), [("target", 0.0), ("hot", 1.0), ("cold", 1.0), ("target", math.nan)]
)
def test_settings_outside_their_range_are_refused(key, value):
    with pytest.raises(ValueError, match=rf"^entropy\.{key} .* got {value!r}$"):
        EntropyTarget(**{key: value})
