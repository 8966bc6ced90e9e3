"""Asking a policy every prompt of every set: once, or when a run's turn for it comes.

sets -> measure -> `launch.record.evaluation.Evaluation` -> evaluations.jsonl, metrics, summary
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from conf.evaluation import EvaluationConfig
from conf.schema import EvaluateConfig
from cost.types import LengthReport, Ticket
from launch.record.counter import Counter
from launch.record.evaluation import Evaluation, SetResult
from launch.record.evaluation_file import EvaluationFile
from launch.record.outcomes import PromptOutcome, changes
from launch.record.startup import Startup
from launch.record.startup_times import StartupTimes
from launch.record.statistics import Estimate
from launch.record.summary import RunSummary
from launch.run.engines import ask, make_pool
from launch.run.inputs import Inputs, Sets
from launch.run.node_checks import NodeChecks
from launch.run.placement import reserve
from launch.run.remote import Watch
from launch.run.rewards import RewardWatch
from launch.run.system import System
from rollout.pool import RolloutPool
from rollout.types import Prompt


async def evaluate(config: EvaluateConfig, sets: Sets) -> Evaluation:
    """Start engines on a connected cluster, measure the policy, and end them.

    Raises:
        PlacementError: If the cluster has too little.
    """
    placement = reserve(config.resources, learners=False)
    checks = NodeChecks(config)
    try:
        await checks.check(placement.nodes())
    except BaseException:
        placement.release()
        raise
    pool = make_pool(
        config=config.rollout,
        run=config,
        placement=placement,
        scheduler=None,
        receives_weights=False,
        look_at=checks.look_at,
    )
    watch = Watch(config)
    watch.rollouts(pool)
    watch.health.start()

    async def work() -> Evaluation:
        startup = Startup(last=StartupTimes(config.model.path))
        with startup.part("engines", config.resources.num_engines) as ready:
            await pool.start(ready)
        pool.actors.join()
        return await measure(
            pool,
            sets,
            config.evaluation,
            max_tokens=config.rollout.max_tokens,
            greedy=config.evaluation.greedy,
            version=lambda: 0,
        )

    try:
        return await watch.health.guard(work())
    finally:
        watch.health.close()
        await pool.close()
        placement.release()


async def measure(
    rollouts: RolloutPool,
    sets: Sets,
    settings: EvaluationConfig,
    *,
    max_tokens: int,
    greedy: bool,
    version: Callable[[], int],
    label: str = "",
    quiet: bool = False,
) -> Evaluation:
    """Ask every prompt of every set, and show how many responses are there.

    Args:
        rollouts: Started engines.
        sets: The prompts, by name of the set.
        settings: Says how many responses a prompt gets, at which temperature, and each k.
        max_tokens: Tokens of the longest response.
        greedy: Whether to take a greedy response per prompt too.
        version: Returns the version that the engines hold when it is called.
        label: Of what it is, where that is not clear.
        quiet: Whether to show nothing.
    """
    began, first = time.monotonic(), version()
    pass_at = sorted({1, *settings.pass_at, settings.num_samples})
    num_prompts = sum(map(len, sets.values()))
    total = num_prompts * (settings.num_samples + greedy)
    name = f"{label}: evaluation" if label else "evaluation"
    with Counter(name, total, "responses", quiet=quiet) as counter:
        counted = _Counted(rollouts, counter)
        sampled = await _ask_all(
            counted, sets, settings.num_samples, settings.temperature, max_tokens, pass_at
        )
        best = await _ask_all(counted, sets, 1, 0.0, max_tokens, [1]) if greedy else None
    return Evaluation(
        first, version(), settings.num_samples, time.monotonic() - began, sampled, best
    )


@dataclass(slots=True)
class _Counted:
    """Engines, and a counter that is told of every response that is finished."""

    rollouts: RolloutPool
    counter: Counter
    done: int = 0

    async def evaluate(self, ticket: Ticket, prompt: Prompt, temperature: float) -> LengthReport:
        report = await self.rollouts.evaluate(ticket, prompt, temperature)
        self.done += ticket.num_samples
        self.counter.to(self.done)
        return report


async def _ask_all(
    rollouts: _Counted,
    sets: Sets,
    num_samples: int,
    temperature: float,
    max_tokens: int,
    pass_at: Sequence[int],
) -> dict[str, SetResult]:
    # All sets at once, so that engines run empty once and not at the end of each set.
    every = [prompt for prompts in sets.values() for prompt in prompts]
    reports = iter(
        await ask(
            rollouts,
            [replace(prompt, index=index) for index, prompt in enumerate(every)],
            num_samples=num_samples,
            temperature=temperature,
            max_tokens=max_tokens,
        )
    )
    return {
        name: SetResult.of(prompts, [next(reports) for _ in prompts], pass_at)
        for name, prompts in sets.items()
    }


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
        )
        self._summary = summary
        self._file = EvaluationFile(Path(config.run_dir))
        self._background: asyncio.Task[Evaluation] | None = None
        self._again = False
        # Of the evaluation before the run, sampled and greedy: what changes are measured against.
        self._before: tuple[Sequence[PromptOutcome], Sequence[PromptOutcome]] = ((), ())

    async def take(self, when: str) -> dict[str, float]:
        """Measure the policy while nothing else goes on; `when` is "before" or "after".

        Returns:
            Metrics of every set, as `launch.record.evaluation.Evaluation.metrics` has them.

        Raises:
            UserError: If the reward fails too often before anything is learned.
        """
        found = await self._measure(greedy=self._settings.greedy)
        self._file.add(when, found)
        # What was learned is worth more than a broken reward of an evaluation set.
        self._watch.look_at(found, stop=when == "before")
        sampled, greedy = found.held_out()
        changed = self._changes(found) if when == "after" else {}
        self._summary.evaluation(when, sampled, greedy, seconds=found.seconds, changes=changed)
        if when == "before":
            self._before = found.held_out_outcomes()
        return found.metrics()

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
            if not due:
                return {}
            found = await self._measure(greedy=False)
            self._summary.evaluated_on_the_way(found.seconds)
            return self._on_the_way(found)
        metrics: dict[str, float] = {}
        # Two at once would only slow each other down.
        if due or (self._background is not None and self._background.done()):
            metrics = await self.finish_background()
        if due:
            self._background = self._begin_background()
        return metrics

    async def finish_background(self) -> dict[str, float]:
        """Wait for the evaluation in the background, if there is one, and return its metrics."""
        if self._background is None:
            return {}
        found = await self._background
        self._background = None
        return self._on_the_way(found)

    def state_dict(self) -> dict[str, Any]:
        """Return whether one is going on, and by prompt what came of that before the run.

        The run folder has the figures of those that are finished.
        """
        before = [[list(astuple(one)) for one in outcomes] for outcomes in self._before]
        going_on = self._background is not None
        return {"going_on": going_on, "before": before, "size": self._file.size}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`; `go_on` begins what was going on."""
        self._again = bool(state["going_on"])
        self._file.forget_after(state.get("size", self._file.size))
        sampled, greedy = ([PromptOutcome(*one) for one in each] for each in state["before"])
        self._before = sampled, greedy

    def go_on(self) -> None:
        """Begin once more what a checkpoint found going on."""
        if self._again:
            self._again = False
            self._background = self._begin_background()

    def _begin_background(self) -> asyncio.Task[Evaluation]:
        return asyncio.create_task(self._measure(greedy=False, quiet=True))

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
