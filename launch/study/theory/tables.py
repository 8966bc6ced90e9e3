"""What the theory's experiments found, laid out for people."""

from collections.abc import Iterator, Sequence

from rich.table import Table

from launch.record.formatting import count_text, share_text
from launch.study.theory.experiments import BAR, TUNED_SHARE, Comparison, Costs, Interval
from launch.study.theory.findings import Findings
from launch.study.theory.problems import RADIUS, Case
from launch.study.theory.proxies import ProxyError
from launch.study.theory.subset import Dropping


def tables(found: Findings) -> list[Table]:
    """Lay out one table for each question."""
    first = found.cases[0]
    return [
        _variance_table(found.comparisons, found.seeds),
        _comparison_table(found.comparisons, found.seeds),
        _cost_table(found.costs),
        _proxy_table(found.proxies, first.data),
        _dropping_table(found.dropped, first),
    ]


def verdict(comparisons: Sequence[Comparison]) -> list[str]:
    """Write a line for each of the two agreements that are asked for and one for the tuned runs."""
    lines: list[str] = []
    names = ("cost x variance of the estimate", "cost to epsilon at the bound's own step")
    for index, name in enumerate(names):
        off = [abs(each.deviations[index]) for each in comparisons]
        within = sum(value <= BAR for value in off)
        lines.append(
            f"{name}: {within} of {len(off)} ratios within {100 * BAR:.0f}% of the prediction, "
            f"the furthest {share_text(max(off))} off"
        )
    tuned = [(each.tuned, each.predicted) for each in comparisons if each.tuned]
    cheaper = sum(found.high < 1 for found, _ in tuned)
    dearer = sum(found.low > 1 for found, _ in tuned)
    held = sum(found.low <= predicted <= found.high for found, predicted in tuned)
    lines.append(
        f"cost to epsilon at each rule's best step: of {len(tuned)} ratios {cheaper} are below 1 "
        f"with their interval and {dearer} above; {held} intervals hold the prediction (no bar)"
    )
    return lines


def _variance_table(comparisons: Sequence[Comparison], num_seeds: int) -> Table:
    table = _table(
        "Cost x variance of the gradient estimate at the minimiser, cost-aware over a baseline",
        f"Probabilities from the exact norms there. {num_seeds} seeds, 95% bootstrap intervals; "
        "off: measured over predicted, less 1.",
        ("data, costs", "baseline"),
        ("predicted", "measured", "off"),
    )
    for label, each in _labelled(table, comparisons):
        table.add_row(
            label,
            each.baseline,
            f"{each.variance_predicted:.3f}",
            _interval_text(each.variance),
            f"{100 * each.deviations[0]:+.1f}%",
        )
    return table


def _comparison_table(comparisons: Sequence[Comparison], num_seeds: int) -> Table:
    table = _table(
        "Cost to epsilon, cost-aware over a baseline: below 1 is cheaper",
        f"Probabilities from Lipschitz constants. {num_seeds} seeds, 95% bootstrap intervals. "
        "Bound's step: epsilon / V, which makes time scale with V. C E|g|^2: step cost x mean "
        "squared estimate along those runs, what C V bounds. Best step: each rule's own, to "
        f"{TUNED_SHARE:g} epsilon; no agreement is claimed there, and "
        "its interval leaves out the luck of the choice.",
        ("data, costs", "baseline"),
        ("predicted", "at the bound's step", "off", "C E|g|^2", "at the best step"),
    )
    for label, each in _labelled(table, comparisons):
        table.add_row(
            label,
            each.baseline,
            f"{each.predicted:.3f}",
            _interval_text(each.bound),
            f"{100 * each.deviations[1]:+.1f}%",
            f"{each.bound_moment.ratio:.3f}",
            _interval_text(each.tuned) if each.tuned else "-",
        )
    return table


def _labelled(table: Table, comparisons: Sequence[Comparison]) -> Iterator[tuple[str, Comparison]]:
    """Name a case on its first row only, and rule it off from the one before."""
    before = ""
    for each in comparisons:
        label = f"{each.data}, {each.cost_case}"
        if before and label != before:
            table.add_section()
        yield (label if label != before else ""), each
        before = label


def _table(title: str, caption: str, names: Sequence[str], numbers: Sequence[str]) -> Table:
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    for name in names:
        table.add_column(name, no_wrap=True)
    for name in numbers:
        table.add_column(name, justify="right")
    return table


def _cost_table(costs: Sequence[Costs]) -> Table:
    table = _table(
        "What cost-aware sampling costs, in mean costs of one example",
        "Bounds are worst cases over problems with these G and c: the upper holds for every "
        "problem, the lower for the hardest with noisy components; an easier one may lie below.",
        ("data, costs",),
        (
            "examples", "epsilon", "lower bound", "measured at\nbound's step", "upper bound",
            "smaller\nepsilon", "measured at\nbest step", "best over\nbound's step",
        ),
    )  # fmt: skip
    for each in costs:
        table.add_row(
            f"{each.data}, {each.cost_case}",
            str(each.num_examples),
            f"{each.epsilon:.4f}",
            count_text(each.lower),
            count_text(each.measured),
            count_text(each.upper),
            f"{each.tuned_epsilon:.4f}",
            count_text(each.tuned),
            f"{each.tuned_multiple:.0f} x",
        )
    return table


def _proxy_table(proxies: Sequence[ProxyError], data: str) -> Table:
    table = _table(
        "Drawing by wrong proxies",
        f"C V over the optimum; {data}",
        (),
        ("errors spread over", "mean", "worst found", "never above"),
    )
    for each in proxies:
        table.add_row(
            f"{each.spread:.0f} x", f"{each.mean:.3f}", f"{each.worst:.3f}", f"{each.promised:.4f}"
        )
    return table


def _dropping_table(dropped: Sequence[Dropping], case: Case) -> Table:
    now = case.epsilon / (2 * RADIUS * float(case.norms.sum()))
    table = _table(
        "Leaving out the costliest components",
        f"{case.data}, lognormal costs. epsilon in shares of 2 R sum G; the runs above are at "
        f"{100 * now:.2g}%.",
        (),
        (
            "sigma of costs", "epsilon", "best share\nof epsilon", "components\ndropped",
            "of sum\nG sqrt(c)", "bound over that\nof keeping all",
        ),
    )  # fmt: skip
    for each in dropped:
        table.add_row(
            f"{each.sigma:g}",
            f"{100 * each.looseness:g}%",
            share_text(each.share),
            share_text(each.dropped_examples),
            share_text(each.dropped_work),
            f"{each.cost:.3f}",
        )
    return table


def _interval_text(interval: Interval) -> str:
    return f"{interval.ratio:.3f} [{interval.low:.3f}, {interval.high:.3f}]"
