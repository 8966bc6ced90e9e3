"""What a real run's folder says: its configuration, its steps, its evaluations.

run folder -> MeasuredRun
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hydra.utils import instantiate

from conf.studies import require_simulated
from conf.targets import require_own_settings
from cost.scheduler.config import SchedulerConfig
from cost.types import FloatArray
from launch.cli.refusals import UserError, reading
from launch.record.run_folder import (
    CONFIG,
    METRICS,
    SAMPLES,
    metric_columns,
    read_config,
    read_samples,
    read_steps,
    read_summary,
    refused,
)
from launch.record.summary import TURNS
from launch.study.simulation.pool import UPDATE_MODES
from launch.study.simulation.system import Layout

ROOMS = {
    "seed": int, "rollout": dict, "scheduler": dict, "learner": dict, "loop": dict,
    "resources": dict,
}  # fmt: skip
"""What tells the configuration of a training run from any other."""


COUNTS = {
    "rollout.max_tokens": 1, "rollout.max_retries": 0, "rollout.engine.max_num_seqs": 1,
    "learner.num_epochs": 1, "learner.num_minibatches": 1, "loop.max_staleness": 0, "seed": 0,
    "resources.num_engines": 1, "resources.num_learners": 1, "resources.tensor_parallel_size": 1,
}  # fmt: skip
"""Settings that a simulation takes over, with the least that each may be."""
MEASURED = ("loop/", "cost/", "publish/")
"""Beginnings of metrics that every step has as a number."""
TURNS_MEAN = "rollout/turns_mean"
"""Metric that steps have where a response had more than one turn, or could have."""


@dataclass(frozen=True, slots=True)
class MeasuredRun:
    """A finished run."""

    folder: Path
    config: dict[str, Any]
    """As in config.yaml."""
    steps: dict[str, FloatArray]
    """By metric key, [S] values."""
    samples: list[list[int]]
    """Response lengths of the groups in samples.jsonl."""
    summary: dict[str, Any]

    @classmethod
    def read(cls, folder: str) -> "MeasuredRun":
        """Read a run folder.

        Raises:
            UserError: If a file is missing or damaged, if the run did not finish 4 steps, or if it
                did what is not simulated.
        """
        path = Path(folder)
        config = read_config(path, ROOMS)
        _require_counts(path, config)
        summary = read_summary(path)
        if not summary.get("completed", True):
            raise refused(path, "it did not complete; fit and check take a run that finished")
        steps = read_steps(path, at_least=4)
        if any(TURNS_MEAN in step for step in steps):
            raise refused(path, "its responses had turns, and single ones alone are simulated")
        mode = config["rollout"].get("update_mode")
        if mode not in UPDATE_MODES:
            raise refused(
                path,
                f"rollout.update_mode in {CONFIG} must be {' or '.join(UPDATE_MODES)}, which are "
                f"simulated, got {mode!r:.60}",
            )
        groups: dict[tuple[int, str], list[int]] = {}
        for sample in read_samples(path, ("prompt", "length_tokens")):
            group = groups.setdefault((sample["step"], str(sample["prompt"])), [])
            with reading(f"{path / SAMPLES} must have numbers as length_tokens", sample["step"]):
                group.append(int(sample["length_tokens"]))
        in_every = set.intersection(*(set(step) for step in steps))
        columns = metric_columns(steps)
        return cls(
            folder=path,
            config=config,
            steps={key: columns[key] for key in in_every},
            samples=list(groups.values()),
            summary=summary,
        )

    def __getitem__(self, key: str) -> FloatArray:
        """Return a metric over the steps [S].

        Raises:
            UserError: If the run did not measure it in every step.
        """
        values = self.steps.get(key)
        if values is None or (key.startswith(MEASURED) and not np.isfinite(values).all()):
            raise UserError(f"{self.folder / METRICS} must have {key!r} as a number in every line")
        return values

    @property
    def num_steps(self) -> int:
        """Return S."""
        return len(self["step"])

    @property
    def step_seconds(self) -> FloatArray:
        """Return [S] seconds from one publish to the next."""
        seconds: FloatArray = np.sum([self[f"loop/{turn}_seconds"] for turn in TURNS], axis=0)
        return seconds

    @property
    def layout(self) -> Layout:
        """Return the run's machine and loop."""
        with reading(
            "config.yaml must have the settings of launch.train; use a run of this version",
            str(self.folder),
        ):
            return self._layout()

    def _layout(self) -> Layout:
        resources, loop, learner = (self.config[key] for key in ("resources", "loop", "learner"))
        engines, learners = resources["num_engines"], resources["num_learners"]
        shared = int(self.summary.get("shared_gpus") or 0)
        return Layout(
            num_engines=engines,
            num_learners=learners,
            num_accelerators=engines * resources["tensor_parallel_size"] + learners - shared,
            colocated=shared == engines == learners,
            num_steps=self.num_steps,
            max_staleness=loop["max_staleness"],
            num_epochs=learner["num_epochs"],
            num_minibatches=learner["num_minibatches"],
            prefix_caching=self.config["rollout"]["engine"]["prefix_caching"],
            update_mode=self.config["rollout"]["update_mode"],
            max_retries=self.config["rollout"]["max_retries"],
            seed=self.config["seed"],
        )

    def scheduler(self) -> SchedulerConfig:
        """Build the run's scheduler settings.

        Raises:
            UserError: If they are of another version of this project, name other code, or need
                what is not simulated.
        """
        found = self._scheduler()
        try:
            require_simulated(found)
        except ValueError as error:
            raise refused(self.folder, f"{CONFIG} has what is not simulated: {error}") from error
        return found

    def _scheduler(self) -> SchedulerConfig:
        try:
            require_own_settings(self.config["scheduler"], "scheduler", "cost")
            return SchedulerConfig(
                **{
                    key: instantiate(value, _convert_="object")
                    if isinstance(value, dict) and "_target_" in value
                    else value
                    for key, value in self.config["scheduler"].items()
                }
            )
        except Exception as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"{self.folder}/config.yaml has scheduler settings that do not build; use a run of "
                f"this version ({reason:.300})"
            ) from error


def _require_counts(folder: Path, config: Mapping[str, Any]) -> None:
    for key, least in COUNTS.items():
        value: Any = config
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**63:
            raise refused(
                folder,
                f"{key} in {CONFIG} must be a whole number of at least {least}, got {value!r:.60}; "
                "use a run of this version",
            )
