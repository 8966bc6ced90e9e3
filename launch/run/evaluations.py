"""The evaluations of a training run: when one is made, and who is told of its result.

before the first step -> after every n-th, waited for or in the background -> after the last

How one is made is `launch.run.measuring`. An evaluation that a checkpoint finds unfinished, or that
a signal cut off, is made from its beginning when the run continues.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple
from functools import partial
from pathlib import Path
from typing import Any

from launch.record.evaluation import Evaluation
from launch.record.evaluation_file import EvaluationFile
from launch.record.outcomes import PromptOutcome, changes
from launch.record.responses import Responses
from launch.record.run_folder import RESPONSES_FOLDER
from launch.record.statistics import Estimate
from launch.record.summary import RunSummary
from launch.run.inputs import Inputs
from launch.run.measuring import measure
from launch.run.rewards import RewardWatch
from launch.run.system import System
from rollout.stopping import stopping_of


class Evaluations:
    """The evaluations of one training run; `evaluations.jsonl` has all that are finished.

    Args:
        inputs: What the run starts from.
        system: Its running parts.
        summary: What the results and seconds are told to.
        watch: Looks at what became of the rewards.
        label: What is said before "evaluation" while one goes on.
    """

    def __init__(
        self,
        inputs: Inputs,
        system: System,
        summary: RunSummary,
        watch: RewardWatch,
        label: str = "",
    ) -> None:
        config = inputs.config
        self._watch = watch
        self._settings = config.evaluation
        self._measure = partial(
            measure,
            system.rollouts,
            inputs.sets,
            config.evaluation,
            max_tokens=config.rollout.max_tokens,
            version=lambda: system.version,
            label=label,
            responses=self._responses(inputs) if config.evaluation.write_responses else None,
        )
        self._summary = summary
        self._file = EvaluationFile(Path(config.run_dir))
        self._background: asyncio.Task[Evaluation] | None = None
        # Whether one is due that the loop waits for, or was cut off and is to be made again.
        self._again = False
        # Of the evaluation before the run, sampled and greedy: what changes are measured against.
        self._before: tuple[Sequence[PromptOutcome], Sequence[PromptOutcome]] = ((), ())

    @staticmethod
    def _responses(inputs: Inputs) -> Callable[[int], Responses]:
        folder, tokenizer = Path(inputs.config.run_dir), inputs.tokenizer
        model = inputs.config.model
        stopping = stopping_of(model.path, tokenizer, model.stop_strings)
        return lambda version: Responses(
            folder / RESPONSES_FOLDER / f"step-{version}.jsonl", tokenizer, stopping
        )

    async def take(self, when: str) -> dict[str, float]:
        """Measure the policy while nothing else goes on; `when` is "before" or "after".

        Returns:
            Metrics of every set, as `launch.record.evaluation.Evaluation.metrics` has them.

        Raises:
            UserError: If the reward fails too often before anything is learned.
        """
        found = await self._measure(greedy=self._settings.greedy)
        # What was learned is worth more than a broken reward of an evaluation set. A run that ends
        # by it before it learns leaves its folder free.
        self._watch.look_at(found, stop=when == "before")
        self._file.add(when, found)
        sampled, greedy = found.held_out()
        changed = self._changes(found) if when == "after" else {}
        self._summary.evaluation(when, sampled, greedy, seconds=found.seconds, changes=changed)
        if when == "before":
            self._before = found.held_out_outcomes()
        return found.metrics()

    @property
    def knows_before(self) -> bool:
        """Whether the policy was measured before the run."""
        return bool(self._before[0])

    def _changes(self, found: Evaluation) -> dict[str, Estimate]:
        """Say how far the held-out figures are from those before the run, prompt by prompt."""
        k = found.num_samples
        sampled, greedy = (
            changes(before, after, k) if len(before) == len(after) else {}
            for before, after in zip(self._before, found.held_out_outcomes(), strict=True)
        )
        return sampled | ({"greedy": greedy["pass_rate"]} if greedy else {})

    async def after_step(self, step: int) -> dict[str, float]:
        """Return the metrics of an evaluation that is ready after a step, if any.

        Unless it goes on in the background, it is of the version just published: nothing is
        published while the loop waits for it.
        """
        due = bool(self._settings.every) and step % self._settings.every == 0
        if not self._settings.background:
            self._again = due
            return await self.make_up()
        metrics: dict[str, float] = {}
        # Two at once would only slow each other down.
        if due or (self._background is not None and self._background.done()):
            metrics = await self.finish_background()
        if due:
            self._background = self._begin_background()
        return metrics

    async def make_up(self) -> dict[str, float]:
        """Make the evaluation that is due after the last step, or that a signal cut off there.

        Returns:
            Metrics; none where none is due, or `go_on` began it in the background.
        """
        if not self._again:
            return {}
        found = await self._measure(greedy=False)
        self._again = False
        self._summary.evaluated_on_the_way(found.seconds)
        return self._on_the_way(found)

    async def finish_background(self) -> dict[str, float]:
        """Wait for the evaluation in the background, if there is one, and return its metrics."""
        if self._background is None:
            return {}
        found = await self._background
        self._background = None
        return self._on_the_way(found)

    def state_dict(self) -> dict[str, Any]:
        """Return whether one goes on or was cut off, and by prompt what came of that before.

        The run folder has the figures of those that are finished.
        """
        before = [[list(astuple(one)) for one in outcomes] for outcomes in self._before]
        going_on = self._again or self._background is not None
        return {"going_on": going_on, "before": before, "size": self._file.size}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`; `go_on` or `make_up` begins what was going on."""
        self._again = bool(state["going_on"])
        self._file.forget_after(state.get("size", self._file.size))
        sampled, greedy = ([PromptOutcome(*one) for one in each] for each in state["before"])
        self._before = sampled, greedy

    def go_on(self) -> None:
        """Begin once more what a checkpoint found going on, if it may go on in the background."""
        if self._again and self._settings.background:
            self._again = False
            self._background = self._begin_background()

    def _begin_background(self) -> asyncio.Task[Evaluation]:
        return asyncio.create_task(self._measure(greedy=False, quiet=True))

    def flush(self) -> None:
        """Write to the run folder what could not be written so far; OSError if that fails."""
        self._file.flush()

    def cancel(self) -> None:
        """Give up the evaluation in the background, if there is one."""
        if self._background is not None:
            self._background.cancel()

    def _on_the_way(self, found: Evaluation) -> dict[str, float]:
        self._file.add("on the way", found)
        self._watch.look_at(found, stop=False)
        sampled, _ = found.held_out()
        return found.metrics() | {
            "evaluation/pass_rate": sampled.pass_rate,
            "evaluation/pass_rate_stderr": sampled.pass_rate_stderr,
            "evaluation/pass_rate_half_width": sampled.pass_rate_half_width,
            "evaluation/length_mean_tokens": sampled.length_mean,
        }
