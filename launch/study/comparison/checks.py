"""What a comparison refuses before its first run, without changing a file.

CompareConfig, its folder -> check -> the planned runs
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from yaml import YAMLError

from conf.keys import flat
from conf.programs import CompareConfig
from conf.schema import RunConfig
from conf.secrets import recorded
from launch.cli.refusals import UserError, one_line, reason_of
from launch.program import build, compose_run, hold_folder
from launch.record.atomic_files import write_atomically
from launch.record.plain_yaml import plain_yaml
from launch.record.run_folder import read_config
from launch.run.compute import compute_of
from launch.run.inputs import say_whose_code
from launch.run.kept_paths import keep_paths
from launch.run.model_folder import resolve_model
from launch.study.comparison.plan import PlannedRun, compare_config, or_move_away, plan_runs
from launch.study.comparison.results import results_of

PLAN = "comparison.yaml"
OWN_KEYS = {"name", "run_dir"}
"""Keys of a run's configuration in which it may differ from what is asked for."""
LONGEST_SHOWN = 200
"""Letters of a foreign file in a sentence."""
MOST_DRAWN = 20
"""Batches that an allocator may draw at most to fill one; more than any here does."""


def check(config: CompareConfig, folder: Path) -> list[PlannedRun]:
    """Refuse everything that can be refused, before the first run and without changing a file.

    Raises:
        UserError: With one sentence on what to change.
    """
    require_own_folder(config, folder)
    planned = plan_runs(config)
    say_whose_code(*(run.composed for run in planned[: len(config.arms)]))
    arms = built_arms(config, planned)
    for arm in arms.values():
        arm.model.path = resolve_model(arm.model.path)
        compute_of(arm)
    for run in planned:
        if run.summary() is not None:
            require_same_settings(run)
    results_of(planned)
    return planned


def built_arms(config: CompareConfig, planned: list[PlannedRun]) -> dict[str, RunConfig]:
    """Build the first run of every arm.

    Raises:
        UserError: With what is out of range, or out of every arm's reach.
    """
    arms = {run.arm: build(run.composed.copy()) for run in planned[: len(config.arms)]}
    require_reachable(config, arms)
    for name, arm in arms.items():
        if arm.resources.max_engines is not None:
            raise UserError(
                "resources.max_engines must be null in a comparison, whose runs are given the same "
                f"engines one after the other, got {arm.resources.max_engines} in arms.{name}"
            )
    return arms


def first_run(overrides: Sequence[str]) -> RunConfig:
    """Compose a comparison and check it where its model and folder need not be.

    Args:
        overrides: Of conf/compare.yaml.

    Returns:
        The first arm's run, whose resources are those of all, with the comparison's folder.

    Raises:
        UserError: With one sentence on what to change.
    """
    config = compare_config(compose_run(overrides, "compare"))
    first = next(iter(built_arms(config, plan_runs(config)).values()))
    first.run_dir = config.run_dir
    return first


def require_own_folder(config: CompareConfig, folder: Path) -> None:
    """Refuse a folder that is not this comparison's; nothing in it is changed.

    Arms and seeds may be added or left out; what runs of one name have in common may not change.

    Raises:
        UserError: With what is there and what to change.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"run_dir must be a folder, got the file {str(folder)!r}; choose another")
    if not any(folder.iterdir()):
        return
    if not (folder / PLAN).exists():
        raise UserError(
            f"run_dir must be new, empty or a comparison's, got {str(folder)!r}, which has no "
            f"{PLAN} and so is something else's or an older version's; choose another name or "
            "run_dir"
        )
    earlier = _read_plan(folder)
    now = plan_content(config)
    pairs = {key: (earlier.get(key), now[key]) for key in ("budget", "max_steps", "base")}
    pairs["budget"] = (_budget_of(earlier, earlier["arms"]), _budget_of(now, earlier["arms"]))
    pairs |= {
        f"arms.{arm}": (earlier["arms"][arm], overrides)
        for arm, overrides in now["arms"].items()
        if arm in earlier["arms"]
    }
    for key, (there, asked) in pairs.items():
        if there != asked:
            raise UserError(
                f"{str(folder)!r} holds a comparison with another {key} ({there!r} there, "
                f"{asked!r} asked for); choose another name or run_dir"
            )


def _budget_of(plan: dict[str, Any], arms: Mapping[str, Any]) -> Any:
    """What a plan gives to these arms; whatever is written instead, if it is no budget."""
    budget = plan.get("budget")
    if not isinstance(budget, dict) or not isinstance(shares := budget.get("shares", {}), dict):
        return budget
    return budget | {"shares": {arm: each for arm, each in shares.items() if arm in arms}}


def _read_plan(folder: Path) -> dict[str, Any]:
    try:
        plan: Any = plain_yaml((folder / PLAN).read_text(encoding="utf-8"))
    except (OSError, ValueError, YAMLError, RecursionError) as error:
        plan = one_line(error)
    if not isinstance(plan, dict) or not isinstance(plan.get("arms"), dict):
        raise UserError(
            f"{PLAN} in {str(folder)!r} must name the arms of a comparison, as launch.compare "
            f"writes it, got {str(plan)[:LONGEST_SHOWN]!r}; choose another name or run_dir"
        )
    return plan


def plan_content(config: CompareConfig) -> dict[str, Any]:
    """Return the content of `comparison.yaml`: the configuration without its folder."""
    content = asdict(config)
    content.pop("run_dir")
    return content


def write_plan(config: CompareConfig, folder: Path) -> None:
    """Write `comparison.yaml`, which says whose folder it is, and hold that to the program's end.

    Raises:
        UserError: If it cannot be written, or another comparison is at work there; what was there
            stays.
    """
    text = OmegaConf.to_yaml(OmegaConf.create(plan_content(config)))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Or what goes on in there would be taken for interrupted, and set aside.
        hold_folder(folder)
        write_atomically(folder / PLAN, [text.encode()])
    except OSError as error:
        raise UserError(
            f"run_dir must be writable, got {str(folder)!r}: {reason_of(error)}"
        ) from error


def require_reachable(config: CompareConfig, arms: Mapping[str, Any]) -> None:
    """Refuse a budget of tokens that no arm can spend in `max_steps` batches.

    Args:
        config: Of the comparison.
        arms: By arm its RunConfig.

    Raises:
        UserError: With what the arms could spend at most.
    """
    if config.budget.axis not in ("generated_tokens", "trained_tokens"):
        return
    most = 0
    for run in arms.values():
        step = run.responses_per_step * run.model.max_model_len
        trained = config.budget.axis == "trained_tokens"
        most = max(most, step * (run.learner.num_epochs if trained else MOST_DRAWN))
    if most * config.max_steps < config.budget.amount:
        raise UserError(
            f"budget.amount must be within reach of some arm: in max_steps = {config.max_steps} "
            f"batches none can spend more than {most * config.max_steps:,} {config.budget.axis}, "
            f"got {config.budget.amount:,.0f}"
        )


def require_same_settings(run: PlannedRun) -> None:
    """Refuse a finished run that was made with other settings, or by another version.

    Raises:
        UserError: With the first setting that differs.
    """
    with or_move_away():
        there = flat(read_config(run.run_dir))
    composed = run.composed.copy()
    keep_paths(composed, resolve_model(composed.model.path))
    asked = flat(recorded(composed))
    for key in sorted((there.keys() | asked.keys()) - OWN_KEYS):
        if there.get(key, "nothing") != asked.get(key, "nothing"):
            raise UserError(
                f"{run.run_dir} was run with other settings or by another version: {key} is "
                f"{there.get(key, 'nothing')!r} there and {asked.get(key, 'nothing')!r} now; "
                "choose another name or run_dir"
            )
