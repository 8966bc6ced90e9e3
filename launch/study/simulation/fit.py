"""A profile from one real run: moments for what is generated, least squares for the seconds.

Per step t the run's metrics give u_t (loop/update_seconds), w_t (loop/wait_seconds), g_t
(loop/generate_seconds), T_t trained tokens with prompts, x_t mean prompt and y_t mean response
length, p_t pass rate.

    lengths     y_t = r0 + r1 x_t                               -> mean length of every prompt
                samples.jsonl: length over its group's mean     -> quantiles
    pass rates  logit p_t = l0 + l1 (x_t - x) + g t             -> every prompt's, gain per step;
                shifted until the simulated run passes as often as the real one
    learners    u_t = update_seconds + token_seconds T_t + k o_t, none negative;
                learner_slowdown = 1 / (1 - k)
    engines     split, scale and engine_slowdown, searched: see below
    publish     means of publish/seconds, and of what loop/publish_seconds has beyond

`launch.study.simulation.moments` has the first two, `launch.study.simulation.speed_fit` learners
and engines.

What one run cannot show is left out: costs per sequence, of more engines or learners, failures.
`learning.noise_responses` is stated, not fitted.
"""

from dataclasses import replace

import numpy as np

from cost.types import IntArray
from launch.cli.refusals import UserError
from launch.study.simulation.measured import MeasuredRun
from launch.study.simulation.moments import (
    LEAST_PASS_RATE,
    quantiles,
    seen_prompts,
    truncated_share,
)
from launch.study.simulation.profile import LearningLaw, Profile
from launch.study.simulation.speed_fit import NUM_ROUNDS, with_engine, with_learner
from launch.study.simulation.speeds import EngineSpeed, LearnerSpeed, PublishSpeed
from launch.study.simulation.study import Outcome, simulate
from launch.study.simulation.task import ResponseLengths, logit, sigmoid

NOISE_RESPONSES = 128.0
"""Stated: of the order of the quickstart's batch."""
TINY_GAIN = 1e-6


def fit(run: MeasuredRun, prompt_tokens: IntArray) -> Profile:
    """Fit a profile.

    Args:
        run: A finished run; the quieter the machine was, the better.
        prompt_tokens: [N] lengths of the run's training prompts.

    Raises:
        UserError: If the run lacks what a fit needs.
    """
    if not run.samples:
        raise UserError(f"fit needs a run with samples.jsonl filled, got {str(run.folder)!r}")
    prompts, gain = seen_prompts(run, prompt_tokens)
    limit = int(run.config["rollout"]["max_tokens"])
    still = run["publish/seconds"]
    scheduler, layout = run.scheduler(), run.layout
    profile = Profile(
        source=f"measured: fitted on a run of {run.num_steps} steps, "
        f"{scheduler.tickets_per_step} x {scheduler.group_size} responses, "
        f"max_staleness {layout.max_staleness}",
        accelerator=_accelerator(run.config["resources"].get("use_gpu")),
        max_tokens=limit,
        surprise_per_token=float(
            np.nansum(run["rollout/surprise_mean"]) / np.nansum(run["rollout/length_mean_tokens"])
        ),
        prompts=prompts,
        lengths=ResponseLengths(
            quantiles=quantiles(run.samples, limit), truncated_share=truncated_share(run)
        ),
        learning=LearningLaw(gain_logits=0.0, noise_responses=NOISE_RESPONSES),
        engine=EngineSpeed(
            max_num_seqs=run.config["rollout"]["engine"]["max_num_seqs"],
            step_seconds=1e-3,
            sequence_seconds=1e-3,
            prefill_token_seconds=1e-3,
            accelerators=run.config["resources"]["tensor_parallel_size"],
        ),
        learner=LearnerSpeed(token_seconds=1e-4),
        publish=PublishSpeed(
            seconds=float(still.mean()),
            probe_seconds=float(np.maximum(run["loop/publish_seconds"] - still, 0).mean()),
        ),
        colocated=layout.colocated,
    )
    profile = with_engine(with_learner(profile, run), run)
    # Counted where pass rates stay what they are: once nearly all pass, hardly any carry gradient.
    tiny = LearningLaw(gain_logits=TINY_GAIN, noise_responses=NOISE_RESPONSES)
    share = _gain_at(replace(profile, learning=tiny), run) / TINY_GAIN
    law = replace(tiny, gain_logits=max(gain, 0.0) / share if share else 0.0)
    profile = replace(profile, learning=law)
    for _ in range(NUM_ROUNDS):
        profile = _with_pass_rate(profile, run, simulate(profile, scheduler, layout))
    return profile


def _accelerator(use_gpu: object) -> str:
    """What one is, by `resources.use_gpu`; which of them null took, no run folder says."""
    if use_gpu is None:
        return "GPU or CPU core"
    return "GPU" if use_gpu else "CPU core"


def _gain_at(profile: Profile, run: MeasuredRun) -> float:
    """Return the logits gained in a step of the simulated run."""
    return simulate(profile, run.scheduler(), run.layout).steps[-1].gained_logits / run.num_steps


def _with_pass_rate(profile: Profile, run: MeasuredRun, outcome: Outcome) -> Profile:
    """Shift all logits by what the simulated run's pass rate was off.

    The mean of a batch's pass rates is less extreme than the pass rate of its mean prompt.
    """
    means = np.array(
        [
            np.nanmean(run["rollout/pass_rate"]),
            np.nanmean([step.batch_pass_rate for step in outcome.steps]),
        ]
    )
    measured, simulated = logit(np.clip(means, LEAST_PASS_RATE, 1 - LEAST_PASS_RATE))
    rates = sigmoid(logit(np.asarray(profile.prompts.pass_rates)) + measured - simulated)
    clipped = np.clip(rates, LEAST_PASS_RATE, 1 - LEAST_PASS_RATE)
    prompts = replace(profile.prompts, pass_rates=[round(float(rate), 4) for rate in clipped])
    return replace(profile, prompts=prompts)
