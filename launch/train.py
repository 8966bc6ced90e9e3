"""Train a policy: `python -m launch.train experiment=quickstart`.

    config -> prompts -> plan -> cluster -> system -> evaluate -> loop -> evaluate -> run folder

Everything that can be refused is refused before an actor starts. The run folder holds
`config.yaml`, `metrics.jsonl`, `samples.jsonl`, `cells.jsonl`, `evaluation.json`, `summary.json`,
`run.png` and the trained policy under `policy/`.
"""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import DictConfig, OmegaConf

from conf.programs import register
from conf.schema import RunConfig
from launch.program import UserError, build, prepare_run_dir, run_program, start
from launch.run.inputs import check_context, load_prompts, load_tokenizer, resolve_model
from rollout.types import Group, Prompt

if TYPE_CHECKING:
    from launch.record.progress import Startup
    from launch.record.step import StepResult
    from launch.record.tracking import OpenTracker, Sample
    from launch.run.evaluation import Evaluation
    from launch.run.system import System

PROCESS_START = time.time()
SAMPLES_EVERY = 10
register()


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a run starts from, checked."""

    config: RunConfig
    resolved: dict[str, Any]
    """The configuration as plain values, as in `config.yaml`."""
    tokenizer: Any
    prompts: list[Prompt]
    sets: dict[str, list[Prompt]]
    """What the policy is measured on, by name of the set; see `launch.run.evaluation`."""


def prepare(composed: DictConfig) -> Inputs:
    """Check everything that can be checked without a cluster, then make the run folder.

    Raises:
        UserError: With one sentence on what to change.
    """
    from launch.run.evaluation import load_sets

    composed.model.path = resolve_model(composed.model.path)
    composed.run_dir = str(Path(composed.run_dir).resolve())
    config: RunConfig = build(composed)
    check_context(config.model.path, config.model.max_model_len)
    tokenizer = load_tokenizer(config.model.path)
    prompts = load_prompts(config.task, tokenizer, config.reward, config.max_prompt_tokens)
    sets = load_sets(config, tokenizer)
    prepare_run_dir(Path(config.run_dir), composed, "train")
    resolved: Any = OmegaConf.to_container(composed, resolve=True)
    return Inputs(config, resolved, tokenizer, prompts, sets)


def objective_text(config: RunConfig) -> str:
    """What the run optimises, in words."""
    control = config.scheduler.entropy_control
    if config.scheduler.objective_preserving:
        text = "uniform over prompts: draws and thinning are undone by weights"
    elif control is not None:
        text = (
            "reweighted: exploring tickets at other temperatures add a term that holds the entropy "
            f"near {control.target:g} nats"
        )
    else:
        text = "reweighted: the draws, thinning or aggregation chosen change the uniform objective"
    if config.learner.curvature.masks:
        text += "; biased by learner.curvature, whose mask depends on what was drawn"
    return text


def derived_plan(inputs: Inputs) -> dict[str, object]:
    """What follows from the configuration, as shown before any actor starts."""
    config = inputs.config
    resources, scheduler, learner = config.resources, config.scheduler, config.learner
    tokens = config.responses_per_step * config.model.max_model_len
    tickets = f"{scheduler.tickets_per_step} tickets"
    if scheduler.num_exploring:
        tickets = f"({tickets} + {scheduler.num_exploring} exploring)"
    measured = ", ".join(f"{len(prompts)} {name}" for name, prompts in inputs.sets.items())
    return {
        "objective": objective_text(config),
        "prompts": f"{len(inputs.prompts)} to train on; measured on {measured}",
        "one step": f"{tickets} x {scheduler.group_size} responses = "
        f"{config.responses_per_step} responses, at most {tokens:,} tokens",
        "learning": f"{learner.num_epochs} pass(es) of {learner.num_minibatches} optimiser "
        f"step(s), at most {config.num_rows_at_most} rows of {learner.row_tokens} tokens a learner",
        "run": f"{config.loop.num_steps} steps, staleness at most {config.loop.max_staleness}",
        "placement": f"{resources.num_engines} engine(s) of {resources.tensor_parallel_size} "
        f"worker(s), {resources.num_learners} learner(s), ZeRO {learner.zero_stage}, "
        f"{config.model.dtype}",
        "run folder": config.run_dir,
    }


class TrainingRun:
    """One run on a started system: what happens around the loop.

    Args:
        inputs: What the run starts from.
        system: Its running parts.
        began: When it began, seconds since the epoch.
        quiet: Whether to leave the results to the caller.
    """

    def __init__(
        self,
        inputs: Inputs,
        system: System,
        *,
        began: float = PROCESS_START,
        quiet: bool = False,
    ) -> None:
        from launch.record.summary import RunSummary

        self._began = began
        self._quiet = quiet
        self._loop_seconds = math.nan

        self._inputs = inputs
        self._config = inputs.config
        self._system = system
        self._run_dir = Path(self._config.run_dir)
        self._summary = RunSummary(k=self._config.evaluation.num_samples)
        self._summary.startup(time.time() - began, system.startup_seconds)
        self._tracker: OpenTracker | None = None
        self._evaluations: list[dict[str, Any]] = []
        self._background: asyncio.Task[Evaluation] | None = None

    async def run(self, startup: Startup) -> None:
        """Evaluate, train, save, evaluate; the run folder is complete whatever happens.

        Raises:
            UserError: If the loss stayed non-finite; the last good weights are saved.
        """
        from launch.record.picture import draw_picture
        from launch.record.progress import print_result
        from launch.record.run_folder import SUMMARY
        from launch.record.summary import write_json
        from launch.record.tracking import RunInfo, open_all
        from learner.team import DivergedError

        config, distribution, completed = self._config, None, False
        try:
            if config.evaluation.before:
                with startup.part("held-out evaluation"):
                    await self._evaluate("before")
            info = RunInfo(config.name, self._run_dir, self._inputs.resolved, config.loop.num_steps)
            self._tracker = open_all(config.tracker, info)
            try:
                await self._loop()
            except DivergedError as error:
                path = await self._save("policy")
                raise UserError(f"{error}; the last good weights are in {path}") from error
            await self._take_background()
            if config.loop.save_final:
                await self._save("policy")
            if config.evaluation.after:
                await self._evaluate("after")
            distribution = await self._system.scheduler.call("distribution")
            completed = True
        finally:
            if self._background is not None:
                self._background.cancel()
            finished = self._summary.finish(
                total_seconds=time.time() - self._began,
                parity_max_logprob_difference=self._system.max_logprob_difference,
                versions_published=self._system.version + 1,
                completed=completed,
                loop_seconds=self._loop_seconds,
                objective=objective_text(config),
            )
            write_json(self._run_dir / SUMMARY, finished)
            if self._tracker is not None:
                self._tracker.close(finished)
        draw_picture(self._run_dir, distribution, summary=finished, title=config.name)
        if not self._quiet:
            print_result(finished, self._run_dir)

    async def _loop(self) -> None:
        from launch.run.loop import Plan, train

        config, began = self._config, time.monotonic()
        await train(
            Plan(
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
                controls_entropy=config.scheduler.entropy_control is not None,
                max_generated_tokens=config.loop.max_generated_tokens,
                max_trained_tokens=config.loop.max_trained_tokens,
                max_seconds=config.loop.max_seconds,
            ),
            prompts=self._inputs.prompts,
            scheduler=self._system.scheduler,
            rollouts=self._system.rollouts,
            learners=self._system.learners,
            publish=self._system.publish,
            on_step=self._on_step,
        )
        self._loop_seconds = time.monotonic() - began

    async def _on_step(self, result: StepResult) -> None:
        from launch.record.metrics import step_metrics

        metrics = await self._system.scheduler.call("metrics")
        metrics = metrics | step_metrics(result) | result.metrics
        metrics |= {
            "rollout/retries": float(self._system.rollouts.num_retries),
            "rollout/replaced_actors": float(self._system.rollouts.num_replaced),
            "rollout/tickets_in_flight": float(self._system.rollouts.num_in_flight),
        }
        metrics |= await self._evaluate_on_the_way(result.step)
        self._summary.step(metrics)
        assert self._tracker is not None
        self._tracker.log(result.step, metrics)
        self._tracker.cells(result.step, await self._system.scheduler.call("draw_cells"))
        if result.step % SAMPLES_EVERY == 1:
            self._tracker.samples(result.step, await self._read_samples(result))
        every = self._config.loop.save_every
        if every and result.step % every == 0:
            await self._save(f"policy-{result.step}")

    async def _read_samples(self, result: StepResult) -> list[Sample]:
        """One group of the step, for people to read."""
        from launch.record.tracking import Sample

        found = next(
            (
                (group.data, selection)
                for group, selection in zip(result.groups, result.selections, strict=True)
                if group.data is not None
            ),
            None,
        )
        if found is None:
            return []
        reference, selection = found
        group: Group = await reference
        texts = self._inputs.tokenizer.batch_decode(
            [t.token_ids for t in group.trajectories], skip_special_tokens=True
        )
        rows = zip(
            texts,
            group.answers,
            group.rewards,
            group.trajectories,
            selection.advantages,
            selection.weight,
            strict=True,
        )
        return [
            Sample(
                prompt=group.prompt.text,
                response=text,
                answer=answer,
                expected=group.prompt.answer,
                reward=float(reward),
                length_tokens=len(trajectory.token_ids),
                advantage=float(advantage),
                weight=float(weight),
            )
            for text, answer, reward, trajectory, advantage, weight in rows
        ]

    async def _save(self, name: str) -> Path:
        path = self._run_dir / name
        await self._system.learners.save(str(path), self._config.model.path)
        return path

    async def _evaluate(self, when: str) -> None:
        found = await self._measure(greedy=self._config.evaluation.greedy)
        self._record(when, found)
        sampled, greedy = found.held_out()
        self._summary.evaluation(when, sampled, greedy, seconds=found.seconds)

    async def _evaluate_on_the_way(self, step: int) -> dict[str, float]:
        """Return the metrics of an evaluation that is ready after a step, if any.

        Unless it goes on in the background, it is of the version just published: nothing is
        published while the loop waits for it.
        """
        settings = self._config.evaluation
        due = bool(settings.every) and step % settings.every == 0
        if not settings.background:
            if not due:
                return {}
            found = await self._measure(greedy=False)
            self._summary.evaluated_on_the_way(found.seconds)
            return self._on_the_way_metrics(found)
        metrics: dict[str, float] = {}
        # Two at once would only slow each other down.
        if due or (self._background is not None and self._background.done()):
            metrics = await self._take_background()
        if due:
            self._background = asyncio.create_task(self._measure(greedy=False))
        return metrics

    async def _take_background(self) -> dict[str, float]:
        """Wait for the evaluation in the background, if there is one; returns its metrics."""
        if self._background is None:
            return {}
        found = await self._background
        self._background = None
        return self._on_the_way_metrics(found)

    def _on_the_way_metrics(self, found: Evaluation) -> dict[str, float]:
        self._record("on the way", found)
        sampled, _ = found.held_out()
        return found.metrics() | {
            "evaluation/pass_rate": sampled.pass_rate,
            "evaluation/pass_rate_stderr": sampled.pass_rate_stderr,
            "evaluation/length_mean_tokens": sampled.length_mean,
        }

    def _record(self, when: str, found: Evaluation) -> None:
        from launch.record.run_folder import EVALUATION
        from launch.record.summary import write_json

        self._evaluations.append({"when": when} | found.to_json())
        write_json(self._run_dir / EVALUATION, {"evaluations": self._evaluations})

    async def _measure(self, *, greedy: bool) -> Evaluation:
        from launch.run.evaluation import measure

        return await measure(
            self._system.rollouts,
            self._inputs.sets,
            self._config.evaluation,
            max_tokens=self._config.rollout.max_tokens,
            greedy=greedy,
            version=lambda: self._system.version,
        )


async def train(inputs: Inputs) -> None:
    """Train on a connected cluster."""
    from launch.record.progress import Startup
    from launch.run.system import System

    startup = Startup()
    system = await System.create(inputs.config, inputs.prompts, startup)
    try:
        await TrainingRun(inputs, system).run(startup)
    finally:
        await system.close()


@hydra.main(version_base="1.3", config_path="../conf", config_name="train")
def main(composed: DictConfig) -> None:
    """Train as configured."""

    def program() -> None:
        from launch.record.progress import print_plan
        from launch.run.cluster import cluster

        inputs = prepare(composed)
        print_plan(derived_plan(inputs))
        with cluster(inputs.config.resources):
            asyncio.run(train(inputs))

    run_program(program)


if __name__ == "__main__":
    start(main)
