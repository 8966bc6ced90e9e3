"""How to share accelerators out between engines and learners, with and without thinning.

profile, accelerators -> simulated splits -> the fastest of each -> SplitPlan

What thinning leaves out frees learners. Left where they are they idle; as engines they help.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from conf.studies import SimulateConfig
from cost.scheduler.config import SchedulerConfig
from cost.thinning.thinning import KeepAll
from launch.record.counter import Counter
from launch.study.simulation.sizes import Row, batch_of, layout_of, simulate_layout

COARSE_POINTS = 8
"""Splits that are tried first, evenly spaced."""


@dataclass(frozen=True, slots=True)
class SplitPlan:
    """What one number of accelerators comes to.

    Example: SplitPlan(keep_all, unmoved, thinned) of rows with 40 + 24, 40 + 24 and 52 + 12
    """

    keep_all: Row
    """All responses trained, at the best split for that."""
    unmoved: Row
    """Thinned, at the same split."""
    thinned: Row
    """Thinned, at the best split for that."""

    @property
    def rows(self) -> dict[str, Row]:
        """The three, by what people call them."""
        return {
            "keep all, best split": self.keep_all,
            "thinned, same split": self.unmoved,
            "thinned, best split": self.thinned,
        }

    def gain(self, row: Row) -> float:
        """Return how many steps a row takes in the time of one without thinning."""
        return self.keep_all.step_seconds / row.step_seconds

    def trained_share(self, row: Row) -> float:
        """Return a row's trained tokens a step over those without thinning."""
        whole = self.keep_all.trained_tokens_per_second * self.keep_all.step_seconds
        return row.trained_tokens_per_second * row.step_seconds / whole


def best_count(seconds: Callable[[int], float], most: int) -> int:
    """Return the count in [1, most] of least seconds, by a grid and then around the best of it.

    Exact where seconds first fall and then rise, as they do with the number of engines, which
    shorten generation until learning takes longer; where they are even or rough, one of the best.

    Args:
        seconds: Called once for a count, about COARSE_POINTS + 2 log2(most / COARSE_POINTS) times.
        most: At least 1.
    """
    found: dict[int, float] = {}
    stride = max(1, most // COARSE_POINTS)
    candidates = {*range(1, most + 1, stride), most}
    while True:
        found |= {count: seconds(count) for count in sorted(candidates - set(found))}
        best = min(found, key=lambda count: (found[count], count))
        if stride == 1:
            candidates = {count for count in (best - 1, best + 1) if 1 <= count <= most}
            if candidates <= set(found):
                return best
        else:
            stride = (stride + 1) // 2
            candidates = {min(max(best + side * stride, 1), most) for side in (-1, 1)}


def about_asked(most: int) -> int:
    """Return how often `best_count` asks for seconds that first fall and then rise, at the most."""
    stride = max(1, most // COARSE_POINTS)
    return min(most, len(range(1, most, stride)) + 1 + 2 * stride.bit_length())


def plan_sizes(config: SimulateConfig) -> list[SplitPlan]:
    """Find the best splits of every number of accelerators, and show how far it is."""
    # What a split takes to simulate grows with its tickets.
    work = [batch_of(config, number).tickets_per_step for number in config.accelerators]
    plans: list[SplitPlan] = []
    with Counter("planning", sum(work)) as counter:
        for accelerators in config.accelerators:

            def say(share: float, row: Row) -> None:
                done = sum(work[: len(plans)]) + share * work[len(plans)]
                name = f"{row.accelerators} accelerators, {row.engines} + {row.learners}"
                counter.to(done, name)

            plans.append(_plan(config, accelerators, say))
    return plans


def _plan(
    config: SimulateConfig, accelerators: int, say: Callable[[float, Row], None]
) -> SplitPlan:
    thinned = batch_of(config, accelerators)
    keep_all = replace(thinned, thinning=KeepAll())
    best = _best(config, keep_all, accelerators, lambda share, row: say(share / 2, row))
    unmoved = _row(config, thinned, accelerators, best.engines)
    moved = _best(config, thinned, accelerators, lambda share, row: say((1 + share) / 2, row))
    if unmoved.step_seconds <= moved.step_seconds:
        moved = unmoved
    return SplitPlan(keep_all=best, unmoved=unmoved, thinned=moved)


def _best(
    config: SimulateConfig,
    scheduler: SchedulerConfig,
    accelerators: int,
    say: Callable[[float, Row], None],
) -> Row:
    rows: dict[int, Row] = {}
    # At least one accelerator is a learner.
    most = (accelerators - 1) // config.profile.engine.accelerators

    def seconds(engines: int) -> float:
        rows[engines] = _row(config, scheduler, accelerators, engines)
        say(min(len(rows) / about_asked(most), 1.0), rows[engines])
        return rows[engines].step_seconds

    return rows[best_count(seconds, most)]


def _row(
    config: SimulateConfig, scheduler: SchedulerConfig, accelerators: int, engines: int
) -> Row:
    learners = accelerators - engines * config.profile.engine.accelerators
    layout = layout_of(config, accelerators, engines, learners)
    return simulate_layout(config, scheduler, layout)
