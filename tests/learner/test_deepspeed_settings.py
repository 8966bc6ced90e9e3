"""What DeepSpeed is told, and what CPUs cannot do."""

import pytest

from learner.config import LearnerConfig
from learner.deepspeed_settings import BUCKET_VALUES, check_device, deepspeed_settings

OFFLOAD = {"zero_optimization": {"offload_optimizer": {"device": "cpu", "pin_memory": True}}}


def test_further_settings_are_laid_over_ours():
    more = OFFLOAD | {"wall_clock_breakdown": True, "fp16": {"initial_scale_power": 12}}
    config = LearnerConfig(zero_stage=2, max_grad_norm=0.5, deepspeed=more)
    settings = deepspeed_settings(config, "float16")
    ours = {"stage": 2, "overlap_comm": False, "reduce_bucket_size": BUCKET_VALUES}
    assert settings["zero_optimization"] == ours | OFFLOAD["zero_optimization"]
    assert settings["wall_clock_breakdown"] is True
    assert settings["gradient_clipping"] == 0.5
    assert settings["fp16"] == {
        "enabled": True, "loss_scale": 0, "hysteresis": 1, "initial_scale_power": 12,
    }  # fmt: skip
    assert "bf16" not in settings
    assert config.deepspeed == more, "the configuration stays as it was"


@pytest.mark.parametrize(("dtype", "section"), [("float16", "fp16"), ("bfloat16", "bf16")])
def test_the_dtype_picks_its_section(dtype, section):
    settings = deepspeed_settings(LearnerConfig(zero_stage=1), dtype)
    assert settings[section]["enabled"] is True
    assert len({"fp16", "bf16"} & settings.keys()) == 1
    assert settings["data_types"] == {"grad_accum_dtype": "fp32"}
    ours = {"fp16", "bf16", "data_types"}
    assert not ours & deepspeed_settings(LearnerConfig(), "float32").keys()


def test_what_cpus_cannot_do_is_refused():
    plain, offloading = LearnerConfig(zero_stage=1), LearnerConfig(zero_stage=1, deepspeed=OFFLOAD)
    check_device(plain, "float16", on_gpu=True)
    check_device(offloading, "bfloat16", on_gpu=True)
    check_device(plain, "bfloat16", on_gpu=False)
    with pytest.raises(ValueError, match=r"^model\.dtype must .*CPUs.*got 'float16'$"):
        check_device(plain, "float16", on_gpu=False)
    with pytest.raises(ValueError, match=r"^learner\.deepspeed\..*offload_optimizer must .*CPUs"):
        check_device(offloading, "float32", on_gpu=False)
