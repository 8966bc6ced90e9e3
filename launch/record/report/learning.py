"""How well the policy does, what its optimiser does, and the tokens that it took."""

import re
from collections.abc import Sequence

import plotly.graph_objects as go

from launch.record.picture import BLUE, GREEN, GREY, ORANGE, PURPLE
from launch.record.report.chart import Chart, Series, axes_of, lines, run_colour, trace_name
from launch.record.report.runs import Run
from launch.record.run_folder import at_versions

SET_RATE = re.compile(r"evaluation/[^/]+/pass_rate")
"""Metrics of a whole set; those of its sources have a part more."""


def learning_charts(runs: Sequence[Run]) -> list[Chart]:
    """Return charts of reward, pass rate and lengths, and of what may go wrong with them."""
    rate = Series("rollout/pass_rate", "while training", BLUE)
    reward = (
        Series("rollout/reward_mean", "as drawn", ORANGE),
        Series("cost/reward_mean_uniform", "as under uniform draws", BLUE),
    )
    lengths = (
        Series("rollout/length_mean_tokens", "mean", BLUE),
        Series("rollout/length_p95_tokens", "95th percentile", ORANGE),
    )
    pass_rate = lines(runs, (rate,), "share passed")
    if pass_rate is not None:
        _add_held_out(pass_rate, runs)
    return [
        Chart(
            "reward",
            "Reward",
            "Mean per response. Drawing some prompts more often moves the mean; the second line "
            "undoes that by weights.",
            lines(runs, reward, "mean reward"),
        ),
        Chart(
            "pass_rate",
            "Pass rate",
            "Line: responses of the step. Diamonds: held-out prompts, after the step that made "
            "the policy they measure; the bar is a 95% interval, Student's t over prompts.",
            pass_rate,
        ),
        *_set_charts(runs),
        Chart(
            "length",
            "Response length",
            "A response cut at the limit counts as it is.",
            lines(runs, lengths, "tokens", from_zero=True),
        ),
        *_health_charts(runs),
    ]


def _set_charts(runs: Sequence[Run]) -> list[Chart]:
    """The pass rates of each evaluation set, where there are others beside the held-out one."""
    keys = list(
        dict.fromkeys(key for run in runs for key in run.metrics if SET_RATE.fullmatch(key))
    )
    if len(keys) < 2:
        return []
    colours = (GREEN, BLUE, ORANGE, PURPLE, GREY)
    sets = [
        Series(key, key.split("/")[1], colours[at % len(colours)]) for at, key in enumerate(keys)
    ]
    measured = [
        {"step": run.steps}
        | {key: at_versions(run.metrics, key) for key in keys if key in run.metrics}
        for run in runs
    ]
    figure = lines(runs, sets, "share passed", smooth=False, metrics=measured)
    if figure is not None:
        figure.update_traces(connectgaps=True, mode="lines+markers")
    return [
        Chart(
            "sets",
            "Evaluation sets",
            "Pass rate of each set while the run went on, after the step that made the policy "
            "measured.",
            figure,
        )
    ]


def _health_charts(runs: Sequence[Run]) -> list[Chart]:
    """Entropy, mismatch and staleness."""
    mismatch = (
        Series("learner/kl_rollout", "KL per token", BLUE),
        Series("parity/max_logprob_difference", "largest difference on a probe", ORANGE),
    )
    return [
        Chart(
            "entropy",
            "Entropy",
            "Mean at the trained tokens; near 0, the policy no longer explores.",
            lines(runs, (Series("learner/entropy", "entropy", BLUE),), "nats", from_zero=True),
        ),
        Chart(
            "mismatch",
            "Mismatch of engine and learner",
            "KL from the sampling to the training policy, which grows with staleness too; largest "
            "difference of log-probabilities at equal weights, after each publish.",
            lines(runs, mismatch, "nats, log scale", log=True),
        ),
        Chart(
            "staleness",
            "Staleness",
            "Publishes by which the oldest group of a batch was behind when learned.",
            lines(
                runs,
                (Series("loop/staleness", "staleness", PURPLE),),
                "versions",
                from_zero=True,
                steps=True,
            ),
        ),
    ]


def optimizer_charts(runs: Sequence[Run]) -> list[Chart]:
    """Return charts of loss, gradient norm, learning rate and clipped share."""
    loss = Series("learner/loss", "loss", BLUE)
    norm = Series("learner/grad_norm", "gradient norm", BLUE)
    rate = Series("learner/lr", "learning rate", PURPLE)
    clipped = Series("learner/clip_fraction", "clipped", ORANGE)
    rates = lines(runs, (rate,), "learning rate", from_zero=True, smooth=False)
    if rates is not None:
        rates.update_yaxes(exponentformat="power")
    return [
        Chart(
            "loss",
            "Loss",
            "Weighted, mean over the optimiser steps. It stays near 0 while the policy learns: "
            "advantages of a group add up to about 0.",
            lines(runs, (loss,), "loss"),
        ),
        Chart(
            "grad_norm",
            "Gradient norm",
            "Before clipping. Above learner.max_grad_norm, where that is set, a step is shortened.",
            lines(runs, (norm,), "norm", from_zero=True),
        ),
        Chart(
            "lr",
            "Learning rate",
            "Of the last optimiser step.",
            rates,
        ),
        Chart(
            "clip_fraction",
            "Clipped share",
            "Share of the trained tokens at which the objective's clip is active; of an objective "
            "without a clip there is none.",
            lines(runs, (clipped,), "share of tokens", from_zero=True),
        ),
    ]


def _add_held_out(figure: go.Figure, runs: Sequence[Run]) -> None:
    several = len(runs) > 1
    figure.for_each_trace(
        lambda line: line.update(showlegend=not several and "raw" not in line.meta)
    )
    for index, run in enumerate(runs):
        seen = run.held_out
        if not len(seen.rates):
            continue
        starts = {"step": run.steps[0] - 1, "tokens": 0.0, "seconds": 0.0}
        places = {
            key: seen.places(values, starts[key]).tolist() for key, values in axes_of(run).items()
        }
        figure.add_trace(
            go.Scatter(
                y=seen.rates,
                error_y={"array": seen.half_widths, "thickness": 1.5, "width": 5},
                mode="markers",
                marker={
                    "symbol": "diamond",
                    "size": 10,
                    "color": run_colour(index) if several else GREEN,
                },
                name=trace_name(run, "held out", several, 2),
                hovertemplate="%{y:.3f} ± %{error_y.array:.3f}",
                showlegend=not several,
                meta={"run": index, "x": places},
            )
        )


def token_charts(runs: Sequence[Run]) -> list[Chart]:
    """Return charts of the tokens of each step, and so far."""
    kinds = (("generated", GREY), ("selectable", ORANGE), ("trained", BLUE))
    per_step = [
        Series("loop/generated_tokens", "generated", GREY),
        *(Series(f"cost/step_{kind}_tokens", kind, colour) for kind, colour in kinds[1:]),
    ]
    so_far = [Series(f"cost/{kind}_tokens", kind, colour) for kind, colour in kinds]
    flops = (("generate", GREY), ("learn", BLUE), ("score", PURPLE), ("probe", ORANGE))
    computed = [Series(f"cost/{kind}_flops", kind, colour) for kind, colour in flops]
    return [
        Chart(
            "step_tokens",
            "Tokens of each step",
            "Generated for all tickets of the batch, pilots and filtered ones too; trained in the "
            "last pass. Selectable less trained is what thinning saved.",
            lines(runs, per_step, "tokens", from_zero=True),
        ),
        Chart(
            "total_tokens",
            "Tokens so far",
            "From the ledger: every pass, and what is still in flight.",
            lines(runs, so_far, "tokens", from_zero=True, smooth=False),
        ),
        Chart(
            "flops",
            "FLOPs so far",
            "Counted from the model's shape for what was really computed: prompts that responses "
            "share once, what was thinned away not at all.",
            lines(runs, computed, "FLOPs", from_zero=True, smooth=False),
        ),
    ]
