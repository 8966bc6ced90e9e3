"""One picture of a run: how well, at what cost, where probability went, where time went.

run folder, DrawDistribution, summary -> run.png
"""

import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cost.draws.distribution import DrawDistribution
from cost.types import FloatArray
from launch.record.atomic_files import write_atomically
from launch.record.held_out import HeldOut
from launch.record.restarts import first_steps_after, read_restarts
from launch.record.run_folder import METRICS, PICTURE, metric_columns, read_steps
from launch.record.smoothing import smoothed

BLUE, ORANGE, GREEN, RED, PURPLE, GREY = (
    "#3566a8",
    "#d97a1f",
    "#3a8f5c",
    "#b8404f",
    "#7a5aa6",
    "#8a8f98",
)
MOST_POINTS = 4000
TITLE_PAD = 22
"""Points between title and data, which leave room for a legend."""
STYLE: dict[Any, Any] = {
    "font.size": 9.5,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e6ea",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}


def draw_picture(
    run_dir: Path,
    distribution: DrawDistribution | None,
    *,
    summary: Mapping[str, object] | None = None,
    title: str | None = None,
) -> None:
    """Draw a run into one PNG of four panels, in its folder; a stale one has a strip for staleness.

    Dotted upright lines show where it went on after a stop.

    Args:
        run_dir: The run folder; without metrics the panels over steps stay empty.
        distribution: What the next draw would use; None leaves its panel empty.
        summary: Content of `summary.json`; its held-out pass rates and totals are marked.
        title: Stands over the picture; the name of the run folder unless given.

    Raises:
        UserError: If the metrics or restarts are damaged.
        OSError: If the picture cannot be written.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    recorded = (run_dir / METRICS).exists()
    metrics = metric_columns(read_steps(run_dir, at_least=0) if recorded else [])
    facts = summary or {}
    with rc_context(STYLE):
        layout = ConstrainedLayoutEngine(h_pad=0.1, w_pad=0.1)
        figure = Figure(figsize=(12.5, 8.6), layout=layout)
        FigureCanvasAgg(figure)
        panels = _panels(figure, metrics)
        _quality_panel(panels["quality"], metrics, facts)
        _tokens_panel(panels["tokens"], metrics)
        _probability_panel(panels["probability"], distribution)
        _time_panel(panels["time"], metrics)
        if "staleness" in panels:
            _staleness_panel(panels["staleness"], metrics)
            panels["time"].set_xlabel("")
            panels["time"].tick_params(labelbottom=False)
        steps = metrics["step"]
        for at in first_steps_after(read_restarts(run_dir), steps.tolist()):
            for name in sorted(panels.keys() - {"probability"}):
                place = (steps[at - 1] + steps[at]) / 2
                panels[name].axvline(place, color=GREY, linestyle=":", linewidth=1.5)
        figure.suptitle(
            f"{title or run_dir.resolve().name}\n",
            x=0.01,
            ha="left",
            fontsize=15,
            weight="bold",
            # A name with $ in it is no formula.
            parse_math=False,
        )
        figure.text(0.012, 0.952, _headline(facts), ha="left", va="top", color="#50555e")
        drawn = io.BytesIO()
        figure.savefig(drawn, dpi=130, format="png")
    write_atomically(run_dir / PICTURE, [drawn.getvalue()])


def _panels(figure: Any, metrics: Mapping[str, FloatArray]) -> dict[str, Any]:
    """Lay out the panels; that of staleness only where some batch was stale."""
    rows = [["quality", "tokens"], ["probability", "time"]]
    heights = [1.0, 1.0]
    if np.nan_to_num(metrics.get("loop/staleness", np.zeros(0))).max(initial=0) > 0:
        rows, heights = [*rows, ["probability", "staleness"]], [1.0, 0.78, 0.22]
    panels = figure.subplot_mosaic(rows, height_ratios=heights)
    if "staleness" in panels:
        panels["staleness"].sharex(panels["time"])
    return dict(panels)


def _quality_panel(
    axes: Any, metrics: Mapping[str, FloatArray], facts: Mapping[str, object]
) -> None:
    axes.set_title("Reward and pass rate")
    steps = metrics["step"]
    for key, label, colour in (
        ("rollout/reward_mean", "reward, as drawn", ORANGE),
        ("cost/reward_mean_uniform", "reward, as under uniform draws", BLUE),
    ):
        if key in metrics:
            axes.plot(steps, metrics[key], color=colour, alpha=0.25, linewidth=1)
            axes.plot(steps, smoothed(metrics[key]), color=colour, linewidth=2, label=label)
    seen = HeldOut.of(metrics, facts)
    if len(seen.rates):
        # Without a step there is still a policy before and after.
        places = seen.places(steps, steps[0] - 1) if len(steps) else seen.positions + 1.0
        axes.errorbar(
            places,
            seen.rates,
            yerr=seen.half_widths,
            fmt="D",
            color=GREEN,
            capsize=4,
            markersize=6,
            zorder=5,
            label="held-out pass rate (95%)",
        )
    axes.set_xlabel("step")
    axes.set_ylabel("mean per response")
    _legend_above(axes)


def _tokens_panel(axes: Any, metrics: Mapping[str, FloatArray]) -> None:
    axes.set_title("Tokens per step, prompt share included")
    steps = metrics["step"]
    # Generated is dashed and on top: it often lies where selectable does.
    series = (
        ("cost/step_selectable_tokens", "selectable", ORANGE, "-"),
        ("cost/step_trained_tokens", "trained", BLUE, "-"),
        ("loop/generated_tokens", "generated", "#30343a", "--"),
    )
    for key, kind, colour, dash in series:
        values = metrics.get(key)
        if values is not None:
            axes.plot(steps, values, color=colour, alpha=0.2, linewidth=1)
            axes.plot(steps, smoothed(values), dash, color=colour, linewidth=1.8, label=kind)
    selectable, trained = (metrics.get(key) for key, *_ in series[:2])
    if selectable is not None and trained is not None:
        saved = "saved in learning"
        low, high = smoothed(trained), smoothed(selectable)
        axes.fill_between(steps, low, high, color=ORANGE, alpha=0.12, linewidth=0, label=saved)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(_thousands)
    axes.set_xlabel("step")
    axes.set_ylabel("tokens")
    _legend_above(axes)


def _probability_panel(axes: Any, distribution: DrawDistribution | None) -> None:
    from matplotlib.colors import LogNorm

    axes.set_title("Where probability goes: one point a prompt", pad=TITLE_PAD)
    axes.set_xlabel("expected response length, tokens")
    axes.set_ylabel("expected pass rate")
    axes.set_ylim(-0.04, 1.04)
    if distribution is None:
        axes.text(0.5, 0.5, "not recorded", transform=axes.transAxes, ha="center", color=GREY)
        return
    num_prompts = len(distribution.probabilities)
    chosen = np.arange(num_prompts)
    if num_prompts > MOST_POINTS:
        chosen = np.random.default_rng(0).choice(num_prompts, MOST_POINTS, replace=False)
    multiple = num_prompts * distribution.probabilities
    # Of all prompts, for none of those that are shown may be drawn any more.
    positive = multiple[multiple > 0]
    # Symmetric about 1, so that the colour tells more from less than uniform at a glance.
    reach = max(1.25, float(np.exp(np.quantile(np.abs(np.log(positive)), 0.99))))
    multiple = multiple[chosen]
    # Likely prompts on top: they are the few that matter.
    order = np.argsort(multiple)
    points = axes.scatter(
        distribution.lengths[chosen][order],
        distribution.pass_rates[chosen][order],
        c=np.clip(multiple, 1 / reach, reach)[order],
        s=26.0,
        norm=LogNorm(1 / reach, reach),
        cmap="RdYlBu_r",
        edgecolors="#30343a",
        linewidths=0.3,
        alpha=0.9,
    )
    bar = axes.figure.colorbar(points, ax=axes, pad=0.02)
    ticks = [1 / reach, 1 / math.sqrt(reach), 1, math.sqrt(reach), reach]
    bar.set_ticks(ticks, labels=[f"{tick:.2g}" for tick in ticks])
    bar.minorticks_off()
    bar.set_label("N x draw probability (1 = uniform)")


def _time_panel(axes: Any, metrics: Mapping[str, FloatArray]) -> None:
    axes.set_title("Seconds per step and mean length")
    steps = metrics["step"]
    base = np.zeros(len(steps))
    phases = (("wait", GREY), ("update", BLUE), ("publish", GREEN))
    for phase, colour in phases:
        if f"loop/{phase}_seconds" in metrics:
            seconds = np.nan_to_num(metrics[f"loop/{phase}_seconds"])
            axes.bar(steps, seconds, 1.0, bottom=base, color=colour, alpha=0.55, label=phase)
            base = base + seconds
    axes.set_xlabel("step")
    axes.set_ylabel("seconds")
    right = axes.twinx()
    right.grid(False)
    right.spines["right"].set_visible(True)
    lengths = metrics.get("rollout/length_mean_tokens")
    if lengths is not None:
        right.plot(steps, lengths, color=RED, alpha=0.25, linewidth=1)
        right.plot(steps, smoothed(lengths), color=RED, linewidth=2, label="length (right)")
    right.set_ylim(bottom=0)
    right.set_ylabel("tokens", color=RED)
    right.tick_params(axis="y", colors=RED)
    _legend_above(axes, right)


def _staleness_panel(axes: Any, metrics: Mapping[str, FloatArray]) -> None:
    axes.step(metrics["step"], metrics["loop/staleness"], color=PURPLE, linewidth=1.5, where="mid")
    axes.set_ylim(0, float(np.nanmax(metrics["loop/staleness"])) + 0.5)
    axes.yaxis.get_major_locator().set_params(integer=True, nbins=3)
    axes.set_xlabel("step")
    axes.set_ylabel("staleness,\nversions", color=PURPLE)


def _legend_above(*axes: Any) -> None:
    """Put one legend for these axes between the title and the data, where it covers nothing."""
    pairs: list[tuple[Any, str]] = []
    for each in axes:
        pairs += zip(*each.get_legend_handles_labels(), strict=True)
    axes[0].set_title(axes[0].get_title(loc="left"), pad=TITLE_PAD)
    if pairs:
        axes[0].legend(
            [handle for handle, _ in pairs],
            [label for _, label in pairs],
            loc="lower left",
            bbox_to_anchor=(-0.01, 0.995),
            ncols=len(pairs),
            columnspacing=1.1,
            handlelength=1.2,
            handletextpad=0.5,
            borderaxespad=0.2,
        )


def _headline(facts: Mapping[str, object]) -> str:
    """The run in one line, of what is known."""
    parts: list[str] = []
    rates = [facts.get(f"pass_rate_{when}") for when in ("before", "after")]
    texts = [f"{rate:.3f}" for rate in rates if isinstance(rate, float) and math.isfinite(rate)]
    if texts:
        parts.append("held-out pass rate " + " -> ".join(texts))
    for kind in ("generated", "trained"):
        tokens = facts.get(f"{kind}_tokens")
        if isinstance(tokens, int):
            parts.append(f"{tokens:,} tokens {kind}")
    restarts, lost = facts.get("restarts"), facts.get("lost_steps")
    if isinstance(restarts, int) and restarts:
        times = "restart" if restarts == 1 else "restarts"
        parts.append(f"{restarts} {times}, {lost} steps taken anew")
    saved = facts.get("saved_share")
    if isinstance(saved, float) and math.isfinite(saved):
        parts.append(f"{100 * saved:.0f}% saved in learning")
    return "   |   ".join(parts)


def _thousands(value: float, _: object = None) -> str:
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"
