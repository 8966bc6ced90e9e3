"""The page in a real browser: every chart is drawn, its buttons work, and nothing is asked for."""

import html
import json
import re
import shutil
import subprocess

import pytest

from launch.record.report.page import write_page
from launch.record.restarts import note_restart
from tests.launch.record.run_folders import write_run

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]

PROBE = """
<script>
addEventListener("load", async () => {
  const chart = document.getElementById("plot-reward");
  const map = document.getElementById("plot-map_0");
  const found = [], marks = [];
  const look = async (selector) => {
    if (selector) document.querySelector(selector).click();
    await new Promise((done) => setTimeout(done, 200));
    const drawn = chart.querySelectorAll(".scatterlayer .trace").length;
    const line = chart.data.filter((trace) => (trace.meta || {}).run === 0).at(-1);
    found.push([chart.layout.xaxis.title.text, drawn, line.x.at(-1)]);
    marks.push(chart.layout.shapes.map((shape) => shape.x0));
  };
  await look();
  await look('button[data-axis="tokens"]');
  await look('button[data-axis="seconds"]');
  await look('button[data-run="1"]');
  const sizes = [map.data[0].x.length];
  await Plotly.restyle(map, ...map.layout.sliders[0].steps[0].args);
  sizes.push(map.data[0].x.length);
  const requests = performance.getEntriesByType("resource").map((entry) => entry.name);
  const width = document.documentElement.scrollWidth;
  document.body.dataset.found = JSON.stringify({ found, marks, sizes, requests, width });
});
</script>
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    runs = [
        write_run(folder / "a", name="alpha", num_steps=20),
        write_run(folder / "b", name="beta", num_steps=30, seed=1),
    ]
    note_restart(runs[1], step=12, reason="resumed after SIGTERM")
    out = folder / "page.html"
    write_page(runs, out)
    return out


def browse(page, tmp_path, *options):
    """Open a page with no way out; return what was printed and what the console said."""
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            "--no-first-run", "--disable-background-networking", "--disable-component-update",
            "--disable-sync", "--disable-extensions", "--disable-dev-shm-usage",
            "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr",
            f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=10000", *options,
            page.as_uri(),
        ],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_every_chart_is_drawn_and_the_console_is_silent(page, tmp_path):
    dom, console = browse(page, tmp_path, "--dump-dom")
    assert console == []
    text = page.read_text(encoding="utf-8")
    drawn = json.loads(text.split('id="data">')[1].split("</script>")[0])["figures"]
    assert len(drawn) == 21
    rendered = dom.split('<script type="application/json"')[0]
    for key in drawn:
        plot = rendered.split(f'id="plot-{key}"')[1].split("</figure>")[0]
        assert 'class="main-svg"' in plot, key
        marks = r'class="(trace scatter|trace bars|point|points|hm)'
        assert re.search(marks, plot), key
        assert "NaN" not in plot, key


def test_buttons_and_slider_work_and_nothing_is_asked_for(page, tmp_path):
    # Without the page's policy, which would stop the probe, and would hide that a request is tried.
    text = re.sub(r"<meta http-equiv[^>]*>", "", page.read_text(encoding="utf-8"))

    def probed(name, extra=""):
        copy = tmp_path / f"{name}.html"
        copy.write_text(text + extra + PROBE, encoding="utf-8")
        dom, _ = browse(copy, tmp_path, "--dump-dom", "--window-size=420,900")
        return json.loads(html.unescape(re.search(r'data-found="([^"]*)"', dom)[1]))

    seen = probed("page")
    (first, tokens, seconds, hidden) = seen["found"]
    assert first[0] == "step" and first[2] == 20
    assert tokens == ["tokens generated so far", first[1], 14_000 * 20]
    assert seconds[0].startswith("seconds") and seconds[2] == pytest.approx(60 + 1.6, abs=0.2)
    assert hidden[1] < first[1]
    # Where the second run went on; hidden with it.
    assert seen["marks"][:2] == [[12.5], [14_000 * 12]] and seen["marks"][3] == []
    assert seen["marks"][2] == pytest.approx([36.8], abs=0.2)
    assert all(size > 0 for size in seen["sizes"]) and seen["sizes"][0] != seen["sizes"][1]
    assert seen["requests"] == []
    assert seen["width"] <= 500, "a narrow window scrolls sideways"
    control = probed("control", '<img src="http://elsewhere.invalid/x.png">')
    assert control["requests"] == ["http://elsewhere.invalid/x.png"]


@pytest.mark.parametrize("width", [1440, 520])
def test_screenshot(page, tmp_path, width):
    shot = tmp_path / "page.png"
    browse(page, tmp_path, f"--screenshot={shot}", f"--window-size={width},3000")
    assert shot.read_bytes().startswith(b"\x89PNG") and shot.stat().st_size > 100_000
