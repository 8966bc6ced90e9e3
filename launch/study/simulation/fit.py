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

o_t = min(max(g_t - w_t, 0), u_t) are the seconds in which both computed: generation begins with the
step, the update after the wait. Of them the learners lose the share k, the engines a share of their
own.

Of the engine seconds a share is of decode steps (step_seconds), the rest of tokens, prefilled or
decoded alike (sequence_seconds = prefill_token_seconds: prompts and responses of one run grow
together, it cannot tell them apart). For every such share three things follow: the speed of the
engines alone from the run's evaluations, when no learner is at work; what updates take of it from
the seconds in generation; the speed of the learners from the seconds in updates. The share is then
the one that predicts best the step seconds, which hang on how waits and overlaps alternate: steps
cost most where few sequences run, at the end of a batch that no other follows.

A run whose evaluations cannot be timed (`evaluation.every`, or none) never shows the engines alone
for long; updates are then taken to slow them as much as they slow updates.

What one run cannot show is left out: costs per sequence, of more engines or learners, failures.
`learning.noise_responses` is stated, not fitted.
"""

import asyncio
import itertools
import math
from dataclasses import dataclass, replace

import numpy as np

from cost.types import FloatArray, IntArray, Ticket
from launch.program import UserError
from launch.study.simulation import clock
from launch.study.simulation.engine import EngineSpeed, SimulatedEngine
from launch.study.simulation.measured import MeasuredRun
from launch.study.simulation.policy import SimulatedPolicy
from launch.study.simulation.profile import (
    LearnerSpeed,
    LearningLaw,
    MeasuredPrompts,
    Profile,
    PublishSpeed,
    ResponseLengths,
    logit,
    sigmoid,
)
from launch.study.simulation.study import Outcome, simulate

NUM_ROUNDS = 3
"""Of scaling and simulating in turns."""
NOISE_RESPONSES = 128.0
"""Stated: of the order of the quickstart's batch."""
MOST_LOST_SHARE = 0.5
"""Two that share everything get half of it each."""
LEAST_OVERLAP_SHARE = 0.05
"""Of the seconds in generation beside updates; below it nothing is told of a slowdown."""
TINY_GAIN = 1e-6
NUM_QUANTILES = 11
LEAST_PASS_RATE = 0.01


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
    prompts, gain = _prompts(run, prompt_tokens)
    limit = int(run.config["rollout"]["max_tokens"])
    still = run["publish/seconds"]
    scheduler, layout = run.scheduler(), run.layout
    profile = Profile(
        source=f"measured: fitted on a run of {run.num_steps} steps, "
        f"{scheduler.tickets_per_step} x {scheduler.group_size} responses, "
        f"max_staleness {layout.max_staleness}",
        accelerator="GPU" if run.config["resources"].get("use_gpu") else "CPU core",
        max_tokens=limit,
        surprise_per_token=float(
            run["rollout/surprise_mean"].sum() / run["rollout/length_mean_tokens"].sum()
        ),
        prompts=prompts,
        lengths=ResponseLengths(
            quantiles=_quantiles(run.samples, limit), truncated_share=_truncated_share(run)
        ),
        learning=LearningLaw(gain_logits=0.0, noise_responses=NOISE_RESPONSES),
        engine=EngineSpeed(
            max_num_seqs=run.config["rollout"]["engine"]["max_num_seqs"],
            step_seconds=1e-3,
            sequence_seconds=1e-3,
            prefill_token_seconds=1e-3,
            accelerators=run.config["resources"]["tensor_parallel_size"],
        ),
        learner=LearnerSpeed(token_seconds=1e-4, row_tokens=run.config["learner"]["row_tokens"]),
        publish=PublishSpeed(
            seconds=float(still.mean()),
            probe_seconds=float(np.maximum(run["loop/publish_seconds"] - still, 0).mean()),
        ),
    )
    profile = _with_engine(_with_learner(profile, run), run)
    # Counted where pass rates stay what they are: once nearly all pass, hardly any carry gradient.
    tiny = LearningLaw(gain_logits=TINY_GAIN, noise_responses=NOISE_RESPONSES)
    share = _gain_at(replace(profile, learning=tiny), run) / TINY_GAIN
    law = replace(tiny, gain_logits=max(gain, 0.0) / share if share else 0.0)
    profile = replace(profile, learning=law)
    for _ in range(NUM_ROUNDS):
        profile = _with_pass_rate(profile, run, simulate(profile, scheduler, layout))
    return profile


def _gain_at(profile: Profile, run: MeasuredRun) -> float:
    """Logits gained in a step of the simulated run."""
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


def _prompts(run: MeasuredRun, prompt_tokens: IntArray) -> tuple[MeasuredPrompts, float]:
    """Every prompt's mean length and pass rate, and the logits gained in a step."""
    responses = np.diff(run["cost/selectable_responses"], prepend=0.0) / run.layout.num_epochs
    tokens = run["cost/step_selectable_tokens"] - run["cost/step_selectable_response_tokens"]
    seen = responses > 0
    if seen.sum() < 4:
        raise UserError("fit needs at least 4 steps with usable rewards; take a longer run")
    x = tokens[seen] / responses[seen]
    y = run["rollout/length_mean_tokens"][seen]
    rates = run["rollout/pass_rate"][seen]
    step = np.arange(run.num_steps, dtype=np.float64)[seen]
    centre = float(x.mean())
    ones = np.ones_like(x)
    spread = x - centre if np.ptp(x) > 1e-6 * centre else np.zeros_like(x)
    length = np.linalg.lstsq(np.stack([ones, spread], 1), y, rcond=None)[0]
    logits = logit(np.clip(rates, LEAST_PASS_RATE, 1 - LEAST_PASS_RATE))
    passing = np.linalg.lstsq(np.stack([ones, spread, step], 1), logits, rcond=None)[0]
    away = prompt_tokens - centre
    limit, cut = float(run.config["rollout"]["max_tokens"]), _truncated_share(run)
    means = length[0] + length[1] * away
    # Responses that run to the limit are drawn apart from the others.
    means = (means - cut * limit) / (1 - cut) if cut < 1 else means
    # No prompt is believed to be shorter or longer than any sample or response could be.
    shortest = float(min(min(group) for group in run.samples))
    return (
        MeasuredPrompts(
            tokens=[int(count) for count in prompt_tokens],
            mean_tokens=[round(float(m), 2) for m in np.clip(means, min(shortest, limit), limit)],
            pass_rates=[
                round(float(rate), 4)
                for rate in np.clip(
                    sigmoid(passing[0] + passing[1] * away), LEAST_PASS_RATE, 1 - LEAST_PASS_RATE
                )
            ],
        ),
        float(passing[2]),
    )


def _truncated_share(run: MeasuredRun) -> float:
    return float(run["cost/truncated_responses"][-1] / max(run["cost/responses"][-1], 1.0))


def _quantiles(samples: list[list[int]], limit: int) -> list[float]:
    """Quantiles of lengths over their group's mean, responses at the limit left out."""
    groups = [[length for length in group if length < limit] for group in samples]
    relative = [np.array(group) / np.mean(group) for group in groups if group]
    if not relative:
        return [1.0, 1.0]
    places = np.linspace(0, 1, NUM_QUANTILES)
    return [round(float(value), 4) for value in np.quantile(np.concatenate(relative), places)]


def _with_learner(profile: Profile, run: MeasuredRun) -> Profile:
    """Solve the learners' equations."""
    update, wait = run["loop/update_seconds"], run["loop/wait_seconds"]
    overlap = np.clip(run["loop/generate_seconds"] - wait, 0, update)
    trained = run["cost/step_trained_tokens"] * run.layout.num_epochs
    costs = np.stack([np.ones(run.num_steps), trained], 1)
    fixed, token, lost = non_negative(np.column_stack([costs, overlap]), update)
    if lost > MOST_LOST_SHARE:
        lost = MOST_LOST_SHARE
        fixed, token = non_negative(costs, update - lost * overlap)
    return replace(
        profile,
        learner=replace(profile.learner, update_seconds=fixed, token_seconds=token),
        learner_slowdown=1 / (1 - lost),
    )


def _with_engine(profile: Profile, run: MeasuredRun) -> Profile:
    """Search for the split of the engines' seconds into those of steps and of tokens."""
    profile = replace(profile, engine_slowdown=profile.learner_slowdown)
    counted = simulate(profile, run.scheduler(), run.layout)
    tokens = float(counted.response_tokens + counted.prefill_tokens)
    seconds = float(run["loop/generate_seconds"].sum()) * run.layout.num_engines
    evaluation = _evaluation(run, profile)

    def attempt(share: float) -> tuple[float, Profile]:
        """Return how wrong a share is, and the profile with it."""
        found = _with_costs(
            profile,
            share * seconds / counted.decode_steps,
            (1 - share) * seconds / tokens,
        )
        for _ in range(NUM_ROUNDS):
            outcome = simulate(found, run.scheduler(), run.layout)
            predicted = outcome.steps[-1].seconds
            errors = [predicted / float(run.step_seconds.sum()) - 1]
            if evaluation is not None:
                errors.append(evaluation.spent(found) / evaluation.seconds - 1)
            found = _scaled(found, run, outcome, evaluation)
        return float(np.mean(np.square(errors))), found

    attempts = {share: attempt(share) for share in (0.0, 0.25, 0.5, 0.75, 1.0)}
    for width in (0.125, 0.0625):
        best = min(attempts, key=lambda share: attempts[share][0])
        for share in (best - width, best + width):
            if 0 <= share <= 1:
                attempts[share] = attempt(share)
    return min(attempts.values(), key=lambda found: found[0])[1]


def _scaled(
    profile: Profile, run: MeasuredRun, outcome: Outcome, evaluation: "Evaluation | None"
) -> Profile:
    """Make engines and learners faster or slower by what a simulated run was off."""
    engine, learner = (
        float(run[f"loop/{part}_seconds"].sum())
        / max(sum(getattr(step, f"{part}_seconds") for step in outcome.steps), 1e-9)
        for part in ("generate", "update")
    )
    if evaluation is not None:
        off = evaluation.spent(profile) * engine / evaluation.seconds
        alone, lost = _without_learners(profile, outcome, off)
        profile = replace(profile, engine_slowdown=1 / (1 - lost))
        engine *= alone
    scaled = _with_costs(
        profile,
        profile.engine.step_seconds * engine,
        profile.engine.sequence_seconds * engine,
    )
    return replace(
        scaled,
        learner=replace(
            profile.learner,
            update_seconds=profile.learner.update_seconds * learner,
            token_seconds=profile.learner.token_seconds * learner,
        ),
    )


def _without_learners(profile: Profile, outcome: Outcome, off: float) -> tuple[float, float]:
    """Shift engine seconds between work and what updates take, their sum left as it is.

    Args:
        profile: As simulated.
        outcome: Of the simulation.
        off: Engine seconds without learners, over the measured ones.

    Returns:
        Factor on the engines' costs, and the share of the seconds beside updates that is lost.
    """
    lost = 1 - 1 / profile.engine_slowdown
    seconds = sum(step.generate_seconds for step in outcome.steps)
    beside = sum(
        min(max(step.generate_seconds - step.wait_seconds, 0.0), step.update_seconds)
        for step in outcome.steps
    )
    if beside < LEAST_OVERLAP_SHARE * seconds:
        return 1.0, lost
    work = seconds - lost * beside
    lost = min(max((seconds - work / off) / beside, 0.0), MOST_LOST_SHARE)
    return (seconds - lost * beside) / work, lost


def _with_costs(profile: Profile, step_seconds: float, token_seconds: float) -> Profile:
    engine = replace(
        profile.engine,
        step_seconds=step_seconds,
        sequence_seconds=token_seconds,
        prefill_token_seconds=token_seconds,
    )
    return replace(profile, engine=engine)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All evaluations of a run together."""

    steps: float
    """Decode steps of one engine."""
    tokens: float
    """Prefilled and decoded by one engine."""
    seconds: float

    def spent(self, profile: Profile) -> float:
        """Seconds that they take by a profile."""
        engine = profile.engine
        return self.steps * engine.step_seconds + self.tokens * engine.sequence_seconds


def _evaluation(run: MeasuredRun, profile: Profile) -> Evaluation | None:
    """What the run's evaluations took; None where that is not known."""
    summary, settings = run.summary, run.config["evaluation"]
    lengths = [summary.get(f"length_mean_{when}") for when in ("before", "after")]
    measured = [float(mean) for mean in lengths if mean is not None and math.isfinite(mean)]
    seconds = float((summary.get("seconds") or {}).get("evaluate") or 0.0)
    if not measured or seconds <= 0 or settings.get("every"):
        return None
    num_prompts = int(run.config["held_out"].get("num_prompts") or 0)
    if not num_prompts:
        return None
    samples = [int(settings["num_samples"]), *([1] if settings["greedy"] else [])]
    steps = tokens = 0.0
    for mean in measured:
        for count in samples:
            more = clock.run(_evaluate(profile, mean, num_prompts, count, run.layout.num_engines))
            steps, tokens = steps + more[0], tokens + more[1]
    return Evaluation(steps, tokens, seconds)


async def _evaluate(
    profile: Profile, mean_tokens: float, num_prompts: int, num_samples: int, num_engines: int
) -> tuple[float, float]:
    """Steps and tokens of one engine's share of an evaluation, lengths scaled to their mean."""
    table = profile.prompts.table(0)
    scale = mean_tokens / float(table.mean_tokens.mean())
    scaled = replace(table, mean_tokens=np.maximum(table.mean_tokens * scale, 1.0))
    policy = SimulatedPolicy(profile, scaled, 0)
    engine = SimulatedEngine(profile.engine, prefix_caching=False)
    running = []
    for number in range(num_prompts // num_engines):
        index = number % len(table.tokens)
        ticket = Ticket(number, index, num_samples, 1.0, 1.0, profile.max_tokens)
        lengths, _ = policy.lengths(ticket)
        running.append(engine.generate(int(table.tokens[index]), lengths.tolist()))
    await asyncio.gather(*running)
    return engine.steps, float(engine.response_tokens + engine.prefill_tokens)


def non_negative(matrix: FloatArray, target: FloatArray) -> list[float]:
    """Least squares with no negative coefficient: [R, C] and [R] give C numbers.

    Exact for the few columns there are: the best of the plain solutions on every subset of columns
    that has no negative number in it.
    """
    scale = np.linalg.norm(matrix, axis=0)
    columns = [index for index in range(matrix.shape[1]) if scale[index] > 0]
    best, least = np.zeros(matrix.shape[1]), float(target @ target)
    for size in range(1, len(columns) + 1):
        for chosen in itertools.combinations(columns, size):
            picked = list(chosen)
            part = matrix[:, picked] / scale[picked]
            found, _, rank, _ = np.linalg.lstsq(part, target, rcond=None)
            if rank < size or found.min() < 0:
                continue
            error = float(np.sum((part @ found - target) ** 2))
            if error < least * (1 - 1e-12):
                best, least = np.zeros(matrix.shape[1]), error
                best[picked] = found / scale[picked]
    return [float(value) for value in best]
