"""Range checks of the learner's settings."""

import re

import pytest

from learner.config import LearnerConfig
from learner.corrections import Band, OffPolicyMask, SequenceMask, Truncated
from learner.curvature_config import RejectedShares
from learner.lora import LoraConfig
from learner.optimizers import AdamW, Sgd
from learner.reference_config import ReferenceConfig


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lr", -1.0),
        ("lr", float("nan")),
        ("zero_stage", 4),
        ("row_tokens", 0),
        ("warmup_steps", -1),
        ("chunk_tokens", 0),
        ("optimizer", "adam"),
        ("behaviour", "old"),
        ("correction", "truncated"),
        ("entropy_coefficient", -0.1),
        ("entropy_coefficient", float("inf")),
        ("max_grad_norm", 0.0),
        ("update_deadline_seconds", 0.0),
    ],
)
def test_a_value_outside_its_range_is_refused_by_name(key, value):
    with pytest.raises(ValueError, match=rf"^learner\.{key} .*got ") as error:
        LearnerConfig(**{key: value})
    assert str(error.value).endswith(f"got {value!r}")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kl_coefficient": -1.0}, "kl_coefficient must be finite and not negative, got -1.0"),
        ({"kl_coefficient": float("nan")}, "kl_coefficient must be .*, got nan"),
        ({"kl_in": "both"}, "kl_in must be loss or reward, got 'both'"),
        ({"kl_estimator": "k1"}, "kl_estimator must be k2 or k3 with kl_in: loss .* got 'k1'"),
        ({"kl_estimator": "abs"}, "kl_estimator must be k2 or k3 .* got 'abs'"),
        ({"kl_in": "reward"}, "kl_estimator must be k1 with kl_in: reward, .* got 'k3'"),
    ],
)
def test_a_reference_that_makes_no_sense_is_refused(settings, message):
    with pytest.raises(ValueError, match=rf"^learner\.reference\.{message}$"):
        ReferenceConfig(**settings)


def test_the_coefficient_counts_in_one_place():
    loss = ReferenceConfig(kl_coefficient=0.1)
    assert (loss.kl_in_loss, loss.kl_in_reward) == (0.1, 0.0)
    reward = ReferenceConfig(kl_coefficient=0.1, kl_in="reward", kl_estimator="k1")
    assert (reward.kl_in_loss, reward.kl_in_reward) == (0.0, 0.1)


@pytest.mark.parametrize("weighs", [Truncated(), Band()])
def test_a_ratio_is_not_counted_twice(weighs):
    """While the objective's ratio reaches to the engine, only masks may correct."""
    with pytest.raises(ValueError, match=r"^learner\.correction .*learner\.behaviour=recomputed"):
        LearnerConfig(correction=weighs)
    LearnerConfig(correction=weighs, behaviour="recomputed")
    for mask in (Band(weigh=False), SequenceMask(), OffPolicyMask()):
        LearnerConfig(correction=mask)
        LearnerConfig(correction=mask, behaviour="recomputed")


@pytest.mark.parametrize(
    ("path", "ours"),
    [
        (["train_micro_batch_size_per_gpu"], "learner.row_tokens"),
        (["gradient_accumulation_steps"], "learner.num_minibatches"),
        (["gradient_clipping"], "learner.max_grad_norm"),
        (["zero_optimization", "stage"], "learner.zero_stage"),
        (["optimizer"], "learner.optimizer"),
        (["bf16"], "model.dtype"),
        (["fp16", "enabled"], "model.dtype"),
        (["fp16", "hysteresis"], "model.dtype"),
    ],
)
def test_deepspeed_settings_that_follow_from_ours_are_refused(path, ours):
    settings = 0
    for part in reversed(path):
        settings = {part: settings}
    theirs = re.escape(".".join(path))
    with pytest.raises(ValueError, match=rf"^learner\.deepspeed\.{theirs} .*{ours}; got 0$"):
        LearnerConfig(deepspeed=settings)


@pytest.mark.parametrize(("what", "stage"), [("offload_optimizer", 0), ("offload_param", 2)])
def test_offloading_needs_a_stage_that_shares_it_out(what, stage):
    settings = {"zero_optimization": {what: {"device": "cpu"}}}
    with pytest.raises(ValueError, match=rf"^learner\.deepspeed\..*{what} .*, got {stage}$"):
        LearnerConfig(deepspeed=settings, zero_stage=stage)
    assert LearnerConfig(deepspeed=settings, zero_stage=stage + 1).offloads(what)
    nowhere = {"zero_optimization": {what: {"device": "none"}}}
    assert not LearnerConfig(deepspeed=nowhere, zero_stage=stage).offloads(what)


@pytest.mark.parametrize("other", [{"zero_stage": 3}, {"gradient_checkpointing": True}])
def test_chunks_are_refused_where_they_do_not_work(other):
    [key] = other
    with pytest.raises(ValueError, match=rf"^learner\.{key} must .*learner\.chunk_tokens"):
        LearnerConfig(chunk_tokens=64, **other)


@pytest.mark.parametrize("key", ["low", "high", "shift"])
@pytest.mark.parametrize("value", [-0.1, 1.0, float("nan")])
def test_shares_of_rejected_tokens_outside_their_range_are_refused(key, value):
    with pytest.raises(ValueError, match=rf"^learner\.curvature\.{key} .* got {value!r}$"):
        RejectedShares(**{key: value})
    with pytest.raises(ValueError, match=r"^learner\.curvature\.low.* less than 1, got 1\.2$"):
        RejectedShares(low=0.6, shift=0.6)


@pytest.mark.parametrize(("key", "value"), [("optimizer", Sgd()), ("lora", LoraConfig(rank=4))])
def test_a_curvature_mask_is_refused_without_adam_s_step_of_the_head(key, value):
    with pytest.raises(ValueError, match=rf"^learner\.{key}.* must .*learner\.curvature.*got "):
        LearnerConfig(curvature=RejectedShares(shift=0.1), **{key: value})
    LearnerConfig(**{key: value})
    for optimizer in (None, AdamW()):
        LearnerConfig(curvature=RejectedShares(shift=0.1), optimizer=optimizer)
