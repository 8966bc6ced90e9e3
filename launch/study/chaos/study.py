"""All trials, one after the other; those that are done are not run again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from conf.chaos import ChaosConfig
from launch.cli.refusals import UserError
from launch.program import compose_run
from launch.record.json_file import write_json
from launch.study.chaos.outcomes import Trial, from_json, to_json
from launch.study.chaos.session import Session
from launch.study.chaos.strikes import strike_of
from launch.study.chaos.trial import StruckRun

TRIAL = "trial.json"


def whole_tickets(config: ChaosConfig) -> int:
    """Return the tickets that a whole run learns.

    Raises:
        UserError: If `base` is no configuration of a run.
    """
    composed = compose_run(config.base)
    if composed.loop.max_staleness:
        raise UserError("base must have loop.max_staleness=0, or the tickets of a run may vary")
    return int(config.num_steps * composed.scheduler.tickets_per_step)


def run_trials(config: ChaosConfig, tell: Callable[[Trial], None]) -> list[Trial]:
    """Return all trials, the undisturbed one first, and tell of each as it is done.

    Raises:
        UserError: If the folder cannot be written, or holds what is no trial of this study.
    """
    folder, trials = Path(config.run_dir).absolute(), []
    for number in range(config.runs + 1):
        strike = strike_of(config.seed, number, config.num_steps) if number else None
        own = folder / f"{number:04d}"
        trial = _done(own)
        if trial is not None and trial.strike != strike:
            raise UserError(f"run_dir must be new, or of this study with this seed, got {folder}")
        if trial is None:
            # What a study that was ended itself has left.
            Session(own).end()
            shutil.rmtree(own, ignore_errors=True)
            own.mkdir(parents=True)
            trial = StruckRun(config, own, number, strike).run()
            write_json(own / TRIAL, to_json(trial))
        trials.append(trial)
        tell(trial)
    return trials


def _done(folder: Path) -> Trial | None:
    file = folder / TRIAL
    if not file.exists():
        return None
    try:
        return from_json(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{file} must be a trial as it was written; remove it") from error
