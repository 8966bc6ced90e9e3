"""Which runs a comparison is made of: arms times seeds, composed, with a budget and a folder each.

CompareConfig -> plan_runs -> PlannedRun, each refused here if it cannot be compared
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from conf.keys import flat
from conf.programs import FRACTIONAL, BudgetConfig, CompareConfig
from conf.secrets import recorded
from launch.cli.command_line import parsed, with_quotes, without_config_dirs
from launch.cli.refusals import UserError
from launch.program import build, compose_run
from launch.record.run_folder import SUMMARY, read_summary, refused
from launch.record.wandb_tracker import LONGEST_TAG

SHARED = (
    "model",
    "task",
    "held_out",
    "reward",
    "environment",
    "rollout",
    "resources",
    "evaluation",
)
"""What all arms must have in common: the question asked, and what stays up between runs."""
TRAINED_BY = ("branching", "overlong")
"""Settings of `rollout` that belong to the method, and do not touch evaluations."""
NEEDED = (
    "pass_rate_after",
    "num_steps",
    "generated_tokens",
    "selectable_tokens",
    "trained_tokens",
)
"""What a finished run's summary must tell."""
NO_CHECKPOINTS = (
    "checkpoint.every_seconds=null",
    "checkpoint.every_steps=0",
    "checkpoint.at_end=false",
)
"""A run that was interrupted is run again; what the base or an arm says of them counts."""
NO_POLICY = "loop.save_final=false"
"""Runs are compared by what they measure; what the base or an arm says of it counts."""

_BUDGET = "given to all runs as budget or max_steps"
COMMON = {
    "seed": "given to all runs as seeds",
    "name": "given to the comparison",
    "run_dir": "given to the comparison",
    "resume": "the comparison given again, which continues after finished runs",
    "loop.num_steps": _BUDGET,
    "loop.max_generated_tokens": _BUDGET,
    "loop.max_trained_tokens": _BUDGET,
    "loop.max_compute_flops": _BUDGET,
    "loop.max_seconds": _BUDGET,
    "evaluation.before": "measured with the first arm, once for all runs of a seed",
}
"""Settings of a run that the comparison sets itself, and what is to be done instead."""


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """One arm with one seed."""

    arm: str
    seed: int
    composed: DictConfig
    run_dir: Path

    def summary(self) -> dict[str, Any] | None:
        """Return the finished run's summary; None if it has not finished.

        Raises:
            UserError: If the file is damaged or of another version.
        """
        if not (self.run_dir / SUMMARY).exists():
            return None
        with or_move_away():
            content = read_summary(self.run_dir)
        if not content.get("completed"):
            return None
        missing = [key for key in NEEDED if not isinstance(content.get(key), int | float)]
        if missing:
            raise refused(
                self.run_dir,
                f"{SUMMARY} has no {missing[0]}, so it is of another version; choose another name "
                "or run_dir",
            )
        return content


@contextmanager
def or_move_away() -> Iterator[None]:
    """Offer another way out of what makes a run of a comparison unreadable."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{error}, or move the folder away to run it again") from error


def compare_config(composed: DictConfig) -> CompareConfig:
    """Build a comparison, whose overrides keep what they take from the environment as written.

    Raises:
        UserError: With what is wrong with it.
    """
    written = recorded(composed)
    config: CompareConfig = build(composed)
    return replace(config, base=written["base"], arms=written["arms"])


def plan_runs(config: CompareConfig) -> list[PlannedRun]:
    """Compose every run, seeds outermost, so that an early stop leaves whole comparisons.

    Raises:
        UserError: If an arm does not compose, differs from the first in what must be shared, or if
            no arm can reach the budget.
    """
    folder = Path(config.run_dir).resolve()
    arms = {}
    for arm, overrides in config.arms.items():
        own = [
            *budget_overrides(config.budget, arm, config.max_steps),
            f"evaluation.before={str(arm == next(iter(config.arms))).lower()}",
        ]
        try:
            _require_free([*config.base, *overrides])
            base = [*NO_CHECKPOINTS, NO_POLICY, *config.base]
            arms[arm] = compose_run([*overrides, *own], base=base)
        except UserError as error:
            raise UserError(f"arms.{arm}: {error}") from error
    planned = []
    for seed in config.seeds:
        for arm, of_arm in arms.items():
            run_dir = folder / arm / f"seed-{seed}"
            composed = of_arm.copy()
            composed.name, composed.seed, composed.run_dir = f"{arm}-{seed}", seed, str(run_dir)
            with open_dict(composed):
                composed.tracker.pop("console", None)
            _group(composed, config.name, arm)
            planned.append(PlannedRun(arm, seed, composed, run_dir))
    _require_shared(planned)
    _require_evaluated(planned)
    _require_seconds_of_its_own(config, planned)
    return planned


def _require_free(overrides: Sequence[str]) -> None:
    """Refuse settings of a run that the comparison has for all runs, which would change nothing."""
    for override in parsed(without_config_dirs(with_quotes(overrides))[1]):
        place = COMMON.get(str(override.key_or_group))
        if place is not None:
            raise UserError(
                f"{override.key_or_group} must be left out of base and arms, and {place}, got "
                f"{override.input_line!r}"
            )


def _group(composed: DictConfig, name: str, arm: str) -> None:
    """Let a tracker that knows groups show the runs of a comparison together."""
    for tracker in composed.tracker.values():
        if "group" in tracker and "tags" in tracker:
            tracker.group = tracker.group or name
            tags = (arm, f"seed-{composed.seed}")
            tracker.tags = [*tracker.tags, *(tag[:LONGEST_TAG] for tag in tags)]


def budget_overrides(budget: BudgetConfig, arm: str, max_steps: int) -> list[str]:
    """Return the overrides that end a run of an arm with its budget."""
    bounds: dict[str, float | int | str] = {
        "max_generated_tokens": "null",
        "max_trained_tokens": "null",
        "max_compute_flops": "null",
        "max_seconds": "null",
        "num_steps": max_steps,
    }
    if budget.axis in FRACTIONAL:
        bounds[f"max_{budget.axis}"] = budget.of(arm)
    else:
        key = "num_steps" if budget.axis == "steps" else f"max_{budget.axis}"
        bounds[key] = int(budget.of(arm))
    return [f"loop.{key}={value}" for key, value in bounds.items()]


def _require_shared(planned: list[PlannedRun]) -> None:
    def shared(run: PlannedRun, key: str) -> dict[str, Any]:
        found: Any = OmegaConf.to_container(run.composed[key], resolve=False)
        for own in {"evaluation": ("before",), "rollout": TRAINED_BY}.get(key, ()):
            found.pop(own)
        return flat({key: found})

    def published(run: PlannedRun) -> str:
        lora = run.composed.learner.lora
        return f"adapters of rank {lora.rank}" if lora.publish == "adapters" else "weights"

    for run in planned:
        for key in SHARED:
            there, here = shared(planned[0], key), shared(run, key)
            for name in sorted(there.keys() | here.keys()):
                if there.get(name, "nothing") != here.get(name, "nothing"):
                    raise UserError(
                        f"arms must share {name}, or their results mean nothing together: "
                        f"{planned[0].arm} has {there.get(name, 'nothing')!r}, {run.arm} has "
                        f"{here.get(name, 'nothing')!r}"
                    )
        first, own = published(planned[0]), published(run)
        if first != own:
            raise UserError(
                "arms must share learner.lora.publish, and with adapters learner.lora.rank, which "
                f"engines are started for: {planned[0].arm} has {first}, {run.arm} has {own}"
            )


def _require_evaluated(planned: list[PlannedRun]) -> None:
    if not planned[0].composed.evaluation.after:
        raise UserError("evaluation.after must be true: it is what arms are compared by, got False")


def _require_seconds_of_its_own(config: CompareConfig, planned: list[PlannedRun]) -> None:
    if config.budget.axis == "seconds" and planned[0].composed.evaluation.background:
        raise UserError(
            "evaluation.background must be false where budget.axis is seconds: evaluations would "
            "share the engines with training and so be paid from the budget, by each arm "
            "differently, got True"
        )
