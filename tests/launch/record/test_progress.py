"""What is printed, on a terminal and into a file."""

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from launch.record.formatting import count_text, number_text, seconds_text, share_text, sparkline
from launch.record.outcomes import EvaluationResult
from launch.record.progress import (
    Pace,
    Progress,
    print_plan,
    print_result,
)
from launch.record.statistics import Estimate
from launch.record.summary import RunSummary
from tests.launch.record.consoles import plain, terminal, text_of, without_times

METRICS = {
    "rollout/reward_mean": 0.412,
    "rollout/pass_rate": 0.381,
    "rollout/length_mean_tokens": 142.4,
    "rollout/length_p95_tokens": 256.0,
    "rollout/truncated_share": 0.03,
    # Pilots, for which the step has no groups, were generated, too.
    "cost/step_generated_tokens": 9_100.0,
    "loop/generated_tokens": 18_200.0,
    "cost/step_trained_tokens": 9_000.0,
    "cost/step_saved_share": 0.5,
    "loop/staleness": 1.0,
    "loop/generate_seconds": 8.0,
    "loop/wait_seconds": 4.0,
    "loop/update_seconds": 5.5,
    "loop/publish_seconds": 0.5,
}


def test_a_file_gets_one_whole_line_a_step():
    console = plain()
    progress = Progress("run", 20, console=console, clock=lambda: 100.0)
    progress.update(1, METRICS)
    progress.update(2, METRICS | {"rollout/reward_mean": math.nan})
    progress.close()
    first, second = without_times(text_of(console)).splitlines()
    assert first == (
        "step  1/20  reward 0.412  uniform -  pass rate 38.1%  length 142 (p95 256, cut 3.0%)  "
        "generated 18.2k  trained 9.0k (saved 50.0%)  staleness 1  "
        "step 10.0s (wait 4.0 + update 5.5 + publish 0.5; meanwhile generate 8.0)  left 3m10s"
    )
    assert second.startswith("step  2/20  reward -  uniform -  pass rate 38.1%")


def test_what_is_told_of_a_step_afterwards_is_no_new_one():
    console = plain()
    progress = Progress("run", 20, console=console)
    progress.update(2, METRICS)
    progress.update(2, {"evaluation/pass_rate": 0.5})
    progress.close()
    assert len(text_of(console).splitlines()) == 1


def test_an_evaluation_that_a_resumed_run_makes_first_is_no_step():
    console, now = plain(), [0.0]
    progress = Progress("run", 20, first_step=10, console=console, clock=lambda: now[0])
    now[0] = 90.0
    progress.update(10, {"evaluation/pass_rate": 0.5})
    progress.update(11, METRICS)
    (line,) = without_times(text_of(console)).splitlines()
    assert line.startswith("step 11/20 ") and line.endswith("left 1m30s")


def test_a_step_without_metrics_still_prints():
    console = plain()
    Progress("run", 2, console=console).update(1, {})
    assert without_times(text_of(console)).startswith("step 1/2  reward -  uniform -  pass rate -")


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_terminal_gets_a_panel_with_trends(encoding):
    console, raw = terminal(encoding)
    progress = Progress("my run", 3, console=console)
    for number in (1, 2, 3):
        progress.update(number, METRICS | {"rollout/reward_mean": number / 10})
    console.print("a line of somebody else")
    progress.close()
    shown = raw.getvalue().decode(encoding)
    assert "my run" in shown
    assert "step 3/3" in shown
    assert "a line of somebody else" in shown
    assert ("\u2581\u2585\u2588" in shown) == (encoding == "utf-8")


def test_a_terminal_panel_is_as_wide_at_the_end_as_at_the_start():
    console, _ = terminal()
    progress = Progress("run", 50, console=console)
    widths = set()
    for number in range(1, 51):
        progress.update(number, METRICS | {"rollout/reward_mean": number / 10})
        widths.add(console.measure(progress._render()).maximum)
    progress.close()
    assert len(widths) == 1


def test_a_run_that_ends_with_a_budget_has_fewer_seconds_left():
    now = iter([0.0, 10.0, 10.0, 10.0, 10.0])
    progress = Progress("run", 100, console=plain(), clock=lambda: next(now))
    progress.update(1, {"loop/done_share": 0.25})
    assert progress.seconds_left == pytest.approx(30)


def test_pace_is_smoothed_and_counts_down():
    pace = Pace(0.0, smoothing=0.5)
    assert math.isnan(pace.left(5, 3.0))
    pace.tick(10.0)
    assert pace.left(5, 10.0) == pytest.approx(50)
    assert pace.left(5, 14.0) == pytest.approx(46)
    pace.tick(30.0)
    assert pace.left(1, 30.0) == pytest.approx((0.25 * 10 + 0.5 * 20) / 0.75)
    assert pace.left(0, 99.0) == 0


def test_pace_believes_the_phases_over_the_clock():
    pace = Pace(0.0)
    pace.tick(1000.0, [1.0, 2.0])
    assert pace.last == 3.0
    pace.tick(1010.0, [1.0, None])
    assert pace.last == 10.0


def test_plan_shows_labels_and_values_as_they_are():
    console = plain()
    print_plan({"prompts": 12_000, "mask": True, "path": "[red]x"}, console=console)
    shown = text_of(console)
    assert "12,000" in shown and "True" in shown and "[red]x" in shown


def evaluation(rate: float) -> EvaluationResult:
    return EvaluationResult(
        10, 80, rate, 0.02, 0.045, 8, 0.9, 0.03, 0.068, 100.0, 4.0, 9.0, 0.1, 1, 2
    )


def test_result_shows_before_after_and_change():
    summary = RunSummary(k=8)
    summary.evaluation("before", evaluation(0.2), seconds=1.0)
    changed = {"pass_rate": Estimate(0.3, 0.012, 10), "length_mean": Estimate(-2.0, 1.5, 10)}
    summary.evaluation("after", evaluation(0.5), evaluation(0.6), seconds=1.0, changes=changed)
    summary.step(
        {
            "cost/trained_tokens": 1_234_567.0,
            "cost/uniform_generated_tokens_estimated": 7_654_321.0,
            "cost/uniform_trained_tokens_estimated": 2_345_678.0,
            "cost/engine_seconds": 98.76,
            "cost/spent_currency": 12.345,
            "loop/update_seconds": 61.0,
        }
    )
    finished = summary.finish(
        total_seconds=3720.0, parity_max_logprob_difference=0.0, versions_published=2
    )
    console = plain()
    print_result(finished, Path("runs/x"), console=console)
    shown = text_of(console)
    for part in (
        "0.200 +- 0.045",
        "0.500 +- 0.045",
        "100.0 +- 9.0",
        "+- is half of a 95% interval, Student's t over prompts",
        "of a change over the differences of single prompts",
        "+0.300 +- 0.012",
        "-2.0 +- 1.5",
        "1,234,567",
        "generated, uniform draws │ 7,654,321 (estimated)",
        # The draws as they are.
        "trained, uniform thinning │ 2,345,678 (estimated)",
        "98.8",
        "12.35",
        "1m01s",
        "runs in parallel",
        "1h02m",
        "runs/x",
    ):
        # A line that is longer than its table is broken.
        assert part in " ".join(shown.split())


def test_result_says_what_was_lost_in_evaluations_and_in_training():
    summary = RunSummary(k=8)
    summary.evaluation("before", evaluation(0.2), seconds=1.0)
    lossy = replace(evaluation(0.5), num_prompts=311, num_lost=89)
    summary.evaluation("after", lossy, seconds=1.0)
    summary.step({"rollout/failed_tickets": 3.0, "rollout/reward_crashed": 4.0})
    finished = summary.finish(
        total_seconds=1.0,
        parity_max_logprob_difference=0.0,
        versions_published=2,
        restarts=2,
        lost_steps=3,
    )
    assert (finished["num_prompts_before"], finished["lost_prompts_before"]) == (10, 0)
    assert (finished["num_prompts_after"], finished["lost_prompts_after"]) == (311, 89)
    console = plain()
    print_result(finished, Path("runs/x"), console=console)
    shown = text_of(console)
    assert "311 of 400 (89 lost)" in shown
    assert re.search(r"failed tickets\W+3 ", shown)
    # Plays that failed are among them.
    assert re.search(r"plays, rewards crashed\W+4 ", shown) and "timed out" not in shown
    assert re.search(r"restarts\W+2 \(3 steps were repeated\)", shown)


def test_result_of_a_run_without_evaluation():
    finished = RunSummary(k=8).finish(
        total_seconds=1.0, parity_max_logprob_difference=0.0, versions_published=0
    )
    console = plain()
    print_result(finished, Path("runs/x"), console=console)
    assert "held-out" not in text_of(console)


@pytest.mark.parametrize(
    ("function", "value", "text"),
    [
        (seconds_text, 8.12, "8.1s"),
        (seconds_text, 59.97, "1m00s"),
        (seconds_text, 192, "3m12s"),
        (seconds_text, 7500, "2h05m"),
        (seconds_text, math.nan, "-"),
        (count_text, 182, "182"),
        (count_text, 18_200, "18.2k"),
        (count_text, 1_840_000, "1.8M"),
        (count_text, 2.5e9, "2.5G"),
        (count_text, math.nan, "-"),
        (share_text, 0.4567, "45.7%"),
        (share_text, math.nan, "-"),
        (number_text, 0.5, "0.500"),
        (number_text, math.nan, "-"),
    ],
)
def test_numbers_as_text(function, value, text):
    assert function(value) == text


def test_sparkline_spans_its_own_range_with_gaps():
    assert sparkline([0.0, math.nan, 7.0]) == "\u2581 \u2588"
    assert sparkline([1.0, 1.0]) == "\u2581\u2581"
    assert sparkline([1.0]) == ""
