"""A profile against a real run: the run's own configuration in simulated time."""

from dataclasses import dataclass

from launch.cli.refusals import UserError
from launch.study.simulation.measured import MeasuredRun
from launch.study.simulation.profile import Profile
from launch.study.simulation.study import simulate

TOLERANCE = 0.15
"""Largest error of the predicted step seconds that passes."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One quantity, mean over the run's steps."""

    name: str
    measured: float
    predicted: float

    @property
    def ratio(self) -> float:
        """Return predicted over measured, NaN where nothing was measured."""
        return self.predicted / self.measured if self.measured else float("nan")


def compare(profile: Profile, run: MeasuredRun) -> list[Comparison]:
    """Predict a run from its configuration; the first comparison is of the step seconds.

    An engine counts as idle while no ticket is in generation, and learners while they do not
    update, as far as a run's metrics tell.

    Raises:
        UserError: If the run is of another response limit than the profile.
    """
    limit = run.config["rollout"]["max_tokens"]
    if limit != profile.max_tokens:
        raise UserError(
            f"check takes a run with rollout.max_tokens={profile.max_tokens}, as in the profile, "
            f"got {limit!r}"
        )
    steps = simulate(profile, run.scheduler(), run.layout).steps
    count = run.num_steps
    step = float(run.step_seconds.sum())
    elapsed = steps[-1].seconds
    found = []
    for part in ("wait", "update", "publish", "generate"):
        measured = float(run[f"loop/{part}_seconds"].sum())
        predicted = sum(getattr(s, f"{part}_seconds") for s in steps)
        found.append((part, measured, predicted))
    of = {part: (measured, predicted) for part, measured, predicted in found}
    idle = [
        Comparison(f"{who} idle share", 1 - of[part][0] / step, 1 - of[part][1] / elapsed)
        for who, part in (("engine", "generate"), ("learner", "update"))
    ]
    tokens = [
        Comparison(
            f"{kind} tokens a step",
            float(run[f"cost/{kind}_tokens"][-1]) / count,
            getattr(steps[-1], f"{kind}_tokens") / count,
        )
        for kind in ("generated", "trained")
    ]
    return [
        Comparison("step seconds", step / count, elapsed / count),
        *(Comparison(f"{part} seconds", m / count, p / count) for part, m, p in found),
        *idle,
        *tokens,
        Comparison(
            "staleness",
            float(run["loop/staleness"].mean()),
            sum(s.staleness_max for s in steps) / count,
        ),
        Comparison(
            "pass rate of the batches",
            float(run["rollout/pass_rate"].mean()),
            sum(s.batch_pass_rate for s in steps) / count,
        ),
    ]


def passes(comparisons: list[Comparison]) -> bool:
    """Say whether the step seconds are predicted within the tolerance."""
    return abs(comparisons[0].ratio - 1) <= TOLERANCE
