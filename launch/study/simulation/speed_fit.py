"""How fast a run's learners and engines were, by least squares and by search.

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
"""

import asyncio
import math
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import nnls

from cost.types import Ticket
from launch.study.simulation import clock
from launch.study.simulation.engine import SimulatedEngine
from launch.study.simulation.measured import MeasuredRun
from launch.study.simulation.policy import SimulatedPolicy
from launch.study.simulation.profile import Profile
from launch.study.simulation.study import Outcome, simulate
from launch.study.simulation.system import Layout

NUM_ROUNDS = 3
"""Of scaling and simulating in turns."""
MOST_LOST_SHARE = 0.5
"""Two that share everything get half of it each."""
LEAST_OVERLAP_SHARE = 0.05
"""Of the seconds in generation beside updates; below it nothing is told of a slowdown."""


def with_learner(profile: Profile, run: MeasuredRun) -> Profile:
    """Solve the learners' equations."""
    update, wait = run["loop/update_seconds"], run["loop/wait_seconds"]
    overlap = np.clip(run["loop/generate_seconds"] - wait, 0, update)
    passes = run.layout.num_epochs
    trained = run["cost/step_trained_tokens"] * passes / run.layout.num_learners
    costs = np.stack([np.full(run.num_steps, passes), trained], 1)
    fixed, token, lost = nnls(np.column_stack([costs, overlap]), update)[0].tolist()
    if lost > MOST_LOST_SHARE:
        lost = MOST_LOST_SHARE
        fixed, token = nnls(costs, update - lost * overlap)[0].tolist()
    return replace(
        profile,
        learner=replace(profile.learner, update_seconds=fixed, token_seconds=token),
        learner_slowdown=1 / (1 - lost),
    )


def with_engine(profile: Profile, run: MeasuredRun) -> Profile:
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
        """Return the seconds that they take by a profile."""
        engine = profile.engine
        return self.steps * engine.step_seconds + self.tokens * engine.sequence_seconds


def _evaluation(run: MeasuredRun, profile: Profile) -> Evaluation | None:
    """Return what the run's evaluations took, None where that is not known."""
    summary, settings = run.summary, run.config.get("evaluation") or {}
    lengths = [summary.get(f"length_mean_{when}") for when in ("before", "after")]
    measured = [float(mean) for mean in lengths if mean is not None and math.isfinite(mean)]
    seconds = float((summary.get("seconds") or {}).get("evaluate") or 0.0)
    if not measured or seconds <= 0 or settings.get("every"):
        return None
    # Others of their prompts take part, and nobody wrote down how many.
    if settings.get("sets"):
        return None
    num_prompts = (run.config.get("held_out") or {}).get("num_prompts")
    num_samples = settings.get("num_samples")
    if not isinstance(num_prompts, int) or not isinstance(num_samples, int):
        return None
    if num_prompts < 1 or num_samples < 1:
        return None
    samples = [num_samples, *([1] if settings.get("greedy") else [])]
    steps = tokens = 0.0
    for mean in measured:
        for count in samples:
            more = clock.run(_evaluate(profile, run.layout, mean, num_prompts, count))
            steps, tokens = steps + more[0], tokens + more[1]
    return Evaluation(steps, tokens, seconds)


async def _evaluate(
    profile: Profile, layout: Layout, mean_tokens: float, num_prompts: int, num_samples: int
) -> tuple[float, float]:
    """Return steps and tokens of the engine with most prompts, lengths scaled to a mean."""
    table = profile.prompts.table(0)
    scale = mean_tokens / float(table.mean_tokens.mean())
    scaled = replace(table, mean_tokens=np.maximum(table.mean_tokens * scale, 1.0))
    policy = SimulatedPolicy(profile, scaled, 0)
    engine = SimulatedEngine(profile.engine, prefix_caching=layout.prefix_caching)
    running = []
    for number in range(math.ceil(num_prompts / layout.num_engines)):
        index = number % len(table.tokens)
        ticket = Ticket(number, index, num_samples, 1.0, 1.0, profile.max_tokens)
        lengths, _ = policy.lengths(ticket)
        running.append(engine.generate(int(table.tokens[index]), lengths.tolist()))
    await asyncio.gather(*running)
    return engine.steps, float(engine.response_tokens + engine.prefill_tokens)
