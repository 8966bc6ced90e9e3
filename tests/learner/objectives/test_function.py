"""Objectives that are a function of one file."""

import pickle

import pytest
import torch

from learner.objectives.clipped_surrogate import ClippedSurrogate
from learner.objectives.function import FunctionObjective
from learner.objectives.types import LossInputs

FILE = """
import torch

def clipped(ratio, advantages, low=0.2, high=0.2):
    return -torch.min(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)

def short(ratio):
    return ratio[:1]

def flat(advantages):
    return advantages

def needs(ratio, other):
    return ratio
"""


@pytest.fixture
def objective(tmp_path):
    path = tmp_path / "objectives_of_mine.py"
    path.write_text(FILE)
    return lambda name, **settings: FunctionObjective(f"{path}:{name}", settings)


def inputs():
    return LossInputs(
        learner_logprobs=torch.tensor([0.0, -1.2, -0.3, 0.0, -2.1], requires_grad=True),
        rollout_logprobs=torch.tensor([0.0, -1.7, -0.3, 0.0, -2.5]),
        advantages=torch.tensor([0.7, 0.7, 0.7, -0.7, -0.7]),
        segment_ids=torch.tensor([0, 0, 0, 1, 1]),
        loss_mask=torch.tensor([False, True, True, False, True]),
    )


def test_a_function_of_tensors_has_the_losses_and_gradients_of_the_same_class(objective):
    ours = pickle.loads(pickle.dumps(objective("clipped", high=0.28)))
    theirs = ClippedSurrogate(clip_low=0.2, clip_high=0.28)
    outcomes = []
    for each in (ours, theirs):
        row = inputs()
        output = each.token_losses(row)
        output.token_losses.sum().backward()
        outcomes.append((output.token_losses, row.learner_logprobs.grad, output.metrics["ratio"]))
    for one, other in zip(*outcomes, strict=True):
        torch.testing.assert_close(one[inputs().loss_mask], other[inputs().loss_mask])
    assert outcomes[0][0][~inputs().loss_mask].abs().sum() == 0


def test_a_class_keeps_what_it_says_of_itself():
    named = FunctionObjective("learner.objectives.sapo:Sapo")
    assert named.token_losses(inputs()).token_losses.shape == (5,)
    assert named.needs_sequence_mean is False


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("flat", r"whose losses have no gradient: let it take ratio or learner_logprobs"),
        ("needs", r"cannot be called .*other"),
    ],
)
def test_a_function_that_cannot_be_learned_from_is_refused(objective, name, told):
    with pytest.raises(ValueError, match=rf"^objective\.path .*{told}"):
        objective(name)


def test_losses_of_another_shape_are_refused(objective):
    with pytest.raises(ValueError, match=r"a loss for each of 5 tokens, got Tensor \(1,\) from"):
        objective("short").token_losses(inputs())
