"""What becomes of a step that float16's loss scale was too large for.

The engine's shell is replaced; the scale is DeepSpeed's own. Training in float16 needs a GPU.
"""

import math
from types import SimpleNamespace

import pytest
import torch

from learner.batch import collate
from learner.config import LearnerConfig
from learner.deepspeed_engine import DeepSpeedEngine
from learner.deepspeed_state import DeepSpeedState
from learner.engine import StepOutcome
from learner.loss import Loss
from learner.numerics import Numerics
from learner.objectives.clipped_surrogate import ClippedSurrogate
from learner.state_files import write_share
from learner.update import Updater


class ScalingEngine:
    """What `DeepSpeedEngine.step` sees of DeepSpeed: overflows where the scaled norm is too big."""

    def __init__(self, norm: float, power: int) -> None:
        from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler

        self._norm, self._applied = norm, False
        self.optimizer = SimpleNamespace(param_groups=[{}], loss_scale=2.0**power)
        self.scaler = DynamicLossScaler(2.0**power, 1000, 1.0, 1, False)
        self.scaler.raise_error_at_min_scale = False

    def step(self) -> None:
        scaled = self._norm * self.scaler.cur_scale
        self._applied = scaled < 65504
        self.scaler.update_scale(not self._applied)
        self.optimizer.loss_scale = self.scaler.cur_scale

    def was_step_applied(self) -> bool:
        return self._applied

    def get_global_grad_norm(self) -> float:
        return self._norm


@pytest.fixture()
def engine_of(monkeypatch):
    """Build the shell around another engine: engine_of(norm, power)."""
    from deepspeed import comm

    monkeypatch.setattr(comm, "get_rank", lambda *_: 0)

    def build(norm: float, power: int) -> DeepSpeedEngine:
        engine = object.__new__(DeepSpeedEngine)
        engine._engine, engine._applied_steps = ScalingEngine(norm, power), 0
        engine.progress = 0.0
        engine.config = LearnerConfig(zero_stage=2, lr=1.0, warmup_steps=4)
        return engine

    return build


def test_a_step_is_tried_again_while_only_the_scale_was_too_large(engine_of):
    engine = engine_of(1.0, 18)
    outcomes = [engine.step() for _ in range(4)]
    # 2^18, 2^17 and 2^16 overflow in float16, 2^15 does not.
    assert [outcome.retry for outcome in outcomes] == [True, True, True, False]
    assert [outcome.applied for outcome in outcomes] == [False, False, False, True]
    assert all(math.isnan(outcome.grad_norm) for outcome in outcomes[:3])
    assert outcomes[3].grad_norm == 1.0
    assert {outcome.lr for outcome in outcomes} == {0.25}, "warm-up counts applied steps"
    assert engine.step().lr == 0.5


def test_a_gradient_that_no_scale_saves_is_a_skipped_step(engine_of):
    engine = engine_of(math.inf, 2)
    outcomes = [engine.step() for _ in range(4)]
    assert [outcome.retry for outcome in outcomes] == [True, True, False, False]
    assert not any(outcome.applied for outcome in outcomes)


class Overflowing:
    """A learner.engine.Engine whose first steps only lower the scale."""

    def __init__(self, engine, retries: int) -> None:
        self.plain, self.retries, self.steps = engine, retries, 0

    def __getattr__(self, name):
        return getattr(self.plain, name)

    def step(self) -> StepOutcome:
        self.steps += 1
        if self.steps <= self.retries:
            self.plain.optimizer.zero_grad()
            return StepOutcome(applied=False, grad_norm=math.nan, lr=0.0, retry=True)
        return self.plain.step()


def test_a_step_tried_again_is_the_step(plain_engine, pack, batch):
    [rows] = pack(*batch)
    expected, ours = plain_engine(), Overflowing(plain_engine(), 3)
    first = Updater(expected, Loss(ClippedSurrogate())).step(rows)
    again = Updater(ours, Loss(ClippedSurrogate())).step(rows)
    assert ours.steps == 4
    assert again == first
    for mine, theirs in zip(
        ours.plain.model.parameters(), expected.model.parameters(), strict=True
    ):
        assert torch.equal(mine, theirs)


def test_a_loss_that_is_not_finite_is_not_tried_again(plain_engine):
    engine = Overflowing(plain_engine(), 3)
    row = collate([])
    row.loss_weights.fill_(math.nan)
    outcome = Updater(engine, Loss(ClippedSurrogate())).step([row]).outcome
    assert engine.steps == 1
    assert not outcome.applied and not outcome.retry


def scaled(power: int) -> tuple[DeepSpeedState, object]:
    """The state of an engine with a loss scale, and the scale's keeper."""
    scaler = ScalingEngine(1.0, power).scaler
    scaler.delayed_shift = scaler.cur_hysteresis = 2
    model = torch.nn.Linear(2, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    optimizer.loss_scaler = scaler
    shell = SimpleNamespace(optimizer=optimizer, zero_optimization_stage=lambda: 0)
    engine = SimpleNamespace(
        config=LearnerConfig(),
        numerics=Numerics("float16", 1.0),
        frozen=0,
        model=model,
        rank=0,
        num_ranks=1,
        num_applied_steps=power,
    )
    return DeepSpeedState(engine, shell), scaler


def test_a_saved_scale_grows_and_falls_as_the_one_that_went_on(monkeypatch, tmp_path):
    from deepspeed import comm

    monkeypatch.setattr(comm, "get_rank", lambda *_: 0)
    state, scaler = scaled(10)
    other, copy = scaled(3)
    # The scale grows after so many good steps.
    scaler.scale_window = copy.scale_window = 3
    for overflow in (True, True, True, False, False):
        scaler.update_scale(overflow)
    write_share(tmp_path, 0, *state.copy())
    assert other.obstacle(tmp_path) is None
    assert other.load(tmp_path).loss_scale == state.describe().loss_scale
    scales = []
    for overflow in (False, False, True, False, False, False, False, True, True):
        for one in (scaler, copy):
            one.update_scale(overflow)
        assert copy.cur_scale == scaler.cur_scale
        scales.append(copy.cur_scale)
    assert len(set(scales)) > 2
    assert other.describe() == state.describe()
