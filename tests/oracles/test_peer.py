"""What the bench `peer` gives to TRL's GRPOConfig is what that holds afterwards."""

from launch.program import build
from launch.study.bench.peer_settings import PLAIN, settings
from tests.composing import composed


def test_trl_takes_every_setting_and_leaves_it_as_it_is(ask) -> None:
    config = build(composed("train", "experiment=quickstart", *PLAIN))
    given = settings(config)
    (held,) = ask("trl", [{"kind": "config", "settings": given}])
    assert {key: held[key] for key in given if key != "report_to"} == {
        key: value for key, value in given.items() if key != "report_to"
    }
    assert held["report_to"] == []
    # A step generates all of its responses at once and trains on them once.
    assert held["generation_batch_size"] == config.responses_per_step
    assert held["steps_per_generation"] == 1
