"""What a run says of its task: prompts' mean lengths and pass rates, and the spread of lengths."""

import numpy as np

from cost.types import IntArray
from launch.cli.refusals import UserError
from launch.study.simulation.measured import MeasuredRun
from launch.study.simulation.task import MeasuredPrompts, logit, sigmoid

NUM_QUANTILES = 11
LEAST_PASS_RATE = 0.01


def seen_prompts(run: MeasuredRun, prompt_tokens: IntArray) -> tuple[MeasuredPrompts, float]:
    """Fit every prompt's mean length and pass rate, and the logits gained in a step."""
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
    limit, cut = float(run.config["rollout"]["max_tokens"]), truncated_share(run)
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


def truncated_share(run: MeasuredRun) -> float:
    """Return the share of the run's responses that the limit cut."""
    return float(run["cost/truncated_responses"][-1] / max(run["cost/responses"][-1], 1.0))


def quantiles(samples: list[list[int]], limit: int) -> list[float]:
    """Return quantiles of lengths over their group's mean, responses at the limit left out."""
    groups = [[length for length in group if length < limit] for group in samples]
    relative = [np.array(group) / np.mean(group) for group in groups if group]
    if not relative:
        return [1.0, 1.0]
    places = np.linspace(0, 1, NUM_QUANTILES)
    return [round(float(value), 4) for value in np.quantile(np.concatenate(relative), places)]
