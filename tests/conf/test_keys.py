"""What a key means is read off the schemas."""

import pytest

from conf.keys import describe, keys_of, nearest
from conf.schema import RunConfig
from conf.studies import BenchConfig


def test_a_key_is_described_with_type_default_range_and_meaning():
    text = describe(RunConfig, "learner.lr")
    assert text.startswith("learner.lr: float = 1e-06, above 0, at most 100\n  Learning rate after")
    assert describe(RunConfig, "max_model_len").startswith("model.max_model_len: int = 2048, at le")
    assert "nats" in describe(RunConfig, "parity.max_difference")
    assert describe(RunConfig, "loop.max_trained_tokens").startswith(
        "loop.max_trained_tokens: int | None = null, at least 1, at most 1e+15"
    )
    assert describe(RunConfig, "reward").startswith("reward: plug\n")
    # What a schema takes from another means the same there.
    assert describe(BenchConfig, "learner.lr") == text
    assert describe(BenchConfig, "seed") == describe(RunConfig, "seed") != "seed: int = 0"


def test_a_section_describes_all_of_its_keys():
    text = describe(RunConfig, "loop")
    assert text.startswith("loop:\n  How long the run is")
    keys = [key for key in keys_of(RunConfig) if key.startswith("loop.")]
    assert len(keys) > 5 and all(f"\n\n{key}: " in text for key in keys)


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("loop.num_step", "loop.num_steps"),
        ("loopp.num_steps", "loop.num_steps"),
        ("lr", "learner.lr"),
        ("num_steps", "loop.num_steps"),
        ("leaner.lrr", "learner.lr"),
        ("zzzzzz", ""),
    ],
)
def test_what_was_meant_is_found(word, meant):
    assert nearest(word, keys_of(RunConfig)) == meant
    assert describe(RunConfig, "zzzzzz") == ""
