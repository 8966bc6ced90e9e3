"""Laws of every correction in conf/, and each member's factors by hand."""

import math
import pickle

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from learner.corrections import Band, NoCorrection, OffPolicyMask, SequenceMask, Truncated
from learner.objectives.types import LossInputs
from tests.places import CONF

CONF = CONF / "correction"
MEMBERS = [
    pytest.param(instantiate(OmegaConf.load(path)), id=path.stem)
    for path in sorted(CONF.glob("*.yaml"))
]
MASK = torch.tensor([False, True, True, False, True, False, True, True, True])
SEGMENTS = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2])
ADVANTAGES = torch.tensor([1.0, -1.0, -2.0])[SEGMENTS]


def logprobs(*ratios):
    """Trainer and rollout log-probabilities whose ratios at the loss tokens are these."""
    rollout = torch.where(MASK, -1.5, 0.0)
    trainer = rollout.clone()
    trainer[MASK] += torch.tensor(ratios).log()
    return trainer, rollout


def factors(plug, trainer, rollout, advantages=ADVANTAGES):
    return plug.factors(LossInputs(trainer, rollout, advantages, SEGMENTS, MASK))


STRICTEST = [Truncated(1.0), Band(1.0, 1.0), SequenceMask(1.0, 1.0), OffPolicyMask(0.0)]


@pytest.mark.parametrize("plug", [*MEMBERS, *STRICTEST])
def test_where_trainer_and_engine_agree_factors_are_exactly_one(plug):
    rollout = torch.where(MASK, torch.rand(9, generator=torch.Generator().manual_seed(0)).log(), 0)
    found = factors(plug, rollout.clone(), rollout)
    assert found.dtype == torch.float32 and found.shape == (9,)
    assert (found == 1).all()


@pytest.mark.parametrize("plug", MEMBERS)
@pytest.mark.parametrize("difference", [1e4, -1e4, 50.0, -50.0])
def test_extreme_differences_give_finite_factors(plug, difference):
    rollout = torch.where(MASK, -1.0, 0.0)
    trainer = torch.where(MASK, -1.0 + difference * (torch.arange(9) % 2), 0.0)
    found = factors(plug, trainer, rollout)
    assert found.isfinite().all() and (found >= 0).all()


@pytest.mark.parametrize("plug", MEMBERS)
def test_factors_carry_no_gradient(plug):
    trainer, rollout = logprobs(0.1, 1.0, 1.1, 3.0, 0.9, 1.2)
    trainer.requires_grad_()
    assert not factors(plug, trainer, rollout).requires_grad


@pytest.mark.parametrize("plug", MEMBERS)
def test_a_mask_says_zero_or_one_and_what_weighs_says_more(plug):
    found = factors(plug, *logprobs(0.1, 1.0, 1.1, 3.0, 0.9, 1.2))[MASK]
    assert plug.weighs == (not set(found.tolist()) <= {0.0, 1.0})
    assert pickle.loads(pickle.dumps(plug)) == plug


@pytest.mark.parametrize("plug", MEMBERS)
def test_a_response_s_factors_do_not_depend_on_its_neighbours(plug):
    trainer, rollout = logprobs(0.1, 1.0, 1.1, 3.0, 0.9, 1.2)
    whole = factors(plug, trainer, rollout)
    for segment in range(3):
        here = segment == SEGMENTS
        alone = plug.factors(
            LossInputs(
                trainer[here], rollout[here], ADVANTAGES[here], SEGMENTS[here] * 0, MASK[here]
            )
        )
        assert torch.equal(alone[MASK[here]], whole[here & MASK])


@pytest.mark.parametrize("plug", MEMBERS)
@pytest.mark.parametrize("segments", [[-1, -1], [0, 1, 2, 3], [0, 0, -1, -1]])
def test_padding_and_responses_of_one_token_have_factors(plug, segments):
    """Padding stands behind the first token, in a response of its own."""
    size = len(segments)
    mask = torch.tensor([segment >= 0 for segment in segments])
    trainer = torch.where(mask, -1.0, -50.0)
    found = plug.factors(
        LossInputs(trainer, torch.full((size,), -1.0), -torch.ones(size), torch.tensor(segments),
                   torch.ones(size, dtype=torch.bool))
    )  # fmt: skip
    assert found.isfinite().all() and (found[mask] == 1).all()


def test_without_a_cap_a_token_s_mean_is_that_of_the_trainer_s_policy():
    """Over every token that a small softmax can sample; a cap leaves a bias."""
    generator = torch.Generator().manual_seed(1)
    trainer, rollout = torch.randn(2, 6, generator=generator).mul(1.5).log_softmax(dim=1)
    worth = torch.randn(6, generator=generator)
    inputs = LossInputs(
        learner_logprobs=trainer,
        rollout_logprobs=rollout,
        advantages=torch.ones(6),
        segment_ids=torch.zeros(6, dtype=torch.int64),
        loss_mask=torch.ones(6, dtype=torch.bool),
    )

    def mean(plug):
        return (rollout.exp() * plug.factors(inputs) * worth).sum().item()

    expected = (trainer.exp() * worth).sum().item()
    assert mean(Truncated(cap=math.inf)) == pytest.approx(expected, abs=1e-6)
    for plug in (Truncated(cap=1.5), Band(), NoCorrection()):
        assert abs(mean(plug) - expected) > 5e-3, plug


def test_factors_by_hand():
    pair = logprobs(0.4, 1.0, 2.5, 0.5, 2.0, 0.25)

    def found(plug):
        return pytest.approx(factors(plug, *pair)[MASK].tolist(), abs=1e-6)

    assert found(Truncated(cap=2.0)) == [0.4, 1.0, 2.0, 0.5, 2.0, 0.25]
    assert found(Band(low=0.49, high=2.01)) == [0.0, 1.0, 0.0, 0.5, 2.0, 0.0]
    assert found(Band(low=0.49, high=2.01, weigh=False)) == [0.0, 1.0, 0.0, 1.0, 1.0, 0.0]
    # Geometric means: sqrt(.4) = .632, 2.5, cbrt(.25) = .630.
    assert found(SequenceMask(low=0.631, high=2.0)) == [1, 1, 0, 0, 0, 0]
    # Mean log(rollout / trainer): .458 at A = 1, -.916 at A = -1, .462 at A = -2.
    assert found(OffPolicyMask(delta=0.46)) == [1, 1, 1, 0, 0, 0]
    assert found(OffPolicyMask(delta=0.0)) == [1, 1, 1, 0, 0, 0]
    for advantages, kept in ((-ADVANTAGES, 1), (0 * ADVANTAGES, 1), (-ADVANTAGES.abs(), 0)):
        only_last = factors(OffPolicyMask(delta=0.0), *pair, advantages)[MASK][3:]
        assert only_last.tolist() == [kept] * 3
    assert found(OffPolicyMask(delta=0.47)) == [1, 1, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("build", "key"),
    [
        (lambda: Truncated(cap=0.9), "cap"),
        (lambda: Truncated(cap=math.nan), "cap"),
        (lambda: Band(low=1.1), "low"),
        (lambda: Band(high=0.9), "high"),
        (lambda: SequenceMask(low=-0.1), "low"),
        (lambda: OffPolicyMask(delta=-1.0), "delta"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(build, key):
    with pytest.raises(ValueError, match=rf"^learner\.correction\.{key} must .*, got "):
        build()
