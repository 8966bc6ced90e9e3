import pytest

from rollout.config import EngineConfig, RolloutConfig


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("top_p", 0.9),
        ("top_k", 20),
        ("repetition_penalty", 1.1),
    ],
)
def test_sampling_that_would_falsify_logprobs_is_refused(key, value):
    with pytest.raises(
        ValueError, match=rf"^rollout\.{key} must be .*log-probabilities.*got {value}"
    ):
        RolloutConfig(**{key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("max_tokens", 0),
        ("temperature", 0.0),
        ("temperature", float("nan")),
        ("update_mode", "sometimes"),
        ("reward_processes", 0),
        ("reward_concurrency", 0),
        ("reward_timeout_seconds", 0.0),
        ("reward_max_crashed_share", -0.1),
        ("reward_max_crashed_share", float("nan")),
        ("reward_max_timed_out_share", 1.5),
        ("ticket_deadline_seconds", -1.0),
        ("environment_timeout_seconds", 0.0),
        ("max_retries", -1),
        ("max_queued_responses", -1),
    ],
)
def test_a_value_outside_its_range_is_refused_by_name(key, value):
    with pytest.raises(ValueError, match=rf"^rollout\.{key} .*got "):
        RolloutConfig(**{key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("max_num_seqs", 0),
        ("kv_cache_gib", 0.0),
        ("gpu_memory_utilization", 1.5),
        ("num_threads", 0),
    ],
)
def test_an_engine_value_outside_its_range_is_refused_by_name(key, value):
    with pytest.raises(ValueError, match=rf"^rollout\.engine\.{key} .*got "):
        EngineConfig(**{key: value})


@pytest.mark.parametrize(
    ("settings", "most"),
    [
        ({}, 30),
        ({"reward_processes": 4}, 120),
        ({"reward_timeout_seconds": 100.0}, 16),
        ({"reward_max_timed_out_share": 1.0}, None),
    ],
)
def test_time_outs_in_a_row_end_scoring_within_half_a_tickets_deadline(settings, most):
    assert RolloutConfig(**settings).reward_max_late_in_a_row == most


def test_a_reward_that_may_crash_for_all_may_end_its_process_for_all():
    assert RolloutConfig(reward_max_crashed_share=1.0).reward_max_dead_in_a_row is None
    assert RolloutConfig().reward_max_dead_in_a_row > 8


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("model", "model.path"),
        ("tensor_parallel_size", "resources.tensor_parallel_size"),
        ("max_num_seqs", "rollout.engine.max_num_seqs"),
        ("trust_remote_code", "the rule that no model brings code or pickles"),
        ("logprobs_mode", "what the learner computes"),
    ],
)
def test_arguments_of_vllm_that_follow_from_settings_are_refused(name, what):
    with pytest.raises(
        ValueError, match=rf"^rollout\.engine\.vllm\.{name} must .* follows from {what}; got 1$"
    ):
        EngineConfig(vllm={name: 1})
    assert EngineConfig(vllm={"kv_cache_dtype": "fp8"}).vllm == {"kv_cache_dtype": "fp8"}
