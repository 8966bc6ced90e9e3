"""Train a policy: `python -m launch.train experiment=quickstart`.

    config -> prompts -> plan printed -> cluster -> system -> evaluate -> loop -> evaluate -> run folder

Everything that can be refused is refused before an actor starts. The run folder holds `config.yaml`,
`metrics.jsonl`, `summary.json`, `run.png` and the trained policy under `policy/`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from conf.schema import RunConfig, register
from launch.compose import UserError, build, prepare_run_dir, run_program
from launch.inputs import load_prompts, load_tokenizer, resolve_model

PROCESS_START = time.time()
register()


def derived_plan(config: RunConfig, num_prompts: int, num_held_out: int) -> dict[str, object]:
    """What follows from the configuration, as shown before any actor starts."""
    resources, scheduler, learner = config.resources, config.scheduler, config.learner
    tokens = config.responses_per_step * config.model.max_model_len
    return {
        "objective": _objective_of(config),
        "prompts": f"{num_prompts} to train on, {num_held_out} held out",
        "one step": f"{scheduler.tickets_per_step} tickets x {scheduler.group_size} responses = "
        f"{config.responses_per_step} responses, at most {tokens:,} tokens",
        "learning": f"{learner.num_epochs} pass(es) of {learner.num_minibatches} optimiser step(s), "
        f"at most {config.num_rows_at_most} rows of {learner.row_tokens} tokens per learner",
        "run": f"{config.loop.num_steps} steps, staleness at most {config.loop.max_staleness}",
        "placement": f"{resources.num_engines} engine(s) of {resources.tensor_parallel_size} "
        f"worker(s), {resources.num_learners} learner(s), ZeRO {learner.zero_stage}",
        "run folder": config.run_dir,
    }


def _objective_of(config: RunConfig) -> str:
    """Name which objective the run optimises (uniform over prompts, or a reweighted one)."""
    plugs = ("allocator", "thinning", "aggregation")
    biased = [
        name for name in plugs if not getattr(config.scheduler, name).objective_preserving
    ]
    if biased:
        return f"reweighted: {', '.join(biased)} changes the uniform objective"
    return "uniform over prompts: every draw and thinning is weighted by its inverse probability"


def prepare(composed: DictConfig) -> tuple[RunConfig, list[Any], list[Any]]:
    """Check everything that can be checked without a cluster.

    Returns:
        The configuration, training prompts and held-out prompts.
    """
    composed.model.path = resolve_model(composed.model.path)
    composed.run_dir = str(Path(composed.run_dir).resolve())
    config: RunConfig = build(composed)
    tokenizer = load_tokenizer(config.model.path)
    prompts = load_prompts(config.task, tokenizer, config.reward, config.max_prompt_tokens)
    held_out = load_prompts(config.held_out, tokenizer, config.reward, config.max_prompt_tokens)
    prepare_run_dir(Path(config.run_dir), composed)
    return config, prompts, held_out


async def run(config: RunConfig, composed: DictConfig, prompts: Any, held_out: Any) -> None:
    """Train on a connected cluster and leave a complete run folder."""
    from launch.loop import Plan, StepResult, train
    from launch.metrics import step_metrics
    from launch.progress import print_result
    from launch.summary import RunSummary, evaluate_statistics, write_json
    from launch.system import System
    from launch.tracking import RunInfo, open_all
    from learner.team import DivergedError

    run_dir = Path(config.run_dir)
    info = RunInfo(
        name=config.name,
        run_dir=run_dir,
        config=OmegaConf.to_container(composed, resolve=True),  # type: ignore[arg-type]
        num_steps=config.loop.num_steps,
    )
    system = await System.create(config, prompts)
    summary = RunSummary(k=config.evaluation.num_samples)
    summary.startup(time.time() - PROCESS_START, system.startup_seconds)
    tracker = open_all(config.tracker, info)
    diverged: DivergedError | None = None
    try:

        async def evaluate(when: str) -> None:
            began = time.monotonic()
            settings = config.evaluation
            reports = await system.evaluate(
                held_out, num_samples=settings.num_samples, temperature=settings.temperature,
                max_tokens=config.rollout.max_tokens,
            )
            greedy = None
            if settings.greedy:
                greedy = evaluate_statistics(
                    await system.evaluate(
                        held_out, num_samples=1, temperature=0.0,
                        max_tokens=config.rollout.max_tokens,
                    ),
                    k=1,
                )
            summary.evaluation(
                when, evaluate_statistics(reports, k=settings.num_samples), greedy,
                seconds=time.monotonic() - began,
            )

        async def on_step(result: StepResult) -> None:
            metrics = (
                step_metrics(result)
                | result.metrics
                | await system.scheduler.call("metrics")
            )
            summary.step(metrics)
            tracker.log(result.step, metrics)
            every = config.loop.save_every
            if every and result.step % every == 0:
                await system.learners.save(
                    str(run_dir / f"policy-{result.step}"), config.model.path
                )

        if config.evaluation.before:
            await evaluate("before")
        try:
            await train(
                Plan(
                    num_steps=config.loop.num_steps,
                    tickets_per_step=config.scheduler.tickets_per_step,
                    num_epochs=config.learner.num_epochs,
                    max_staleness=config.loop.max_staleness,
                    batch_deadline_seconds=config.loop.batch_deadline_seconds,
                ),
                prompts=prompts,
                scheduler=system.scheduler,
                rollouts=system.rollouts,
                learners=system.learners,
                publish=system.publish,
                on_step=on_step,
            )
        except DivergedError as error:
            diverged = error
        await system.learners.save(str(run_dir / "policy"), config.model.path)
        if config.evaluation.after and diverged is None:
            await evaluate("after")
        distribution: Mapping[str, Any] = await system.scheduler.call("distribution")
    finally:
        finished = summary.finish(
            total_seconds=time.time() - PROCESS_START,
            parity_max_logprob_difference=system.max_logprob_difference,
            versions_published=system.version + 1,
        )
        write_json(run_dir / "summary.json", finished)
        tracker.close(finished)
        await system.close()
    from launch.picture import draw_picture

    draw_picture(run_dir / "metrics.jsonl", distribution, run_dir / "run.png", summary=finished)
    print_result(finished, run_dir)
    if diverged is not None:
        raise UserError(f"{diverged}; the last good weights are in {run_dir / 'policy'}")


@hydra.main(version_base="1.3", config_path="../conf", config_name="train")
def main(composed: DictConfig) -> None:
    """Train as configured."""

    def program() -> None:
        from launch.cluster import PlacementError, connect
        from launch.progress import print_plan

        config, prompts, held_out = prepare(composed)
        print_plan(derived_plan(config, len(prompts), len(held_out)))
        logging.getLogger().setLevel(logging.WARNING)
        connect(config.resources)
        try:
            asyncio.run(run(config, composed, prompts, held_out))
        except PlacementError as error:
            raise UserError(str(error)) from error

    run_program(program)


if __name__ == "__main__":
    main()
