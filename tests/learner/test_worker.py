"""What a worker makes of its settings; the engine is a stand-in without a policy."""

from types import SimpleNamespace

import pytest

from learner import worker
from learner.config import LearnerConfig
from learner.curvature_config import RejectedShares
from learner.numerics import Numerics
from learner.objectives import ClippedSurrogate
from learner.token_masks import WithinCurvature
from learner.worker import LearnerWorker


@pytest.mark.parametrize(
    ("shares", "kinds"),
    [(RejectedShares(), []), (RejectedShares(shift=0.1), [WithinCurvature])],
)
def test_tokens_are_masked_only_where_some_may_be_left_out(monkeypatch, shares, kinds):
    monkeypatch.setattr(worker, "DeepSpeedEngine", lambda *_: SimpleNamespace())
    config = LearnerConfig(curvature=shares)
    loaded = LearnerWorker(0, 1, config, "", ClippedSurrogate(), Numerics("float32", 1.0))
    loaded._load()
    assert [type(hook) for hook in loaded._hooks] == kinds
