"""Whatever a run folder of somebody else holds is shown as text, on pages and on the terminal."""

import io
import json
from html.parser import HTMLParser

import pytest
from rich.console import Console

from launch.record.picture import draw_picture
from launch.record.progress import Progress, print_plan
from launch.record.report.page import write_page
from launch.study.simulation.tables import check_table
from tests.launch.programs import call
from tests.launch.record.report.pages import figures
from tests.launch.record.run_folders import write_run

MARKS = {
    "script": "</script></pre></td><script>alert(1)</script><img src=x onerror=alert(1)>",
    "attribute": "\"' onmouseover=alert(1) x='",
    "terminal": "\x1b[31m\x1b]8;;http://evil\x07\x9b2J\r\x08\x7f",
    "direction": "a\u202egnp.exe\u2066\u200f",
    "markup": "[red]a[/red] [/] [link=http://evil]b[/link] :smile:",
    "formula": "$\\frac{1}$",
    "entity": "&lt;script&gt; &#x202e;",
}
ALL = " ".join(MARKS.values())
STEERING = [*"\x1b\x9b\x07\x08\x7f\r\u202e\u2066\u200f"]


class Elements(HTMLParser):
    """Collects elements with their attributes, and the text between them."""

    def __init__(self, page):
        super().__init__()
        self.found, self.text, self._ours = [], "", False
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        self._ours = tag in ("script", "style")

    def handle_endtag(self, tag):
        self._ours = False

    def handle_data(self, data):
        if not self._ours:
            self.text += data


@pytest.fixture
def hostile(tmp_path):
    """A run folder with the marks in every text that a page shows."""
    folder = write_run(tmp_path / "run", response=ALL)
    (folder / "config.yaml").write_text(
        json.dumps({"name": ALL, "seed": 0, ALL: {"deep": [ALL]}, "reward": {"_target_": ALL}})
    )
    summary = json.loads((folder / "summary.json").read_text())
    summary |= {"objective": ALL, "completed": False, "first_reward_failure": ALL}
    summary["seconds"] |= {ALL: 1.0}
    (folder / "summary.json").write_text(json.dumps(summary))
    path = folder / "samples.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows = [row | {"prompt": ALL, "answer": ALL, "expected": ALL, "reward": ALL} for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_a_page_holds_no_element_that_a_run_wrote(hostile, tmp_path):
    other = write_run(tmp_path / "other")
    for name, folders in (("one", [hostile]), ("two", [hostile, other])):
        page = write_page(folders, tmp_path / f"{name}.html").read_text()
        elements = Elements(page)
        assert [tag for tag, _ in elements.found].count("script") == 3
        assert [tag for tag, _ in elements.found if tag == "img"] == []
        assert [
            each for each in elements.found if any(key.startswith("on") for key in each[1])
        ] == []
        for mark in ("script", "markup", "formula", "entity"):
            assert MARKS[mark] in elements.text
        for mark in STEERING:
            assert mark not in elements.text, elements.text.partition(mark)[0][-200:]
        assert r"a\u202egnp.exe" in elements.text


def test_no_trace_of_a_chart_is_named_by_markup(hostile, tmp_path):
    other = write_run(tmp_path / "other")
    page = write_page([hostile, other], tmp_path / "two.html").read_text()
    names = json.dumps([figure["data"] for figure in figures(page).values()])
    assert "<script" not in names and "<img" not in names
    assert "&lt;script&gt;" in names


@pytest.mark.parametrize("terminal", [True, False])
def test_the_terminal_shows_marks_as_they_are_written(terminal):
    out = io.StringIO()
    console = Console(
        file=out, force_terminal=terminal, width=300, color_system=None, legacy_windows=False
    )
    print_plan({"first of them": ALL}, console=console)
    # Names and paths may hold no more than this.
    markup = MARKS["markup"]
    progress = Progress(markup, 3, console=console)
    progress.update(1, {"rollout/reward_mean": 0.5})
    progress.close()
    console.print(check_table(markup, []))
    shown = out.getvalue()
    assert " ".join(shown.split()).count(markup) >= (3 if terminal else 2)
    assert "evil\x07" not in shown and "\u202e" not in shown and "\x9b" not in shown
    assert r"\x1b]8;;http://evil\x07" in shown


def test_the_picture_takes_a_formula_for_a_name(hostile):
    draw_picture(hostile, None, title=MARKS["formula"])
    assert (hostile / "run.png").stat().st_size > 10_000


def test_a_refusal_is_visible(tmp_path):
    path = tmp_path / "questions.jsonl"
    path.write_text('{"prompt": "a1 b+2", "answer": "\x9b2J\\u202e"}\n')
    done = call(
        "launch.train", "experiment=quickstart", f"run_dir={tmp_path / 'run'}", "task=dataset",
        "task@held_out=dataset_held_out", f"task.path={path}",
    )  # fmt: skip
    assert done.status == 2 and "questions.jsonl:1" in done.err
    assert [mark for mark in STEERING if mark in done.err] == []
