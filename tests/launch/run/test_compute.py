"""FLOPs of a batch, from its reports and the model's shape."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from cost.prices.compute import generating, scoring
from cost.prices.shape import ModelShape
from launch.cli.refusals import UserError
from launch.run.compute import Flops, compute_of, generated, probed
from learner.compute import LearnerCompute
from learner.config import LearnerConfig
from tests.launch.run.test_budget import report

SHAPE = ModelShape(
    hidden_size=8, num_layers=3, num_heads=4, num_kv_heads=2, head_dim=5, intermediate_size=7,
    vocab_size=11,
)  # fmt: skip


def test_pilots_are_a_part_of_what_is_generated():
    reports = [report(4, 10), report(5, 3)]
    found = generated(LearnerCompute(SHAPE, LearnerConfig()), reports, frozenset({5}))
    each = [float(generating(SHAPE, [one])[0]) for one in reports]
    assert found.generate == sum(each) and found.pilot == each[1] > 0
    assert found.total == found.generate and found.again == found.generate - found.pilot


def test_parts_add_up():
    total = Flops(1.0, 2.0, 4.0, 8.0, 0.5) + Flops(generate=1.0)
    assert total == Flops(2.0, 2.0, 4.0, 8.0, 0.5) and total.total == 16.0


def test_all_that_score_a_check_are_counted():
    responses = [(np.arange(6), np.arange(3)), (np.arange(2), np.arange(4))]
    expected = 0.0
    for prompt, length in ((6, 3), (2, 4)):
        expected += 3 * scoring(SHAPE, prompt, np.array([length]))[0]
    assert probed(SHAPE, responses, 3) == pytest.approx(expected)


def test_a_run_that_ends_by_flops_needs_the_models_shape(tmp_path):
    def run(**loop):
        return SimpleNamespace(
            model=SimpleNamespace(path=str(tmp_path)),
            learner=LearnerConfig(),
            loop=SimpleNamespace(**{"max_compute_flops": None} | loop),
        )

    assert compute_of(run()) is None
    with pytest.raises(UserError, match=r"^loop\.max_compute_flops must be null .*shape"):
        compute_of(run(max_compute_flops=1e12))
    settings = {
        "hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 4, "head_dim": 5,
        "num_key_value_heads": 2, "intermediate_size": 7, "vocab_size": 11,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(settings))
    assert compute_of(run(max_compute_flops=1e12)).shape == SHAPE
