"""The page holds what the run folders say, and what it refuses it refuses in one sentence."""

import json
import subprocess
import sys

import numpy as np
import pytest

from launch.cli.refusals import UserError
from launch.record.report.page import write_page
from launch.record.report.runs import read_runs
from tests.launch.programs import call
from tests.launch.record.report.pages import decoded, figures
from tests.launch.record.run_folders import write_run


@pytest.fixture
def folder(tmp_path):
    return write_run(tmp_path / "run")


def change_lines(path, change):
    records = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(change(record)) + "\n" for record in records))


def without(*keys):
    return lambda record: {key: value for key, value in record.items() if key not in keys}


def test_command_writes_one_file_beside_the_run(folder):
    done = subprocess.run(
        [sys.executable, "-m", "launch.report", str(folder)], capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stderr == ""
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert str(folder / "report.html") in done.stdout
    assert "58.0 ± 4.1%" in page and "before training 31.0 ± 4.0%" in page
    assert (
        "± is half of a 95% interval, Student's t over prompts; of a change over the differences "
        "of single prompts." in page
    )
    assert "uniform over prompts: weights correct for draws and thinning" in page
    assert "420,000" in page


def test_nothing_is_overwritten(folder):
    (folder / "report.html").write_text("mine")
    with pytest.raises(UserError, match=r"^out must be a new file, got .*report\.html"):
        write_page([folder])
    assert (folder / "report.html").read_text() == "mine"


def test_charts_show_the_metrics_smoothed_and_as_they_are(folder):
    write_page([folder])
    drawn = figures((folder / "report.html").read_text(encoding="utf-8"))
    assert {"reward", "pass_rate", "length", "entropy", "mismatch", "staleness"} <= set(drawn)
    assert {"step_tokens", "total_tokens", "map_0", "timeline"} <= set(drawn)
    logged = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    raw, smooth = drawn["entropy"]["data"]
    entropy = [record["learner/entropy"] for record in logged]
    assert decoded(raw["y"]).tolist() == entropy == decoded(smooth["customdata"]).tolist()
    assert raw["meta"] == {"run": 0, "x": "step", "raw": True}
    held_out = drawn["pass_rate"]["data"][-1]
    assert decoded(held_out["y"]).tolist() == [0.31, 0.58]
    assert decoded(held_out["error_y"]["array"])[1] == pytest.approx(0.041)


def test_held_out_rates_before_on_the_way_and_after(folder):
    change_lines(
        folder / "metrics.jsonl",
        lambda record: record | ({"evaluation/pass_rate": 0.4} if record["step"] % 15 == 0 else {}),
    )
    (read,) = read_runs([folder])
    assert read.held_out.positions.tolist() == [-1, 14, 29]
    assert read.held_out.rates.tolist() == [0.31, 0.4, 0.58]
    assert read.held_out.half_widths.tolist() == [0.04, 0, 0.041]


def test_an_evaluation_in_the_background_stands_where_its_policy_stood(folder):
    """Began after step 10, found ready at step 14: on every axis it is of step 10."""
    late = {"evaluation/pass_rate": 0.4, "evaluation/version": 10, "evaluation/last_version": 13}
    change_lines(
        folder / "metrics.jsonl", lambda record: record | (late if record["step"] == 14 else {})
    )
    (read,) = read_runs([folder])
    assert read.held_out.positions.tolist() == [-1, 9, 29]
    write_page([folder])
    drawn = figures((folder / "report.html").read_text(encoding="utf-8"))
    places = drawn["pass_rate"]["data"][-1]["meta"]["x"]
    assert places["step"] == [0, 10, 30]
    assert places["tokens"] == [0, 140_000, 420_000]
    assert places["seconds"] == [0, read.ends[9], read.ends[-1]]


def test_seconds_of_a_simulated_run_are_those_of_its_parts(folder):
    change_lines(folder / "metrics.jsonl", lambda record: record | {"time": 1e9})
    (read,) = read_runs([folder])
    assert np.diff(read.ends, prepend=0)[[0, 10]] == pytest.approx([2.7, 1.25])


def test_timeline_accounts_for_every_second_of_both_lanes(folder):
    from launch.record.report.times import timeline_bars

    (read,) = read_runs([folder])
    bars = timeline_bars(read)
    for engines in (True, False):
        lane = [bars[key] for key in bars if key[0] is engines]
        starts = np.concatenate([starts for starts, *_ in lane])
        ends = starts + np.concatenate([seconds for _, seconds, _ in lane])
        order = np.argsort(starts)
        assert starts[order][0] == pytest.approx(0)
        assert starts[order][1:] == pytest.approx(ends[order][:-1])
        assert ends.max() == pytest.approx(read.ends[-1])
    idle = bars[False, "idle"][1]
    assert idle[:3] == pytest.approx([1.5] * 3) and idle[5] == pytest.approx(0.05)


def test_long_runs_are_thinned_and_keep_every_second(tmp_path):
    from launch.record.report.chart import MOST_BLOCKS, MOST_POINTS, shown_steps
    from launch.record.report.times import timeline_bars

    (read,) = read_runs([write_run(tmp_path / "run", num_steps=2 * MOST_POINTS)])
    shown = shown_steps(len(read.steps))
    assert len(shown) == MOST_POINTS and shown[0] == 0 and shown[-1] == 2 * MOST_POINTS - 1
    starts, seconds, labels = timeline_bars(read)[False, "updating"]
    assert len(starts) <= MOST_BLOCKS and labels[0] == "step 1 to 8"
    assert seconds.sum() == pytest.approx(2 * MOST_POINTS)


def test_map_of_probability_says_how_far_from_uniform(folder):
    write_page([folder])
    drawn = figures((folder / "report.html").read_text(encoding="utf-8"))
    last = json.loads((folder / "cells.jsonl").read_text().splitlines()[-1])
    (bubbles,) = drawn["map_0"]["data"]
    assert decoded(bubbles["marker"]["size"]) == pytest.approx(last["probabilities"], rel=1e-5)
    assert len(drawn["map_0"]["layout"]["sliders"][0]["steps"]) == 30
    shares = np.array(last["num_prompts"]) / 400
    colour = np.log2(np.array(last["probabilities"]) / shares)
    reach = bubbles["marker"]["cmax"]
    assert decoded(bubbles["marker"]["color"]) == pytest.approx(
        np.clip(colour, -reach, reach), rel=1e-4, abs=1e-4
    )


def test_several_runs_are_told_apart(tmp_path):
    folders = [
        write_run(tmp_path / "a", name="alpha"),
        write_run(tmp_path / "b", name="beta", seed=1, num_steps=20),
    ]
    out = tmp_path / "both.html"
    write_page(folders, out)
    page = out.read_text(encoding="utf-8")
    assert 'data-run="0"' in page and 'data-run="1"' in page and "Settings that differ" in page
    runs = {trace.get("meta", {}).get("run") for trace in figures(page)["reward"]["data"]}
    assert runs == {None, 0, 1}


def test_foreign_text_is_escaped_everywhere(tmp_path):
    evil = '</script><script>alert(1)</script><img src="http://x.invalid/a" onerror="alert(2)">'
    folder = write_run(tmp_path / "run", name=evil.replace("'", ""), response=evil + "\ud800")
    change_lines(
        folder / "samples.jsonl",
        lambda record: record | dict.fromkeys(("prompt", "answer", "expected"), evil),
    )
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(config + f"task:\n  path: '{evil}'\n")
    other = write_run(tmp_path / "other")
    write_page([folder, other], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    # The page's own: the data, plotly.js and page.js.
    own = page.split('id="data">')
    assert own[0].count("<script") == 1 and page.count("</script>") == 3
    data = own[1].split("</script>")[0]
    assert "<" not in data
    assert "&lt;img" in page and "<img" not in own[0] and "<img" not in data
    names = [trace.get("name", "") for trace in json.loads(data)["figures"]["reward"]["data"]]
    assert any("&lt;script&gt;" in name for name in names)
    assert not any("<" in name for name in names)


def test_page_allows_no_script_but_its_own_and_no_request(folder):
    import base64
    import hashlib
    import re

    write_page([folder])
    page = (folder / "report.html").read_text(encoding="utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    scripts = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    assert len(scripts) == 2
    for script in scripts:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy


def test_what_was_not_recorded_is_said(folder):
    (folder / "cells.jsonl").unlink()
    change_lines(folder / "metrics.jsonl", without("learner/entropy"))
    change_lines(folder / "samples.jsonl", without("weight", "advantage"))
    summary = json.loads((folder / "summary.json").read_text())
    unknown = {"objective": None, "pass_rate_before": None, "completed": False}
    (folder / "summary.json").write_text(json.dumps(summary | unknown))
    write_page([folder])
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Not recorded (no cells.jsonl): first." in page
    assert "Entropy: not recorded." in page and "not recorded." in page
    assert "first did not complete: it ended after step 30" in page
    assert "entropy" not in figures(page) and "map_0" not in figures(page)


def test_a_run_of_one_step(tmp_path):
    folder = write_run(tmp_path / "run", num_steps=1)
    write_page([folder])
    assert figures((folder / "report.html").read_text(encoding="utf-8"))


def cut_last_line(folder):
    path = folder / "metrics.jsonl"
    path.write_text(path.read_text()[:-20])


def write(name, text):
    return lambda folder: (folder / name).write_text(text)


def drop(name, *keys):
    return lambda folder: change_lines(folder / name, without(*keys))


def set_in(name, **values):
    return lambda folder: change_lines(folder / name, lambda record: record | values)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda f: (f / "summary.json").unlink(), "has no summary.json; it goes on or was killed"),
        (lambda f: (f / "metrics.jsonl").unlink(), "has no metrics.jsonl"),
        (lambda f: (f / "samples.jsonl").unlink(), "has no samples.jsonl"),
        (lambda f: (f / "config.yaml").unlink(), "has no config.yaml"),
        (write("metrics.jsonl", ""), "metrics.jsonl has no step; the run ended before its first"),
        (cut_last_line, "line 30 of metrics.jsonl is not JSON; if it was cut off, remove it"),
        (
            drop("metrics.jsonl", "cost/step_trained_tokens"),
            "no line of metrics.jsonl has cost/step_trained_tokens; it is of another version",
        ),
        (drop("metrics.jsonl", "step"), "line 1 of metrics.jsonl has no step"),
        (set_in("metrics.jsonl", step="one"), "step in line 1 of metrics.jsonl is not a whole"),
        (set_in("metrics.jsonl", time="now"), "time in line 1 of metrics.jsonl is not a number"),
        (drop("samples.jsonl", "reward"), "line 1 of samples.jsonl has no reward"),
        (drop("cells.jsonl", "probabilities"), "line 1 of cells.jsonl has no probabilities"),
        (set_in("cells.jsonl", num_prompts=[1]), "cells.jsonl holds columns of different lengths"),
        (set_in("cells.jsonl", num_prompts="x"), "cells.jsonl holds something else"),
        (set_in("cells.jsonl", num_prompts=[]), "line 1 of cells.jsonl holds something else"),
        (set_in("cells.jsonl", length_cells=[None]), "line 1 of cells.jsonl holds something else"),
        (set_in("samples.jsonl", turns=None), "line 1 of samples.jsonl has other turns"),
        (set_in("samples.jsonl", turns=[{"text": "a"}]), "line 1 of samples.jsonl has other turns"),
        (set_in("summary.json", seconds=4), "seconds in summary.json must be by phase, got 4"),
        (write("summary.json", "{"), "summary.json is not JSON"),
        (write("summary.json", "{}"), "summary.json has no completed; it is of another version"),
        (write("config.yaml", "a: [b"), "config.yaml is not YAML"),
        (write("config.yaml", "- a"), "config.yaml has no settings"),
    ],
)
def test_a_folder_that_is_incomplete_or_of_another_version_is_named_in_a_sentence(
    folder, spoil, said
):
    spoil(folder)
    with pytest.raises(UserError) as refused:
        write_page([folder])
    message = str(refused.value)
    assert message.startswith(f"a run must be a folder of launch.train, got '{folder}': ")
    assert said in message and "\n" not in message
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize("odd", ["NaN", "-Infinity", "1e400", "9" * 400, "1e300"])
def test_a_number_that_is_no_figure_counts_as_not_measured(folder, odd):
    """As the run writes it; whoever reads JSON more kindly gets infinity, or no end of digits."""
    for name, keys in (
        ("metrics.jsonl", ("learner/loss", "parity/max_logprob_difference")),
        ("samples.jsonl", ("reward", "length_tokens")),
        ("summary.json", ("num_steps", "pass_rate_before", "saved_share")),
    ):
        set_in(name, **dict.fromkeys(keys, "ODD"))(folder)
        path = folder / name
        path.write_text(path.read_text().replace('"ODD"', odd))
    path = folder / "metrics.jsonl"
    path.write_text(
        path.read_text().replace('"loop/staleness": 1.0', f'"loop/staleness": {odd}', 1)
    )
    write_page([folder])
    drawn = figures((folder / "report.html").read_text(encoding="utf-8"))
    assert "reward" in drawn and "loss" not in drawn
    shown = decoded(drawn["staleness"]["data"][-1]["y"])
    assert np.isnan(shown[1]) and shown[2] == 1


@pytest.mark.parametrize("exists", [False, True])
def test_what_is_no_folder_is_refused(tmp_path, exists):
    path = tmp_path / "run"
    if exists:
        path.write_text("")
    with pytest.raises(UserError, match="it is a file" if exists else "there is no such folder"):
        write_page([path])


def test_a_run_given_twice_is_refused(folder):
    with pytest.raises(UserError, match="each folder once"):
        write_page([folder, folder / ".." / "run"])


def test_an_out_that_cannot_be_written_is_refused(folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="out must be writable"):
        write_page([folder], tmp_path / "file" / "page.html")


def test_words_of_the_command_line_are_runs(folder, tmp_path):
    odd = write_run(tmp_path / "it's [odd]")
    done = call("launch.report", str(folder), str(odd), f"out={tmp_path / 'page.html'}")
    assert done.status == 0 and "it&#x27;s [odd]" in (tmp_path / "page.html").read_text()
    done = call("launch.report")
    assert done.status == 2
    assert done.err == "error: runs must name at least one run folder, got []\n"


def test_runs_of_one_name_are_told_apart_by_the_end_of_their_folders(tmp_path):
    places = (tmp_path / "x" / "run", tmp_path / "y" / "run", tmp_path / "y" / "other")
    runs = read_runs([write_run(place, name="same", num_steps=2) for place in places])
    assert [run.name for run in runs] == ["same (x/run)", "same (y/run)", "same (other)"]


def test_the_optimiser_has_its_charts(folder):
    write_page([folder])
    drawn = figures((folder / "report.html").read_text(encoding="utf-8"))
    logged = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    for chart, key in (
        ("loss", "learner/loss"),
        ("grad_norm", "learner/grad_norm"),
        ("lr", "learner/lr"),
        ("clip_fraction", "learner/clip_fraction"),
    ):
        last = drawn[chart]["data"][-1]
        shown = decoded(last["customdata"])
        assert shown == pytest.approx([record[key] for record in logged])


def test_a_long_run_shows_every_evaluation_of_a_set(tmp_path):
    """Lines show 1,500 steps of it: few of those that were evaluated would be among them."""
    folder = write_run(tmp_path / "run", num_steps=2000)
    rates = {f"evaluation/{name}/pass_rate": 0.4 for name in ("held_out", "mine")}
    change_lines(
        folder / "metrics.jsonl",
        lambda record: record | (rates if record["step"] % 50 == 0 else {}),
    )
    write_page([folder])
    drawn = figures((folder / "report.html").read_text(encoding="utf-8"))["sets"]["data"]
    for trace in drawn:
        assert np.isfinite(decoded(trace["y"])).all() and len(decoded(trace["y"])) == 40
        assert trace["meta"]["x"]["step"] == list(range(50, 2001, 50))
        assert trace["meta"]["x"]["tokens"][0] == 50 * 14_000


def test_every_evaluation_set_has_its_curve(folder):
    rates = {f"evaluation/{name}/pass_rate": 0.4 for name in ("held_out", "mine")}
    source = {"evaluation/mine/easy/pass_rate": 0.9}
    change_lines(
        folder / "metrics.jsonl",
        lambda record: record | (rates | source if record["step"] % 10 == 0 else {}),
    )
    write_page([folder])
    drawn = figures((folder / "report.html").read_text(encoding="utf-8"))["sets"]["data"]
    assert [trace["name"] for trace in drawn] == ["held_out", "mine"]
    assert all(np.isfinite(decoded(trace["y"])).sum() == 3 for trace in drawn)
