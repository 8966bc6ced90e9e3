"""A study and a check, laid out for people."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from launch.study.simulation.check import Comparison
from launch.study.simulation.plan import SplitPlan
from launch.study.simulation.profile import Profile
from launch.study.simulation.sizes import Row


def study_table(profile: Profile, rows: Sequence[Row], target: float | None) -> Table:
    """Lay the rows out for people."""
    table = Table(title=Text(f"{profile.accelerator}, {profile.source}", style="table.title"))
    columns = [
        "accelerators", "engines + learners", "step s", "engines idle", "slots in use",
        "learners idle", "staleness mean, max", "tokens/s generated", "accelerator s/step",
        "trained tokens per accelerator s",
    ]  # fmt: skip
    if target is not None:
        columns += [f"steps to {target:g}", "hours", "accelerator hours"]
    for column in columns:
        table.add_column(column, justify="right")
    for row in rows:
        cells = [
            f"{row.accelerators:,}",
            f"{row.engines:,} + {row.learners:,}",
            f"{row.step_seconds:.2f}",
            f"{row.engine_idle_share:.1%}",
            f"{row.engine_occupancy:.1%}",
            f"{row.learner_idle_share:.1%}",
            f"{row.staleness_mean:.2f}, {row.staleness_max:.0f}",
            f"{row.generated_tokens_per_second:,.0f}",
            f"{row.step_accelerator_seconds:,.0f}",
            f"{row.trained_tokens_per_accelerator_second:,.1f}",
        ]
        if target is not None:
            cells += [
                f"{row.steps_to_target:,.0f}",
                f"{row.hours_to_target:,.2f}",
                f"{row.accelerator_hours_to_target:,.1f}",
            ]
        table.add_row(*cells)
    return table


def plan_table(profile: Profile, plans: Sequence[SplitPlan], target: float | None) -> Table:
    """Lay the best splits out for people, three lines a number of accelerators."""
    table = Table(title=Text(f"{profile.accelerator}, {profile.source}", style="table.title"))
    columns = [
        "accelerators", "", "engines + learners", "tokens trained", "step s", "engines idle",
        "learners idle", "steps in the time of one",
    ]  # fmt: skip
    if target is not None:
        columns += [f"steps to {target:g}", "accelerator hours"]
    for column in columns:
        table.add_column(column, justify="right" if column else "left")
    for plan in plans:
        for name, row in plan.rows.items():
            cells = [
                f"{row.accelerators:,}",
                name,
                f"{row.engines:,} + {row.learners:,}",
                f"{plan.trained_share(row):.0%}",
                f"{row.step_seconds:.2f}",
                f"{row.engine_idle_share:.0%}",
                f"{row.learner_idle_share:.0%}",
                f"{plan.gain(row):.2f}",
            ]
            if target is not None:
                cells += [f"{row.steps_to_target:,.0f}", f"{row.accelerator_hours_to_target:,.1f}"]
            table.add_row(*cells)
    return table


def check_table(title: str, comparisons: Sequence[Comparison]) -> Table:
    """Lay a check out for people."""
    table = Table(title=Text(title, style="table.title"))
    for column in ("", "measured", "predicted", "predicted / measured"):
        table.add_column(column, justify="left" if not column else "right")
    for found in comparisons:
        table.add_row(
            found.name, f"{found.measured:,.3f}", f"{found.predicted:,.3f}", f"{found.ratio:.3f}"
        )
    return table
