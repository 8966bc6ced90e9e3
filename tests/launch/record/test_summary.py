"""The keys of `summary.json`, and atomic JSON."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from launch.record.json_file import json_ready, write_json
from launch.record.outcomes import EvaluationResult
from launch.record.summary import RunSummary


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


def test_the_sizes_chosen_last_are_told():
    summary = RunSummary(k=8)
    for number, tickets, size in ((1, 16.0, 8.0), (2, 14.0, 9.0)):
        sizes = {"tickets": tickets, "group_size": size, "saving_estimated": 0.02}
        summary.step(step(number) | {f"cost/sizing_{key}": sizes[key] for key in sizes})
    assert finish(summary)["sizing"] == sizes


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
    assert out["sizing"] is None
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


def take(summary: RunSummary, numbers: range) -> None:
    for number in numbers:
        summary.step(step(number) | {f"evaluation/{number}/pass_rate": 0.1 * number})
        summary.evaluated_on_the_way(0.1 * number)


def reloaded(state: dict) -> dict:
    """A state after it lay on disk as strict JSON."""
    return json.loads(json.dumps(state, allow_nan=False))


def test_a_run_that_goes_on_comes_to_what_one_without_a_stop_comes_to() -> None:
    """Bit by bit, but for the seconds of its starts, which add up."""
    undisturbed = RunSummary(k=8)
    undisturbed.startup(20.0, {"engine_load": 12.0})
    undisturbed.evaluation("before", evaluation(0.1), seconds=5.0)
    take(undisturbed, range(1, 31))
    undisturbed.evaluation("after", evaluation(0.5), seconds=6.0)

    stopped = RunSummary(k=8)
    stopped.startup(20.0, {"engine_load": 12.0})
    stopped.evaluation("before", replace(evaluation(0.1), pass_at_k_stderr=math.nan), seconds=5.0)
    take(stopped, range(1, 11))
    states = [stopped.state_dict(total_seconds=25.0, loop_seconds=10.0)]
    # These are lost: the state is from before them.
    take(stopped, range(11, 14))
    for number in (11, 21):
        summary = RunSummary(k=8)
        summary.startup(3.0, {"engine_load": 2.0, "publish": 0.5})
        summary.load_state_dict(reloaded(states[-1]))
        again = RunSummary(k=8)
        again.load_state_dict(reloaded(states[-1]))
        assert again.state_dict(total_seconds=0.0) == states[-1]
        take(summary, range(number, number + 10))
        states.append(
            summary.state_dict(
                total_seconds=14.0,
                loop_seconds=10.5,
                parity_max_logprob_difference=1e-3 if number == 11 else math.nan,
                first_reward_failure=f"failed at {number}",
            )
        )
    summary.evaluation("after", evaluation(0.5), seconds=6.0)
    found = summary.finish(
        total_seconds=16.0,
        parity_max_logprob_difference=1e-5,
        versions_published=31,
        loop_seconds=10.5,
        first_reward_failure="failed at 25",
        restarts=2,
        lost_steps=3,
    )
    expected = finish(undisturbed) | {
        "pass_at_8_before_stderr": math.nan,
        "versions_published": 31,
        "parity_max_logprob_difference": 1e-3,
        "first_reward_failure": "failed at 11",
        "restarts": 2,
        "lost_steps": 3,
        "startup_seconds": {"engine_load": 16.0, "publish": 1.0},
    }
    expected["seconds"] |= {"loop": 31.0, "total": 55.0, "startup": 26.0}
    assert json_ready(found) == json_ready(expected)


def test_a_state_does_not_grow_with_steps() -> None:
    summary = RunSummary(k=8)
    take(summary, range(1, 3))
    early = summary.state_dict(total_seconds=1.0)
    take(summary, range(3, 300))
    late = summary.state_dict(total_seconds=1.0)
    assert {key: value.keys() for key, value in early.items() if isinstance(value, dict)} == {
        key: value.keys() for key, value in late.items() if isinstance(value, dict)
    }


def test_a_state_before_anything_and_with_another_k() -> None:
    summary = RunSummary(k=4)
    summary.load_state_dict(reloaded(RunSummary(k=4).state_dict(total_seconds=2.0)))
    assert finish(summary)["seconds"]["total"] == 62.0
    other = RunSummary(k=8)
    other.evaluation("before", evaluation(0.2), seconds=5.0)
    summary.load_state_dict(reloaded(other.state_dict(total_seconds=2.0)))
    found = finish(summary)
    assert found["pass_rate_before"] == 0.2 and found["pass_at_4_before"] is None
    assert found.keys() == finish(RunSummary(k=4)).keys()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda state: state.pop("sums"),
        lambda state: state["sums"].popitem(),
        lambda state: state["last"].update({"cost/trained_tokens": "many"}),
        lambda state: state["last"].update({"cost/trained_tokens": None}),
        lambda state: state["counts"].update({"cost/total_variation": "nan"}),
        lambda state: state["others"].update(num_steps=None),
        lambda state: state["earlier"].update(more=1.0),
        lambda state: state.update(evaluations=[1, 2]),
        lambda state: state.pop("first_reward_failure"),
    ],
)
def test_a_state_of_something_else_is_refused_and_changes_nothing(spoil) -> None:
    summary = RunSummary(k=8)
    take(summary, range(1, 3))
    before = summary.state_dict(total_seconds=1.0)
    state = reloaded(before)
    spoil(state)
    with pytest.raises(ValueError, match="state of a summary does not fit"):
        summary.load_state_dict(state)
    assert summary.state_dict(total_seconds=1.0) == before


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
