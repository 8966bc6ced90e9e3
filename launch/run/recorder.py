"""What is written down of a training run while it goes on.

step -> metrics, cells, samples, evaluation -> trackers, summary
state_dict <-> checkpoint
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cost.types import Selection
from launch.record.json_file import write_json
from launch.record.metrics import step_metrics
from launch.record.notices import Unwritten
from launch.record.open_trackers import OpenTrackers, open_all
from launch.record.restarts import read_restarts
from launch.record.run_folder import EVALUATIONS, SUMMARY
from launch.record.samples import samples_of
from launch.record.step import StepResult
from launch.record.summary import RunSummary
from launch.record.tracking import RunInfo, Sample
from launch.run.evaluations import Evaluations
from launch.run.inputs import Inputs
from launch.run.plan_text import objective_text
from launch.run.rewards import RewardWatch
from launch.run.system import System
from rollout.stopping import stopping_of
from rollout.types import Group


class Recorder:
    """Writes down one run.

    Args:
        inputs: What the run starts from.
        system: Its running parts.
        began: When it began, in seconds of `time.monotonic`.
        label: What is said before "evaluation" while one goes on.
    """

    def __init__(self, inputs: Inputs, system: System, *, began: float, label: str = "") -> None:
        self._label = label
        self._inputs = inputs
        self._config = inputs.config
        self._system = system
        self._began = began
        self._run_dir = Path(self._config.run_dir)
        self.watch = RewardWatch(self._config.rollout)
        self._summary, self.evaluations = self._nothing_yet()
        self._startup = (time.monotonic() - began, system.startup_seconds)
        self._summary.startup(*self._startup)
        self._stopped: float | None = None
        self._tracker: OpenTrackers | None = None
        self._tracked: Mapping[str, Any] = {}
        self.step = 0
        """The last step that was written down."""
        self._loop_began = math.nan
        self._loop_seconds = math.nan
        # Of the starts before this one, as of the step that the run went on from.
        self._earlier_counts: Mapping[str, float] = {}

    def _nothing_yet(self) -> tuple[RunSummary, Evaluations]:
        summary = RunSummary(k=self._config.evaluation.num_samples)
        return summary, Evaluations(self._inputs, self._system, summary, self.watch, self._label)

    def open(self) -> None:
        """Open the trackers, at the step that the run goes on from."""
        info = RunInfo(
            self._config.name,
            self._run_dir,
            self._inputs.resolved,
            self._config.loop.num_steps,
            first_step=self.step,
            restarts=read_restarts(self._run_dir),
        )
        again = self._stopped is not None
        self._tracker = open_all(self._config.tracker, info, self._tracked, again=again)
        # A loop that had come to its end may go on, after a death in what is behind it.
        self._loop_began, self._loop_seconds = time.monotonic(), math.nan
        self.evaluations.go_on()

    async def write(self, result: StepResult, metrics: Mapping[str, float]) -> None:
        """Write a step down, with metrics that others found for it."""
        scheduler, rollouts = self._system.scheduler, self._system.rollouts
        found = await scheduler.call("metrics") | step_metrics(result) | result.metrics
        found |= {
            "rollout/engines": float(rollouts.num_in_use),
            "rollout/tickets_in_flight": float(rollouts.num_in_flight),
        }
        found |= self._counts()
        found |= metrics
        cells = await scheduler.call("draw_cells")
        rows = await self._read_samples(result) if self._has_samples(result.step) else None
        # From here on nothing waits: a step is written down as a whole.
        self._summary.step(found)
        assert self._tracker is not None, "open() comes first"
        self._tracker.log(result.step, found)
        self._tracker.cells(result.step, cells)
        if rows is not None:
            self._tracker.samples(result.step, rows)
        self.step = result.step

    def write_afterwards(self, metrics: Mapping[str, float]) -> None:
        """Write down what an evaluation found that ended when its step was written down."""
        if metrics and self._tracker is not None:
            self._tracker.log(self.step, metrics)

    def _counts(self) -> dict[str, float]:
        """What the engines count from their own start, since that of the run."""
        rollouts = self._system.rollouts
        counts = {
            "rollout/retries": rollouts.num_retries,
            "rollout/replaced_actors": rollouts.num_replaced,
        }
        return {key: self._earlier_counts.get(key, 0.0) + own for key, own in counts.items()}

    def _has_samples(self, step: int) -> bool:
        every = self._config.loop.samples_every
        return every > 0 and step % every == 1 % every

    async def _read_samples(self, result: StepResult) -> list[Sample]:
        """Read the first groups of a step that have responses to learn from."""
        tokenizer, model = self._inputs.tokenizer, self._config.model
        stopping = stopping_of(model.path, tokenizer, model.stop_strings)

        def read(group: Group, selection: Selection) -> list[Sample]:
            texts = [stopping.text(tokenizer, each.token_ids) for each in group.trajectories]
            return samples_of(group, selection, texts, tokenizer.decode)

        there = [
            (reference.data, selection)
            for reference, selection in zip(result.groups, result.selections, strict=True)
            if reference.data is not None
        ]
        rows: list[Sample] = []
        for data, selection in there[: self._config.loop.samples_tickets]:
            # Many long responses take a while, in which heartbeats are to be heard.
            rows += await asyncio.to_thread(read, await data, selection)
        return rows

    def stop(self) -> None:
        """Let go of the files, to be opened again at an earlier step."""
        if self._tracker is not None:
            self._tracker.close({})
            self._tracker = None
        self.evaluations.cancel()
        self._stopped = time.monotonic()

    def loop_ended(self) -> None:
        """Stop the clock of the loop."""
        self._loop_seconds = self._seconds_of_loop()

    def _seconds_of_loop(self) -> float:
        """Seconds of the loop in this start until it ended or now; NaN before it begins."""
        ended = not math.isnan(self._loop_seconds)
        return self._loop_seconds if ended else time.monotonic() - self._loop_began

    def close(self, unwritten: Unwritten, *, completed: bool) -> dict[str, object]:
        """Write what the run came to, tell the trackers, and return it."""
        restarts = read_restarts(self._run_dir)
        finished = self._summary.finish(
            **self._told(),
            versions_published=self._system.version + 1,
            completed=completed,
            objective=objective_text(self._config),
            restarts=len(restarts),
            lost_steps=sum(restart.lost_steps for restart in restarts),
        )
        finished["shared_gpus"] = self._system.shared_gpus
        with unwritten.noted(EVALUATIONS):
            self.evaluations.flush()
        with unwritten.noted(SUMMARY):
            write_json(self._run_dir / SUMMARY, finished)
        if self._tracker is not None:
            tracker, self._tracker = self._tracker, None
            tracker.close(finished)
        return finished

    def state_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return {
            "step": self.step,
            "summary": self._summary.state_dict(**self._told()),
            "counts": self._counts(),
            "evaluations": self.evaluations.state_dict(),
            "trackers": {} if self._tracker is None else self._tracker.state_dict(),
        }

    def _told(self) -> dict[str, Any]:
        """What the summary does not gather by itself, of this start."""
        return {
            "total_seconds": time.monotonic() - self._began,
            "loop_seconds": self._seconds_of_loop(),
            "parity_max_logprob_difference": self._system.max_logprob_difference,
            "first_reward_failure": self.watch.first or None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`; trackers are opened with theirs."""
        self.step = state["step"]
        # That of a lost step is in no total.
        self.watch.first = ""
        # With the evaluations that are left in the run folder.
        self._summary, self.evaluations = self._nothing_yet()
        if self._stopped is None:
            self._summary.startup(*self._startup)
        else:
            # What was gathered is that of a checkpoint, and of what came since the stop. A loop
            # that does not begin again has no seconds since.
            self._began, self._loop_began = self._stopped, math.nan
        self._earlier_counts = state.get("counts", {})
        self._summary.load_state_dict(state["summary"])
        self.evaluations.load_state_dict(state["evaluations"])
        self._tracked = state["trackers"]
