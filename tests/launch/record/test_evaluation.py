"""Sets and sources: avg@n and pass@k with intervals over prompts, metrics, JSON, table."""

import io
import json
import math
import re

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from cost.types import LengthReport, RewardStatus
from launch.record.evaluation import (
    MOST_SOURCES,
    Evaluation,
    Figures,
    SetResult,
    print_evaluation,
    table,
)
from launch.record.json_file import json_ready
from launch.record.outcomes import evaluate_statistics
from launch.record.progress import print_result
from launch.record.statistics import t_quantile
from launch.record.summary import RunSummary
from rollout.types import Prompt

HELD_OUT_RATES, OWN_RATES = (0.0, 0.25, 1.0), (0.5, 0.5)


def report(ticket_id, prompt_index, rewards, status=None, answers=None):
    count = len(rewards)
    return LengthReport(
        ticket_id, prompt_index, 3, 3, np.full(count, 4), np.zeros(count, bool),
        np.asarray(rewards, float), np.asarray(status or [RewardStatus.OK] * count),
        np.ones(count), np.asarray(answers or range(count), int), 0.1, 0,
    )  # fmt: skip


def prompts(rates, sources):
    return [
        Prompt(i, np.arange(3, dtype=np.int32), str(rate), source, f"{source} {i}")
        for i, (rate, source) in enumerate(zip(rates, sources, strict=True))
    ]


@pytest.fixture
def sets():
    return {
        "held_out": prompts(HELD_OUT_RATES, ["easy", "hard", "easy"]),
        "mine": prompts(OWN_RATES, ["file", "file"]),
    }


def evaluation(sets, *, greedy=True, versions=(3, 3), pass_at=()):
    """Four responses to each prompt, of which the share passes that the prompt's answer names."""

    def results(count, ks):
        found = {}
        for name, asked in sets.items():
            passed = [round(float(prompt.answer) * count) for prompt in asked]
            rewards = [[1.0] * num + [0.0] * (count - num) for num in passed]
            reports = [report(i, i, each) for i, each in enumerate(rewards)]
            found[name] = SetResult.of(asked, reports, ks)
        return found

    sampled = results(4, sorted({1, *pass_at, 4}))
    return Evaluation(*versions, 4, 0.5, sampled, results(1, [1]) if greedy else None)


def test_every_set_and_source_gets_its_own_figures(sets):
    found = evaluation(sets, pass_at=[2])
    held_out, mine = found.sampled["held_out"], found.sampled["mine"]
    assert held_out.overall.avg.mean == pytest.approx(np.mean(HELD_OUT_RATES))
    # One success in four: the chance that two hold it is 1/2.
    assert held_out.overall.pass_at[2].mean == pytest.approx((0 + 0.5 + 1) / 3)
    assert held_out.overall.pass_at[4].mean == pytest.approx(2 / 3)
    assert list(held_out.overall.pass_at) == [1, 2, 4]
    assert {name: figures.avg.mean for name, figures in held_out.sources.items()} == {
        "easy": 0.5,
        "hard": 0.25,
    }
    assert mine.overall.avg.mean == 0.5 and list(mine.sources) == ["file"]
    assert found.greedy["mine"].overall.num_responses == 2


def test_pass_at_one_is_the_average(sets):
    figures = evaluation(sets).sampled["held_out"].overall
    assert figures.pass_at[1].mean == pytest.approx(figures.avg.mean)
    assert figures.pass_at[1].half_width == pytest.approx(figures.avg.half_width)


def test_intervals_are_students_t_over_prompts_inside_zero_to_one(sets):
    found = evaluation(sets)
    shown = found.to_json()["sampled"]["held_out"]["avg"]
    expected = stats.t.interval(
        0.95, 2, loc=np.mean(HELD_OUT_RATES), scale=stats.sem(HELD_OUT_RATES)
    )
    figures = found.sampled["held_out"].overall.avg
    assert (figures.low, figures.high) == pytest.approx(expected, rel=1e-4)
    assert expected[0] < 0 and expected[1] > 1
    assert (shown["low"], shown["high"]) == (0.0, 1.0)
    assert shown["stderr"] == pytest.approx(stats.sem(HELD_OUT_RATES), rel=1e-5)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    truth, hits, tries = 0.4, 0, 400
    for _ in range(tries):
        rates = rng.beta(2, 3, size=30)
        found = [report(i, i, rng.random(8) < rate) for i, rate in enumerate(rates)]
        avg = Figures.of(found, [1]).avg
        hits += avg.low <= truth <= avg.high
    assert 0.92 <= hits / tries <= 0.98


def test_the_held_out_set_is_what_the_summary_says_as_without_other_sets(sets):
    found = evaluation(sets)
    alone = evaluation({"held_out": sets["held_out"]})
    assert found.held_out() == alone.held_out()
    sampled, greedy = found.held_out()
    assert sampled == evaluate_statistics(found.sampled["held_out"].reports, k=4)
    assert greedy is not None and greedy.k == 1
    assert evaluation(sets, greedy=False).held_out()[1] is None


def test_responses_without_a_reward_are_counted_and_in_no_rate():
    ok, crashed = RewardStatus.OK, RewardStatus.CRASHED
    found = Figures.of(
        [
            report(0, 0, [1.0, math.nan], [ok, crashed]),
            report(1, 1, [math.nan] * 2, [crashed] * 2),
            report(2, 2, []),
        ],
        [1, 2],
    )
    assert (found.num_prompts, found.num_responses, found.crashed) == (3, 1, 3)
    assert (found.num_scored, found.num_lost) == (1, 2)
    assert found.avg.mean == 1.0 and found.avg.count == 1
    assert math.isnan(found.pass_at[2].mean) and found.pass_at[2].count == 0


def test_a_majority_is_told_where_answers_are_said_and_by_who_was_scored(capsys, tmp_path):
    asked = prompts([0.5] * 3, ["file"] * 3)
    says = [report(0, 0, [1, 1, 0], answers=[0, 0, 2]), report(1, 1, [1, 0, 0], answers=[0, 1, 1])]
    silent = [report(i, i, [1, 0, 0], answers=[0, 0, 0]) for i in range(3)]
    found = {
        "held_out": SetResult.of(asked, [*says, report(2, 2, [])], [1, 3]),
        "silent": SetResult.of(asked, silent, [1, 3]),
    }
    evaluated = Evaluation(0, 0, 3, 0.5, found, None)
    metrics = evaluated.metrics()
    assert metrics["evaluation/held_out/majority"] == 0.5
    assert "evaluation/silent/majority" not in metrics
    content = evaluated.to_json()["sampled"]
    assert content["held_out"]["majority"]["num_prompts"] == 2
    assert content["silent"]["majority"] is None
    text = shown(capsys, evaluated, tmp_path)
    assert "maj@3" in text and re.search(r"held_out .* 0\.500 \+- \d\.\d+ \(2\) │ +4\.0", text)
    assert re.search(r"silent .* 1\.000 \+- 0\.000 │ +- │", text)
    alone = Evaluation(0, 0, 3, 0.5, {"held_out": found["silent"]}, None)
    assert "maj@" not in shown(capsys, alone, tmp_path)


def test_metrics_name_set_source_and_versions(sets):
    metrics = evaluation(sets, versions=(3, 5), pass_at=[2]).metrics()
    assert metrics["evaluation/version"] == 3 and metrics["evaluation/last_version"] == 5
    assert metrics["evaluation/held_out/pass_rate"] == pytest.approx(np.mean(HELD_OUT_RATES))
    assert metrics["evaluation/held_out/easy/pass_at_2"] == 0.5
    assert metrics["evaluation/mine/pass_at_4"] == 1.0
    # One source alone would say the same again.
    assert not [key for key in metrics if key.startswith("evaluation/mine/file")]


def test_the_json_is_strict_and_holds_every_set(sets):
    content = json.loads(json.dumps(json_ready(evaluation(sets).to_json()), allow_nan=False))
    assert set(content["sampled"]) == set(content["greedy"]) == {"held_out", "mine"}
    hard = content["sampled"]["held_out"]["sources"]["hard"]
    assert hard["avg"] == {
        "mean": 0.25, "stderr": None, "low": None, "high": None, "num_prompts": 1,
    }  # fmt: skip
    assert content["sampled"]["held_out"]["pass_at"]["4"]["num_prompts"] == 3


def test_many_sources_are_in_the_file_alone():
    rates = [0.5] * (MOST_SOURCES + 1)
    pages = [f"https://example.org/{i}" for i in range(len(rates))]
    found = evaluation({"held_out": prompts(rates, pages)})
    assert list(found.to_json()["sampled"]["held_out"]["sources"]) == pages
    assert not any("example.org" in name for name in found.metrics())
    assert table(found).row_count == 1
    few = evaluation({"held_out": prompts(rates[:-1], pages[:-1])})
    assert f"evaluation/held_out/{pages[0]}/pass_rate" in few.metrics()
    assert table(few).row_count == len(rates)


def test_the_table_has_a_row_per_set_and_source(sets):
    console = Console(width=140, record=True, file=None, quiet=False)
    with console.capture() as shown:
        console.print(table(evaluation(sets, pass_at=[2])))
    text = shown.get()
    for part in ("avg@4", "pass@2", "pass@4", "greedy", "held_out", "  easy", "mine", "0.417 +- "):
        assert part in text
    assert "file" not in text


def test_both_tables_mean_the_same_by_their_margins(sets, tmp_path):
    """The one at the end of a training run and that of an evaluation, of the same responses."""
    found = evaluation(sets)
    summary = RunSummary(k=4)
    for when in ("before", "after"):
        summary.evaluation(when, *found.held_out(), seconds=1.0)
    finished = summary.finish(
        total_seconds=1.0, parity_max_logprob_difference=0.0, versions_published=1
    )
    texts = []
    for show in (
        lambda console: console.print(table(found)),
        lambda console: print_result(finished, tmp_path, console=console),
    ):
        console = Console(width=200, record=True, file=io.StringIO())
        show(console)
        texts.append(console.export_text())
    margin = t_quantile(2) * stats.sem(HELD_OUT_RATES)
    for text in texts:
        assert f"{np.mean(HELD_OUT_RATES):.3f} +- {margin:.3f}" in text
        assert "+- is half of a 95% interval, Student's t over prompts" in text


def losing(num_prompts, lost, *, greedy_lost=()):
    """An evaluation of which some prompts came back empty; the others pass every other time."""
    asked = prompts([0.5] * num_prompts, ["easy", "hard"] * (num_prompts // 2))

    def result(count, gone, ks):
        rewards = [[] if i in gone else [1.0, 0.0][:count] for i in range(num_prompts)]
        return {
            "held_out": SetResult.of(asked, [report(i, i, r) for i, r in enumerate(rewards)], ks)
        }

    return Evaluation(0, 0, 2, 0.5, result(2, lost, [1, 2]), result(1, greedy_lost, [1]))


def shown(capsys, found, tmp_path):
    print_evaluation(found, tmp_path)
    return capsys.readouterr().out


def test_lost_prompts_are_counted_and_named_everywhere(capsys, tmp_path):
    lost = list(range(1, 179, 2))
    found = losing(400, lost, greedy_lost=[7])
    figures = found.sampled["held_out"].overall
    assert (figures.num_prompts, figures.num_scored, figures.num_lost) == (400, 311, 89)
    metrics = found.metrics()
    assert (metrics["evaluation/scored_prompts"], metrics["evaluation/lost_prompts"]) == (311, 89)
    assert metrics["evaluation/held_out/hard/lost_prompts"] == 89
    assert metrics["evaluation/held_out/easy/lost_prompts"] == 0
    content = json.loads(json.dumps(json_ready(found.to_json())))
    of_set = content["sampled"]["held_out"]
    assert of_set["lost_prompts"] == lost
    assert (of_set["num_prompts"], of_set["num_scored_prompts"]) == (400, 311)
    assert of_set["avg"]["num_prompts"] == of_set["pass_at"]["2"]["num_prompts"] == 311
    assert content["greedy"]["held_out"]["lost_prompts"] == [7]
    assert found.held_out()[0].num_lost == 89 and found.held_out()[1].num_lost == 1
    text = shown(capsys, found, tmp_path)
    for part in (
        "0.500 +- 0.000 (311)", "1.000 +- 0.000 (399)", "(n): over n prompts only",
        "held_out: 89 of 400 prompts are lost", "over the other 311: prompts 1, 3, 5,",
        "and 69 more, all of them in evaluation.json",
        "held_out, greedy: 1 of 400 prompts are lost", "over the other 399: prompts 7\n",
    ):  # fmt: skip
        assert part in text


def test_where_nothing_is_lost_no_figure_has_a_count_of_its_own(capsys, tmp_path):
    text = shown(capsys, losing(4, []), tmp_path)
    assert "over n prompts only" not in text and "prompts are lost" not in text
    assert "(4)" not in text


def test_a_figure_over_fewer_prompts_than_its_neighbours_says_so(capsys, tmp_path, sets):
    found = evaluation(sets, greedy=False)
    ok, crashed = RewardStatus.OK, RewardStatus.CRASHED
    half = report(0, 0, [1.0, 0.0, math.nan, math.nan], [ok, ok, crashed, crashed])
    asked, rest = sets["held_out"], found.sampled["held_out"].reports[1:]
    result = SetResult.of(asked, [half, *rest], [1, 4])
    assert result.lost == ()
    text = shown(capsys, Evaluation(0, 0, 4, 0.5, {"held_out": result}, None), tmp_path)
    assert "(2)" in text and "(n): over n prompts only" in text
