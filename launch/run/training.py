"""One training run on a started system: what happens around the loop.

evaluate -> loop -> save -> evaluate -> summary.json, run.png
|
+-- after each step: metrics, cells, samples, evaluation, checkpoint
"""

from __future__ import annotations

import math
import time
from pathlib import Path

from conf.schema import RunConfig
from launch.record.metrics import step_metrics
from launch.record.open_trackers import OpenTrackers, open_all
from launch.record.picture import draw_picture
from launch.record.progress import Startup, print_result
from launch.record.restarts import read_restarts
from launch.record.run_folder import PICTURE, SUMMARY
from launch.record.samples import samples_of
from launch.record.step import StepResult
from launch.record.summary import RunSummary, write_json
from launch.record.told import Unwritten
from launch.record.tracking import RunInfo, Sample
from launch.run import loop
from launch.run.evaluation import Evaluations
from launch.run.inputs import Inputs
from launch.run.parts import Parts, Plan
from launch.run.plan_text import objective_text
from launch.run.rescue import rescue, say_where
from launch.run.rewards import RewardWatch
from launch.run.system import System
from rollout.stopping import stopping_of
from rollout.types import Group

SAMPLES_EVERY = 10
"""Steps between groups that are kept for people to read."""


async def train(inputs: Inputs, *, began: float) -> None:
    """Start a system on a connected cluster, train on it, and end it.

    Args:
        inputs: What the run starts from.
        began: When the program began, seconds since the epoch.

    Raises:
        UserError: If the cluster has too little, or the loss stayed non-finite.
        Exception: Whatever else ends the run; the policy as learned until then is saved.
    """
    startup = Startup()
    system = await System.create(inputs.config, inputs.prompts, startup)
    try:
        await TrainingRun(inputs, system, began=began).run(startup)
    finally:
        await system.close()


class TrainingRun:
    """One run on a started system.

    Args:
        inputs: What the run starts from.
        system: Its running parts.
        began: When it began, seconds since the epoch.
        quiet: Whether to leave the results to the caller.
    """

    def __init__(
        self, inputs: Inputs, system: System, *, began: float, quiet: bool = False
    ) -> None:
        self._inputs = inputs
        self._config = inputs.config
        self._system = system
        self._began = began
        self._quiet = quiet
        self._run_dir = Path(self._config.run_dir)
        self._restarts = read_restarts(self._run_dir)
        self._summary = RunSummary(k=self._config.evaluation.num_samples)
        self._summary.startup(time.time() - began, system.startup_seconds)
        self._watch = RewardWatch(self._config.rollout)
        self._evaluations = Evaluations(inputs, system, self._summary, self._watch)
        self._tracker: OpenTrackers | None = None
        # From then on the learners hold what nobody else has.
        self._learning = False
        self._kept: Path | None = None
        self._loop_seconds = math.nan

    async def run(self, startup: Startup) -> None:
        """Evaluate, train, save, evaluate; the run folder is complete whatever happens.

        Raises:
            UserError: If the loss stayed non-finite; the last good weights are saved.
            RunError: If the run was whole but its results or picture could not be written.
            BaseException: What else ended the run; where the policy is saved is said with it.
        """
        try:
            if self._config.evaluation.before:
                with startup.part("held-out evaluation"):
                    await self._evaluations.take("before")
            await self._train()
            if self._config.evaluation.after:
                await self._evaluations.take("after")
            distribution = await self._system.scheduler.call("distribution")
        except BaseException as error:
            said = await self._end(error)
            if said is error:
                raise
            raise said from error
        unwritten = Unwritten()
        finished = self._finish(unwritten, completed=True)
        with unwritten.noted(PICTURE):
            draw_picture(self._run_dir, distribution, summary=finished, title=self._config.name)
        if not self._quiet:
            with unwritten.noted("the result"):
                print_result(finished, self._run_dir)
        unwritten.check(f"the policy is in {self._kept}" if self._kept else "no policy was saved")

    async def _train(self) -> None:
        config = self._config
        info = RunInfo(
            config.name,
            self._run_dir,
            self._inputs.resolved,
            config.loop.num_steps,
            restarts=self._restarts,
        )
        self._tracker = open_all(config.tracker, info)
        self._learning = True
        await self._loop()
        await self._evaluations.finish_background()
        if config.loop.save_final:
            self._kept = await self._save("policy")

    async def _end(self, error: BaseException) -> BaseException:
        """Save what was learned after a failure, close the run folder, and return what to raise."""
        self._evaluations.cancel()
        if self._kept is not None:
            error = say_where(error, f"the policy is in {self._kept}")
        elif self._learning:
            error = say_where(error, await rescue(self._save, self._run_dir / "policy"))
        unwritten = Unwritten()
        with unwritten.noted("the run folder"):
            self._finish(unwritten, completed=False)
        for sentence in unwritten.sentences:
            error = say_where(error, sentence)
        return error

    async def _loop(self) -> None:
        began = time.monotonic()
        system = self._system
        parts = Parts(
            prompts=self._inputs.prompts,
            scheduler=system.scheduler,
            rollouts=system.rollouts,
            learners=system.learners,
            publish=system.publish,
            watch=self._watch,
        )
        await loop.train(plan_of(self._config), parts, self._on_step)
        self._loop_seconds = time.monotonic() - began

    async def _on_step(self, result: StepResult) -> None:
        scheduler, rollouts = self._system.scheduler, self._system.rollouts
        metrics = await scheduler.call("metrics") | step_metrics(result) | result.metrics
        metrics |= {
            "rollout/retries": float(rollouts.num_retries),
            "rollout/replaced_actors": float(rollouts.num_replaced),
            "rollout/tickets_in_flight": float(rollouts.num_in_flight),
        }
        metrics |= await self._evaluations.after_step(result.step)
        self._summary.step(metrics)
        assert self._tracker is not None
        self._tracker.log(result.step, metrics)
        self._tracker.cells(result.step, await scheduler.call("draw_cells"))
        if result.step % SAMPLES_EVERY == 1:
            self._tracker.samples(result.step, await self._read_samples(result))
        every = self._config.loop.save_every
        if every and result.step % every == 0:
            await self._save(f"policy-{result.step}")

    async def _read_samples(self, result: StepResult) -> list[Sample]:
        """Read the first group of a step that has responses to learn from."""
        for reference, selection in zip(result.groups, result.selections, strict=True):
            if reference.data is not None:
                group: Group = await reference.data
                responses = [trajectory.token_ids for trajectory in group.trajectories]
                tokenizer = self._inputs.tokenizer
                stopping = stopping_of(self._config.model.path, tokenizer)
                texts = [stopping.text(tokenizer, ids) for ids in responses]
                return samples_of(group, selection, texts)
        return []

    async def _save(self, name: str) -> Path:
        path = self._run_dir / name
        await self._system.learners.save(str(path), self._config.model.path)
        return path

    def _finish(self, unwritten: Unwritten, *, completed: bool) -> dict[str, object]:
        """Write what the run came to, tell the trackers, and return it."""
        finished = self._summary.finish(
            total_seconds=time.time() - self._began,
            parity_max_logprob_difference=self._system.max_logprob_difference,
            versions_published=self._system.version + 1,
            completed=completed,
            loop_seconds=self._loop_seconds,
            objective=objective_text(self._config),
            first_reward_failure=self._watch.first or None,
            restarts=len(self._restarts),
            lost_steps=sum(restart.lost_steps for restart in self._restarts),
        )
        with unwritten.noted(SUMMARY):
            write_json(self._run_dir / SUMMARY, finished)
        if self._tracker is not None:
            self._tracker.close(finished)
        return finished


def plan_of(config: RunConfig) -> Plan:
    """Return the numbers of the configuration that the loop goes by."""
    return Plan(
        num_steps=config.loop.num_steps,
        num_epochs=config.learner.num_epochs,
        max_staleness=config.loop.max_staleness,
        batch_deadline_seconds=config.loop.batch_deadline_seconds,
        num_engine_accelerators=config.resources.num_engines
        * config.resources.tensor_parallel_size,
        num_learners=config.resources.num_learners,
        reward_kl_coefficient=config.learner.reference.kl_in_reward,
        gradient_norm_layer=config.scheduler.gradient_norm_layer,
        calibrate_every=config.scheduler.calibrate_every,
        max_generated_tokens=config.loop.max_generated_tokens,
        max_trained_tokens=config.loop.max_trained_tokens,
        max_seconds=config.loop.max_seconds,
    )
