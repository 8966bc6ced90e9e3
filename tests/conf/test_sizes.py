"""Recipes in peers' sizes: each composes, and fits the GPUs that it is made for."""

from dataclasses import replace

import pytest

from launch.program import build
from launch.run.layout import learner_share
from launch.run.memory import GIB, Shape
from launch.run.memory_plan import Device, needs, responses_at_once, shortage
from tests.composing import composed
from tests.places import CONF, PROJECT

SHAPES = {
    "Qwen/Qwen2.5-0.5B-Instruct": Shape(896, 24, 14, 2, 64, 4864, 151936, tied=True),
    "Qwen/Qwen2.5-1.5B-Instruct": Shape(1536, 28, 12, 2, 128, 8960, 151936, tied=True),
    "Qwen/Qwen2.5-3B": Shape(2048, 36, 16, 2, 128, 11008, 151936, tied=True),
    "Qwen/Qwen2.5-Math-7B": Shape(3584, 28, 28, 4, 128, 18944, 152064),
    "Qwen/Qwen3-8B": Shape(4096, 36, 32, 8, 128, 12288, 151936),
    "Qwen/Qwen2.5-32B": Shape(5120, 64, 40, 8, 128, 27648, 152064),
}
"""As their config.json files say."""
RECIPES = sorted(path.stem for path in (CONF / "experiment").glob("*gpu.yaml"))


def built(name, *overrides):
    return build(composed("train", f"experiment={name}", *overrides))


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_fits_the_gpus_that_its_name_says(name):
    config = built(name)
    resources, shape = config.resources, SHAPES[config.model.path]
    num_gpus = int(name.rpartition("_")[2].removesuffix("gpu"))
    parts = resources.num_engines * resources.tensor_parallel_size + resources.num_learners
    device = Device((24 if "0_5b_1gpu" in name else 80) * 0.93 * GIB, on_gpu=True)
    learner, engine = needs(config, shape, device, on_gpu=True)
    assert shortage(config, shape, device) is None
    # Room for what is not planned: fragments, buffers of collectives.
    assert learner.total < 0.9 * device.bytes
    if num_gpus == 1:
        assert parts == 2
        # What an engine takes that shares its GPU, and what is planned.
        assert resources.engine_memory_share == config.rollout.engine.gpu_memory_utilization
        assert learner.total < learner_share(resources) * device.bytes
        assert learner.total + engine.total < 0.95 * device.bytes
    else:
        assert parts == num_gpus
    assert responses_at_once(config, shape, engine) >= 16
    page = (PROJECT / "docs" / "sizes.md").read_text(encoding="utf-8")
    room = responses_at_once(config, shape, engine)
    said = f"| {learner.total / GIB:.1f} | {engine.total / GIB:.1f} | {room:,} |"
    assert said in next(line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
    assert config.scheduler.tickets_per_step % resources.num_learners < resources.num_learners
    assert type(config.task) is type(config.held_out)


def test_a_recipe_for_another_model_is_refused_where_it_does_not_fit():
    config = built("gsm8k_qwen_0_5b_8gpu")
    device = Device(80 * GIB, on_gpu=True)
    assert "a learner needs" in str(shortage(config, SHAPES["Qwen/Qwen2.5-32B"], device))


def test_parameters_are_counted_as_the_models_are_called():
    sizes = {name: shape.num_parameters / 1e9 for name, shape in SHAPES.items()}
    expected = [0.494, 1.544, 3.086, 7.616, 8.191, 32.764]
    assert list(sizes.values()) == pytest.approx(expected, rel=2e-3)
    moe = replace(SHAPES["Qwen/Qwen3-8B"], mlp_parameters=3 * 4096 * 1536 * 128)
    assert moe.num_parameters > 20 * SHAPES["Qwen/Qwen3-8B"].num_parameters / 10
