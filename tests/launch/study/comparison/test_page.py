"""The page of a comparison holds what was found and asks for nothing."""

from html.parser import HTMLParser

import numpy as np
import pytest

from conf.programs import BudgetConfig
from launch.study.comparison.curves import AXES
from launch.study.comparison.findings import find
from launch.study.comparison.page import page
from tests.launch.record.report.pages import decoded, figures
from tests.launch.study.comparison.made_runs import find_in, make_run

BASE = [0.5 + 0.01 * i for i in range(8)]


class Balanced(HTMLParser):
    """Fails where tags do not close in order."""

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def found():
    return find_in(base=BASE, other=[rate + 0.1 for rate in BASE], odd=[0.2] * 8, held_out=True)


def test_the_page_needs_nothing_else_and_says_what_was_found(found):
    text = page(found)
    parser = Balanced()
    parser.feed(text)
    assert parser.open == []
    assert not [tag for tag, _ in parser.seen if tag in ("link", "img", "iframe")]
    assert not [attrs for tag, attrs in parser.seen if tag == "script" and "src" in attrs]
    links = [attrs.get("href") for _, attrs in parser.seen]
    assert all(link.startswith("#") for link in links if link)
    body = text.split("<body>")[1].split("<script")[0]
    for row in found.rows[1:]:
        assert row.sentence in body.replace("&#x27;", "'")
    assert "nan" not in body and body.count(">not reached<") == len(AXES)
    assert page(found) == text


def test_curves_bands_and_what_is_reached_are_those_found(found):
    drawn = figures(page(found))
    assert list(drawn) == [f"by_{axis}" for axis in AXES]
    for along in found.axes:
        traces = drawn[f"by_{along.axis}"]["data"]
        assert {trace["meta"]["run"] for trace in traces} == {0, 1, 2}
        for index, arm in enumerate(along.bands):
            band, mean, *dot = [trace for trace in traces if trace["meta"]["run"] == index]
            of_arm = along.bands[arm]
            known = np.isfinite(of_arm.mean)
            assert decoded(mean["x"]) == pytest.approx(of_arm.spent[known], rel=1e-5)
            assert decoded(mean["y"]) == pytest.approx(of_arm.mean[known], rel=1e-5)
            edges = np.concatenate([of_arm.high[known], of_arm.low[known][::-1]])
            assert decoded(band["y"]) == pytest.approx(edges, rel=1e-5)
            assert [decoded(each["x"]) for each in dot] == (
                [pytest.approx(along.reach[arm].spent)] if arm == "other" else []
            )
        (level,) = drawn[f"by_{along.axis}"]["layout"]["shapes"]
        assert level["y0"] == level["y1"] == along.level


def test_a_page_of_one_seed_has_lines_without_bands(found):
    text = page(find_in(base=[0.5], other=[0.6], held_out=True))
    traces = figures(text)["by_steps"]["data"]
    assert not any(trace.get("fill") for trace in traces) and "nan" not in text.split("<script")[0]


def test_a_page_of_too_few_evaluations_says_so_and_marks_nothing():
    text = page(find_in(base=[0.5, 0.5], other=[0.6, 0.7]))
    assert "What it takes to reach where base ends is not said" in text
    traces = figures(text)["by_steps"]["data"]
    assert traces and not any(trace["mode"] == "markers" for trace in traces)


def test_names_cannot_bring_markup_into_the_page():
    evil = "<script>x</script>"
    runs = {evil: {0: make_run(0.5)}, "other": {0: make_run(0.5)}}
    text = page(find(evil, BudgetConfig(axis="steps", amount=100), runs, 8))
    assert "&lt;script" in text and text.count("<script") == text.count("</script>") == 3
