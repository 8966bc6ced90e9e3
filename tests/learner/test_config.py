"""Range checks of the learner's settings."""

import re

import pytest

from learner.config import LearnerConfig
from learner.corrections import Band, OffPolicyMask, SequenceMask, Truncated
from learner.curvature_config import RejectedShares
from learner.lora import LoraConfig
from learner.optimizers import AdamW, Sgd


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


@pytest.mark.parametrize("weighs", [Truncated(), Band()])
def test_a_ratio_is_not_counted_twice(weighs):
    """While the objective's ratio reaches to the engine, only masks may correct."""
    with pytest.raises(ValueError, match=r"^learner\.correction .*learner\.behaviour=recomputed"):
        LearnerConfig(correction=weighs)
    LearnerConfig(correction=weighs, behaviour="recomputed")
    for mask in (Band(weigh=False), SequenceMask(), OffPolicyMask()):
        LearnerConfig(correction=mask)
        LearnerConfig(correction=mask, behaviour="recomputed")


def test_old_probabilities_are_those_of_one_pass():
    """A second pass would score anew, and clip around where the first one ended."""
    LearnerConfig(num_epochs=2, num_minibatches=3)
    LearnerConfig(behaviour="recomputed", num_minibatches=3)
    with pytest.raises(ValueError, match=r"^learner\.num_epochs must be 1 .*recomputed.* got 2$"):
        LearnerConfig(behaviour="recomputed", num_epochs=2)


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


@pytest.mark.parametrize(("key", "value"), [("optimizer", Sgd()), ("lora", LoraConfig(rank=4))])
def test_a_curvature_mask_is_refused_without_adam_s_step_of_the_head(key, value):
    with pytest.raises(ValueError, match=rf"^learner\.{key}.* must .*learner\.curvature.*got "):
        LearnerConfig(curvature=RejectedShares(shift=0.1), **{key: value})
    LearnerConfig(**{key: value})
    for optimizer in (None, AdamW()):
        LearnerConfig(curvature=RejectedShares(shift=0.1), optimizer=optimizer)
