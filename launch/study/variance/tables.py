"""What a measurement found, laid out for people."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from launch.record.formatting import number_text
from launch.record.statistics import MARGIN, t_quantile
from launch.study.variance.rules import FITTED

AGGREGATIONS = {"constant_length": "token sums", "sequence_mean": "sequence means"}
"""What the aggregations are called."""
BIAS_ROWS = {
    "squared_bias": "squared bias",
    "squared_bias_scaled": "best scale",
    "token_share": "tokens",
}


def print_tables(report: Mapping[str, Any]) -> None:
    """Print one table for the unbiased rules and one for the biased."""
    console = Console()
    _print_fits(console, report)
    first = next(iter(report["added_variance"].values()))
    budgets = list(next(iter(first.values())))
    console.print()
    console.print("Added variance over the full batch's second moment, by budget")
    console.print(_added_table(report["added_variance"], budgets))
    if report["biased"]:
        console.print()
        console.print("Biased by design: over the same second moment, at the same budgets")
        console.print(_biased_table(report["biased"], budgets))


def _print_fits(console: Console, report: Mapping[str, Any]) -> None:
    console.print(
        f"{report['model']} on {report['task']}: {report['responses']} responses, "
        f"{report['responses_with_advantage']} with an advantage, which hold "
        f"{report['advantage_token_share']:.0%} of the tokens, mean length "
        f"{report['mean_length_tokens']:.0f} tokens, pass rate {report['pass_rate']:.2f}"
    )
    for name, fit in report["norm_fit"].items():
        console.print(
            f"|g| of the summed log-probability ~ {name}^{fit['exponent']:.2f}, "
            f"r {fit['correlation']:.2f}, residual deviation {fit['residual_deviation']:.2f}"
        )
    if report["layer"] == "lm_head":
        console.print("|g| by the output head's weights alone")
    if report["head_fit"]:
        fit = report["head_fit"]
        console.print(
            f"|g| by the output head and by all weights: r {fit['correlation']:.2f} of logarithms, "
            f"{fit['rank_correlation']:.2f} of ranks"
        )
    if report["pulls"]:
        console.print(
            f"alignment {_over_batches(report, 'alignment', 3)}, of responses to one prompt"
        )
        console.print(
            f"noise scale {_over_batches(report, 'noise_scale', 0)}, "
            f"in groups of {report['group_size']}; {MARGIN} batches"
        )
    if report["fitted_exponents"]:
        exponents = report["fitted_exponents"]
        # With one batch there are no others, and no such rule.
        judged = any(FITTED in rules for rules in report["added_variance"].values())
        console.print(
            f"|g| ~ surprise^{exponents['surprise']:.2f} length^{exponents['length']:.2f} together"
            + ("; each batch is judged with exponents fitted to the others" if judged else "")
        )


def _over_batches(report: Mapping[str, Any], key: str, digits: int) -> str:
    """A figure with half of its 95% interval, where there is one."""
    value, error = report["pulls"][key], report["pulls"][f"{key}_standard_error"]
    if math.isnan(error):
        return number_text(value, digits)
    return f"{value:.{digits}f} +- {t_quantile(report['batches'] - 1) * error:.{digits}f}"


def _added_table(added: Mapping[str, Any], budgets: list[str]) -> Table:
    table = Table()
    table.add_column("rule for q", no_wrap=True)
    for aggregation in added:
        table.add_column(f"{AGGREGATIONS[aggregation]}\n{' / '.join(budgets)}", no_wrap=True)
    for rule in next(iter(added.values())):
        table.add_row(
            rule,
            *(
                _figures(rules[rule][budget]["added_variance"] for budget in budgets)
                for rules in added.values()
            ),
        )
    return table


def _biased_table(biased: Mapping[str, Any], budgets: list[str]) -> Table:
    table = Table()
    for name in ("rule", "", *(AGGREGATIONS[aggregation] for aggregation in biased)):
        table.add_column(name, no_wrap=True)
    for rule in next(iter(biased.values())):
        for row, (key, name) in enumerate(BIAS_ROWS.items()):
            table.add_row(
                "" if row else rule,
                name,
                *(
                    _figures(rules[rule][budget][key] for budget in budgets)
                    for rules in biased.values()
                ),
                end_section=row == len(BIAS_ROWS) - 1,
            )
    return table


def _figures(values: Iterable[float]) -> str:
    return " / ".join(number_text(value, 2) for value in values)
