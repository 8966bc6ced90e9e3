"""The keys of `summary.json`, and atomic JSON."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from launch.record.outcomes import EvaluationResult
from launch.record.summary import RunSummary, json_ready, write_json


def evaluation(rate: float, k: int = 8) -> EvaluationResult:
    return EvaluationResult(
        num_prompts=10,
        num_responses=80,
        pass_rate=rate,
        pass_rate_stderr=0.02,
        pass_rate_half_width=0.045,
        k=k,
        pass_at_k=rate + 0.2,
        pass_at_k_stderr=0.03,
        pass_at_k_half_width=0.068,
        length_mean=100.0,
        length_stderr=4.0,
        length_half_width=9.0,
        truncated_share=0.1,
        timed_out=0,
        crashed=0,
    )


def step(number: int) -> dict[str, float]:
    """A step's metrics; the counters under cost/ run since the start."""
    return {
        "cost/generated_tokens": 1000.0 * number,
        "cost/trained_tokens": 300.0 * number,
        "cost/selectable_tokens": 1200.0 * number,
        "cost/generated_response_tokens": 900.0 * number,
        "cost/trained_response_tokens": 200.0 * number,
        "cost/selectable_response_tokens": 900.0 * number,
        "cost/uniform_generated_tokens_estimated": 1500.5 * number,
        "cost/uniform_trained_tokens_estimated": 400.0 * number,
        "cost/draw_saving_estimated": 0.1 * number,
        "cost/thinning_saving_estimated": 0.25,
        "cost/engine_seconds": 3.0 * number,
        "cost/learner_seconds": 2.0 * number,
        "cost/total_variation": 0.1 * number,
        "cost/expected_length_ratio": 0.8,
        "learner/skipped_steps": float(number == 2),
        "learner/loss": math.nan,
        "loop/generate_seconds": 3.0,
        "loop/update_seconds": 2.0,
        "loop/publish_seconds": 0.5,
        "loop/wait_seconds": 1.0,
    }


def finish(summary: RunSummary) -> dict[str, object]:
    return summary.finish(
        total_seconds=60.0,
        parity_max_logprob_difference=1e-5,
        versions_published=4,
        loop_seconds=30.0,
    )


def test_summary_of_a_run():
    summary = RunSummary(k=8)
    summary.startup(20.0, {"engine_load": 12.0})
    summary.evaluation("before", evaluation(0.2), evaluation(0.3, k=1), seconds=5.0)
    for number in (1, 2, 3):
        summary.step(step(number))
    summary.evaluation("after", evaluation(0.5), evaluation(0.6, k=1), seconds=6.0)
    out = finish(summary)
    expected = {
        "pass_rate_before": 0.2,
        "pass_rate_after": 0.5,
        "pass_rate_before_stderr": 0.02,
        "pass_rate_after_stderr": 0.02,
        "pass_rate_after_half_width": 0.045,
        "pass_at_8_before_half_width": 0.068,
        "greedy_before_half_width": 0.045,
        "length_mean_after_half_width": 9.0,
        "pass_at_8_before": 0.4,
        "pass_at_8_after": 0.7,
        "greedy_before": 0.3,
        "greedy_after": 0.6,
        "length_mean_before": 100.0,
        "length_mean_after": 100.0,
        "num_steps": 3,
        "versions_published": 4,
        "skipped_steps": 1,
        "generated_tokens": 3000,
        "trained_tokens": 900,
        "selectable_tokens": 3600,
        "generated_response_tokens": 2700,
        "trained_response_tokens": 600,
        "selectable_response_tokens": 2700,
        "uniform_generated_tokens_estimated": 4501,
        "uniform_trained_tokens_estimated": 1200,
        "draw_saving_estimated": 0.2,
        "thinning_saving_estimated": 0.25,
        "engine_seconds": 9.0,
        "learner_seconds": 6.0,
        "saved_share": 0.75,
        "generate_tokens_per_second": 300.0,
        "parity_max_logprob_difference": 1e-5,
        "total_variation_from_uniform": 0.2,
        "expected_length_ratio": 0.8,
    }
    assert {key: out[key] for key in expected} == pytest.approx(expected)
    assert out["completed"] is True
    assert out["seconds"] == {
        "generate": 9.0,
        "update": 6.0,
        "publish": 1.5,
        "wait": 3.0,
        "loop": 30.0,
        "startup": 20.0,
        "evaluate": 11.0,
        "total": 60.0,
    }
    assert out["startup_seconds"] == {"engine_load": 12.0}
    assert out["spent_currency"] is None
    summary.step(step(4) | {"cost/spent_currency": 1.5})
    assert finish(summary)["spent_currency"] == 1.5


def test_evaluations_on_the_way_are_part_of_no_phase():
    summary = RunSummary(k=4)
    summary.step({"loop/wait_seconds": 3.0, "evaluation/pass_rate": 0.5})
    summary.evaluated_on_the_way(7.0)
    seconds = finish(summary)["seconds"]
    assert seconds["evaluate"] == 7 and seconds["wait"] == 3


def test_summary_of_a_run_that_ended_before_its_first_step_has_the_same_keys(tmp_path: Path):
    full = RunSummary(k=4)
    full.evaluation("before", evaluation(0.2, k=4), seconds=1.0)
    full.step(step(1))
    empty = finish(RunSummary(k=4))
    assert empty.keys() == finish(full).keys()
    assert empty["pass_at_4_before"] is None
    assert empty["generated_tokens"] == 0
    write_json(tmp_path / "summary.json", empty)


def test_json_is_strict_and_written_whole(tmp_path: Path):
    path = tmp_path / "summary.json"
    path.write_text("old")
    write_json(
        path,
        {
            "nan": math.nan,
            "nested": {"inf": [np.float64("inf"), np.int64(3)]},
            "array": np.array([1.0, math.nan]),
            "path": Path("runs"),
            "flag": np.bool_(True),
        },
    )

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    assert json.loads(path.read_text(), parse_constant=refuse) == {
        "nan": None,
        "nested": {"inf": [None, 3]},
        "array": [1.0, None],
        "path": "runs",
        "flag": True,
    }
    assert [entry.name for entry in tmp_path.iterdir()] == ["summary.json"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path):
    class Unprintable:
        def __str__(self) -> str:
            raise RuntimeError("no text")

    path = tmp_path / "summary.json"
    write_json(path, {"a": 1})
    with pytest.raises(RuntimeError, match="no text"):
        write_json(path, {"a": Unprintable()})
    assert json.loads(path.read_text()) == {"a": 1}


def test_json_ready_keeps_what_json_knows():
    assert json_ready({"a": (1, True, None, "x", 0.5)}) == {"a": [1, True, None, "x", 0.5]}
