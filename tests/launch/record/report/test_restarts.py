"""A run that was restarted is one run on the page, with its restarts marked, listed and escaped."""

import json

import pytest

from launch.cli.refusals import UserError
from launch.record.report.page import write_page
from launch.record.report.runs import read_runs
from launch.record.restarts import note_restart
from tests.launch.record.report.pages import figures
from tests.launch.record.run_folders import write_run

REASON = "scheduler died: <script>alert(1)</script> & 'more'"
CHANGED = {"<b>key</b>": ["<i>old</i>", {"new": "</td>"}], "learner.lr": [7e-05, 5e-05]}


@pytest.fixture
def folder(tmp_path):
    """30 steps; after the tenth and the twentieth the run stood still for an hour."""
    folder = write_run(tmp_path / "run")
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for record in records:
        record["time"] += 3600 * ((record["step"] > 10) + (record["step"] > 20))
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in records))
    return folder


def restart(folder):
    note_restart(folder, step=10, reason=REASON, changed=CHANGED, now=1_790_000_000.0)
    note_restart(folder, step=20, reason="resumed after SIGTERM", now=1_790_003_600.5)
    note_restart(folder, step=20, reason="and again")
    return folder


def page_of(*folders, out):
    write_page(folders, out)
    return out.read_text(encoding="utf-8")


def test_the_time_between_stop_and_restart_is_no_time_of_the_run(folder, tmp_path):
    (undisturbed,) = read_runs([write_run(tmp_path / "undisturbed")])
    (stopped,) = read_runs([folder])
    assert stopped.ends[-1] > undisturbed.ends[-1] + 7000 and stopped.restarted == []
    (read,) = read_runs([restart(folder)])
    assert read.restarted == [10, 20] and len(read.restarts) == 3
    # The step after a restart takes what its own parts add up to.
    assert read.ends[-1] == pytest.approx(undisturbed.ends[-1] - 2 * (3.1 - 1.25))
    assert (read.ends[1:] > read.ends[:-1]).all()


def test_restarts_are_listed_and_every_text_is_escaped(folder, tmp_path):
    without = page_of(folder, out=tmp_path / "without.html")
    assert "Restarts" not in without and 'href="#restarts"' not in without
    page = page_of(restart(folder), out=tmp_path / "with.html")
    table = page.split('<section id="restarts">')[1].split("</section>")[0]
    assert table.count("<tr>") == 4 and 'href="#restarts"' in page
    assert "scheduler died: &lt;script&gt;alert(1)&lt;/script&gt; &amp; &#x27;more&#x27;" in table
    assert "&lt;b&gt;key&lt;/b&gt;: &lt;i&gt;old&lt;/i&gt; &rarr; {&#x27;new&#x27;: " in table
    assert "<td>learner.lr" not in table and "learner.lr: 7e-05 &rarr; 5e-05" in table
    assert "2026-09-21 14:13:20 UTC" in table
    for raw in (REASON, "<b>key</b>", "<i>old</i>", "'</td>'"):
        assert raw not in page


def test_every_chart_over_steps_marks_where_the_run_went_on(folder, tmp_path):
    other = write_run(tmp_path / "other", name="second", num_steps=12)
    drawn = figures(page_of(restart(folder), out=tmp_path / "one.html"))
    (read,) = read_runs([folder])
    places = [mark["x"] for mark in drawn["reward"]["layout"]["meta"]["marks"]]
    assert [place["step"] for place in places] == [10.5, 20.5]
    assert [place["tokens"] for place in places] == [140_000, 280_000]
    assert [place["seconds"] for place in places] == pytest.approx(read.ends[[9, 19]].tolist())
    for key, figure in drawn.items():
        marks = figure["layout"].get("meta", {}).get("marks")
        if key.startswith("map_"):
            assert marks is None
            continue
        assert len(marks) == 2 and all(mark["run"] == 0 for mark in marks), key
        fixed = {"timeline": "seconds", "mass_length_0": "step", "mass_rate_0": "step"}.get(key)
        assert [mark["x"] for mark in marks] == [
            place[fixed] if fixed else place for place in places
        ]
    assert drawn["timeline"]["layout"]["meta"]["marks"][0]["y"] == [-0.5, 1.5]

    both = figures(page_of(other, folder, out=tmp_path / "two.html"))
    marks = both["timeline"]["layout"]["meta"]["marks"]
    assert [(mark["run"], mark["y"]) for mark in marks] == [(1, [-0.5, 1.5])] * 2
    assert len({mark["colour"] for mark in both["reward"]["layout"]["meta"]["marks"]}) == 1
    assert both["mass_rate_0"]["layout"]["meta"]["marks"] == []
    assert len(both["mass_rate_1"]["layout"]["meta"]["marks"]) == 2


def test_damaged_restarts_are_refused_in_a_sentence(folder):
    (folder / "restarts.json").write_text('[{"step": "<b>"}]')
    with pytest.raises(UserError, match=r"step of restart 1 in restarts\.json must be a whole"):
        write_page([folder])
    assert not (folder / "report.html").exists()
