import re

import pytest

from conf.checkpoint import CheckpointConfig
from conf.evaluation import EvaluationConfig
from conf.loop import LoopConfig
from conf.resources import ResourcesConfig
from conf.schema import ModelConfig, ParityConfig, RunConfig
from launch.cli.refusals import UserError
from launch.program import build
from tests.composing import composed


def run_config(*overrides: str) -> RunConfig:
    config: RunConfig = build(composed("train", "experiment=quickstart", *overrides))
    return config


@pytest.mark.parametrize(
    ("kind", "room", "key", "value"),
    [
        (ModelConfig, "model", "dtype", "float64"),
        (ModelConfig, "model", "max_model_len", 1),
        (LoopConfig, "loop", "num_steps", 0),
        (LoopConfig, "loop", "max_staleness", -1),
        (LoopConfig, "loop", "max_generated_tokens", 0),
        (LoopConfig, "loop", "max_generated_tokens", -5),
        (LoopConfig, "loop", "max_trained_tokens", 0),
        (LoopConfig, "loop", "max_seconds", 0.0),
        (EvaluationConfig, "evaluation", "every", -1),
        (EvaluationConfig, "evaluation", "target", 0.5),
        (LoopConfig, "loop", "save_every", -1),
        (LoopConfig, "loop", "batch_deadline_seconds", 0.0),
        (LoopConfig, "loop", "publish_deadline_seconds", float("nan")),
        (ParityConfig, "parity", "every", -1),
        (ParityConfig, "parity", "num_sequences", 0),
        (ParityConfig, "parity", "num_tokens", 0),
        (ParityConfig, "parity", "max_difference", 0.0),
        (ParityConfig, "parity", "slack", 0.5),
        (CheckpointConfig, "checkpoint", "every_steps", -1),
        (CheckpointConfig, "checkpoint", "every_seconds", 0.0),
        (CheckpointConfig, "checkpoint", "keep_last", 0),
        (CheckpointConfig, "checkpoint", "grace_seconds", 0.0),
        (CheckpointConfig, "checkpoint", "max_recoveries", -1),
        (CheckpointConfig, "checkpoint", "deadline_seconds", float("inf")),
        (EvaluationConfig, "evaluation", "num_samples", 0),
        (EvaluationConfig, "evaluation", "temperature", 0.0),
        (ResourcesConfig, "resources", "num_engines", 0),
        (ResourcesConfig, "resources", "max_engines", 0),
        (ResourcesConfig, "resources", "tensor_parallel_size", 0),
        (ResourcesConfig, "resources", "num_learners", 0),
        (ResourcesConfig, "resources", "engine_cpus", 0.0),
        (ResourcesConfig, "resources", "learner_cpus", -1.0),
        (ResourcesConfig, "resources", "placement_deadline_seconds", 0.0),
    ],
)
def test_a_range_check_names_key_and_value(kind, room, key, value):
    required = {"path": "model"} if kind is ModelConfig else {}
    with pytest.raises(ValueError, match=rf"^{room}\.{key} .*, got {re.escape(repr(value))}$"):
        kind(**required, **{key: value})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"num_engines": 3, "max_engines": 2},
            r"^resources\.max_engines .*num_engines = 3 .*got 2$",
        ),
        (
            {"max_engines": 2, "share_gpus": True},
            r"^resources\.max_engines must be null with resources\.share_gpus=true, .*got 2$",
        ),
        (
            {"max_engines": 2, "engines_sleep": True},
            r"^resources\.max_engines must be null with resources\.engines_sleep=true, .*got 2$",
        ),
    ],
)
def test_engines_that_cannot_join_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ResourcesConfig(**settings)
    assert ResourcesConfig(num_engines=2, max_engines=2).max_engines == 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["rollout.max_tokens=512"], r"^rollout\.max_tokens .*model\.max_model_len = 512, got 512"),
        (["model.stop_strings=['####','']"], r"^model\.stop_strings must not be empty texts, got"),
        (["learner.row_tokens=511"], r"^learner\.row_tokens .*model\.max_model_len = 512.*got 511"),
        (
            ["learner.num_minibatches=17"],
            r"^learner\.num_minibatches .*scheduler\.tickets_per_step = 16.*got 17",
        ),
        (
            ["model.dtype=float16", "learner.zero_stage=2", "resources.use_gpu=false"],
            r"^model\.dtype .*resources\.use_gpu.*got 'float16'",
        ),
        (["model.dtype=bfloat16"], r"^learner\.zero_stage .*model\.dtype is bfloat16.*got 0"),
        (
            ["resources.engines_sleep=true", "loop.max_staleness=1"],
            r"^loop\.max_staleness must be 0 with resources\.engines_sleep=true, .*got 1$",
        ),
        (
            [
                "resources.engines_sleep=true",
                "loop.max_staleness=0",
                "evaluation.background=true",
                "evaluation.every=1",
            ],
            r"^evaluation\.background must be false with resources\.engines_sleep=true, .*True$",
        ),
        (
            [
                "+evaluation_set@evaluation.sets.code=dataset",
                "evaluation.sets.code.task.path=rollout/tasks/examples.jsonl",
                "+reward@evaluation.sets.code.reward=code",
                "evaluation.sets.code.reward.seconds=20",
            ],
            r"^evaluation\.sets\.code\.reward\.seconds must be less than .* = 10, .*got 20$",
        ),
    ],
)
def test_settings_of_several_rooms_must_agree(overrides, message):
    with pytest.raises(UserError, match=message):
        run_config(*overrides)


KL, ENTROPY = "learner.reference.kl_coefficient=0.01", "learner.entropy_coefficient=0.01"
KEEP_ALL = "thinning@scheduler.thinning=keep_all"


@pytest.mark.parametrize("thinning", ["cost_aware", "pods", "d3s", "non_zero"])
@pytest.mark.parametrize(
    ("terms", "keys"),
    [([KL], KL), ([ENTROPY], ENTROPY), ([KL, ENTROPY], f"{KL} and {ENTROPY}")],
)
def test_terms_for_all_responses_need_a_thinning_that_keeps_all(thinning, terms, keys):
    named = re.escape(keys.replace("=0.01", ""))
    with pytest.raises(UserError, match=rf"^scheduler\.thinning must .*{named}, .*: set thinning@"):
        run_config(f"thinning@scheduler.thinning={thinning}", *terms)


@pytest.mark.parametrize(
    "overrides",
    [["learner.behaviour=recomputed"], [ENTROPY, "thinning@scheduler.thinning=keep_all"]],
)
def test_reuse_needs_a_ratio_to_the_samples_and_a_loss_of_advantages_alone(overrides):
    run_config("reuse@scheduler.reuse=earlier")
    with pytest.raises(UserError, match=r"scheduler\.reuse must be null with"):
        run_config("reuse@scheduler.reuse=earlier", *overrides)


def test_terms_for_all_responses_go_with_thinnings_that_keep_all():
    run_config(KEEP_ALL, KL, ENTROPY)
    run_config("scheduler.thinning.keep_zero_advantage=true", KL, ENTROPY)
    reward = ["learner.reference.kl_in=reward", "learner.reference.kl_estimator=k1"]
    assert run_config(KL, *reward).learner.reference.kl_in_reward == 0.01


def test_a_correction_is_chosen_like_any_plug():
    config = run_config("correction@learner.correction=truncated", "learner.behaviour=recomputed")
    assert config.learner.correction.cap == 2.0
    with pytest.raises(UserError, match=r"^learner\.correction must be a mask .*recomputed"):
        run_config("correction@learner.correction=truncated")


def test_settings_at_the_edge_of_agreement_are_accepted():
    config = run_config(
        "rollout.max_tokens=511", "learner.row_tokens=512", "learner.num_minibatches=16"
    )
    assert config.max_prompt_tokens == 1


def test_derived_quantities():
    config = run_config()
    assert config.max_prompt_tokens == 512 - 256
    assert config.responses_per_step == 16 * 8
    assert config.num_rows_at_most == 16 * 8 * 512 / 1024
    assert run_config("resources.num_learners=2").num_rows_at_most == 16 * 8 * 512 / 1024 / 2


AEPO = "entropy_control@scheduler.entropy_control=aepo"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("target=0", "target must be positive, got 0"),
        ("lower_temperature=1.1", r"lower_temperature must lie in \(0, 1\), .* got 1\.1"),
        ("higher_temperature=0.9", "higher_temperature must be finite and above 1, .* got 0.9"),
    ],
)
def test_temperatures_that_cannot_steer_are_refused_where_composed(override, message):
    with pytest.raises(UserError, match=rf"^scheduler\.entropy_control\.{message}"):
        run_config(AEPO, f"scheduler.entropy_control.{override}")


def test_entropy_control_and_a_thinning_of_tokens_are_refused_where_composed():
    with pytest.raises(UserError, match=r"^scheduler\.entropy_control must be null with a thinn"):
        run_config(AEPO, "thinning@scheduler.thinning=d3s")


def test_there_is_no_entropy_control_unless_chosen():
    assert run_config().scheduler.entropy_control is None
    config = run_config("recipe=aepo", "scheduler.entropy_control=null")
    assert config.scheduler.entropy_control is None
