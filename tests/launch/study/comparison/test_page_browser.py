"""A comparison's page in a real browser, light and dark, in a narrow window."""

import html
import json
import re

import pytest

from launch.study.comparison.page import page
from tests.launch.record.report.test_report_browser import browse, pytestmark  # noqa: F401
from tests.launch.study.comparison.made_runs import find_in

PROBE = """
<script>
addEventListener("load", () => {
  const style = getComputedStyle(document.body);
  const found = {
    width: document.documentElement.scrollWidth, ground: style.backgroundColor, text: style.color,
    charts: document.querySelectorAll(".main-svg").length,
  };
  document.body.dataset.found = JSON.stringify(found);
});
</script>
"""


def brightness(colour):
    return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3


@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_a_narrow_window_and_can_be_read_in_the_dark(dark, tmp_path):
    rates = [0.3 + 0.01 * seed for seed in range(8)]
    other = [rate + 0.1 for rate in rates]
    text = page(find_in(a_baseline_with_a_long_name=rates, other=other, held_out=True))
    # Without the page's policy, which would stop the probe.
    file = tmp_path / "page.html"
    file.write_text(re.sub(r"<meta http-equiv[^>]*>", "", text) + PROBE, encoding="utf-8")
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    dom, console = browse(file, tmp_path, "--dump-dom", "--window-size=500,900", scheme)
    seen = json.loads(html.unescape(re.search(r'data-found="([^"]*)"', dom)[1]))
    assert console == [] and seen["charts"] > 0
    assert seen["width"] <= 500, "a narrow window scrolls sideways"
    ground, letters = brightness(seen["ground"]), brightness(seen["text"])
    assert (ground < 80 and letters > 160) if dark else (ground > 200 and letters < 100), seen
