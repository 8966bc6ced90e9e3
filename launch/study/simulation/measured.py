"""What a real run's folder says: its configuration, its steps, its evaluations.

RUN_FOLDER: config.yaml, metrics.jsonl, samples.jsonl, summary.json
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hydra.utils import instantiate
from omegaconf import OmegaConf

from cost.scheduler.config import SchedulerConfig
from cost.types import FloatArray
from launch.program import UserError
from launch.study.simulation.study import Layout


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
            UserError: If a file is missing or the run did not finish.
        """
        path = Path(folder)
        try:
            config: Any = OmegaConf.to_container(OmegaConf.load(path / "config.yaml"))
            lines = _json_lines(path / "metrics.jsonl")
            samples = _json_lines(path / "samples.jsonl")
            summary = json.loads((path / "summary.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(
                f"fit and check take the folder of a finished training run, got {folder!r}: {error}"
            ) from error
        if len(lines) < 4 or not summary.get("completed", True):
            raise UserError(
                "fit and check take a run that finished at least 4 steps, "
                f"got {len(lines)} in {folder!r}"
            )
        keys = set.intersection(*(set(line) for line in lines))
        groups: dict[tuple[int, str], list[int]] = {}
        for sample in samples:
            group = groups.setdefault((sample["step"], sample["prompt"]), [])
            group.append(int(sample["length_tokens"]))
        return cls(
            folder=path,
            config=config,
            steps={key: np.array([line[key] for line in lines], np.float64) for key in keys},
            samples=list(groups.values()),
            summary=summary,
        )

    def __getitem__(self, key: str) -> FloatArray:
        """Return a metric over the steps [S].

        Raises:
            UserError: If the run did not measure it in every step.
        """
        if key not in self.steps:
            raise UserError(f"{self.folder}/metrics.jsonl must have {key!r} in every line")
        values: FloatArray = self.steps[key]
        return values

    @property
    def num_steps(self) -> int:
        """Return S."""
        return len(self["step"])

    @property
    def step_seconds(self) -> FloatArray:
        """Return [S] seconds from one publish to the next."""
        parts = ("wait", "update", "publish")
        seconds: FloatArray = np.sum([self[f"loop/{part}_seconds"] for part in parts], axis=0)
        return seconds

    @property
    def layout(self) -> Layout:
        """Return the run's machine and loop."""
        resources, loop, learner = (self.config[key] for key in ("resources", "loop", "learner"))
        engines = resources["num_engines"]
        return Layout(
            num_engines=engines,
            num_learners=resources["num_learners"],
            num_accelerators=engines * resources["tensor_parallel_size"]
            + resources["num_learners"],
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
            UserError: If they are of another version of this project.
        """
        try:
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


def _json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
