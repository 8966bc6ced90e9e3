"""The driver with many simulated engines."""

from launch.program import build
from launch.study.bench.scaling import bench_scaling
from tests.composing import composed


def test_every_group_is_counted_and_the_limit_follows_from_what_the_driver_took():
    config = composed(
        "bench",
        "scaling.num_engines=3",
        "scaling.tickets_in_flight=16",
        "scaling.num_steps=2",
        "scaling.num_prompts=20",
    )
    found = bench_scaling(build(config))
    assert (found["num_engines"], found["tickets_in_flight"], found["groups"]) == (3, 16, 16)
    assert set(found["milliseconds"]) == {"driver", "scheduler", "engines"}
    assert all(value > 0 for value in found["milliseconds"].values())
    target = found["targets"]["driver_core_share"]
    assert target["met"] == (target["measured"] <= target["target"])
    driver = found["milliseconds"]["driver"]
    assert abs(target["measured"] - driver) < 1e-9 + 1e-6 * driver
    assert abs(found["most_groups_per_second"]["driver"] * driver - 1000) < 1e-6
    # Sixteen groups at once are no more than three engines take, so that it is their length.
    assert found["groups_per_second"] > 0
