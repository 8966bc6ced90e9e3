"""Run folders as `launch.train` leaves them, with made-up figures."""

import json

import numpy as np

from cost.draws.distribution import DrawDistribution

SECONDS = {
    "generate": 60.0, "update": 30.0, "publish": 6.0, "wait": 40.0,
    "loop": 80.0, "startup": 9.0, "evaluate": 12.0, "total": 101.0,
}  # fmt: skip


def write_run(path, *, name="first", num_steps=30, seed=0, response="b+1=2 #### 2"):
    """Write everything the report reads; return the folder."""
    rng = np.random.default_rng(seed)
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(
        f"# Run again\ndefaults:\n  - _self_\nhydra:\n  run:\n    dir: .\nname: '{name}'\n"
        f"seed: {seed}\nlearner:\n  lr: 7.0e-05\n  betas:\n  - 0.9\n"
    )
    summary = {
        "completed": True,
        "objective": "uniform over prompts: weights correct for draws and thinning",
        "pass_rate_before": 0.31,
        "pass_rate_before_half_width": 0.04,
        "pass_rate_after": 0.58,
        "pass_rate_after_half_width": 0.041,
        "num_steps": num_steps,
        "generated_tokens": 14_000 * num_steps,
        "selectable_tokens": 13_000 * num_steps,
        "trained_tokens": 6_000 * num_steps,
        "saved_share": 0.54,
        "draw_saving_estimated": 0.12,
        "thinning_saving_estimated": 0.4,
        "total_variation_from_uniform": 0.2,
        "seconds": SECONDS,
    }
    (path / "summary.json").write_text(json.dumps(summary))
    metrics = [_metrics(step, rng) for step in range(1, num_steps + 1)]
    (path / "metrics.jsonl").write_text(_lines(metrics))
    samples = [
        {
            "step": step,
            "prompt": "a1 b+1",
            "response": response,
            "answer": "2",
            "expected": "2",
            "reward": float(number % 2),
            "length_tokens": 12,
            "advantage": 1.0 - 2 * (number % 2),
            "weight": 1.5 * (number < 3),
        }
        for step in range(1, num_steps + 1, 10)
        for number in range(4)
    ]
    (path / "samples.jsonl").write_text(_lines(samples))
    lengths = np.exp(rng.normal(4, 0.6, 400))
    ability = rng.uniform(0, 0.5, 400)
    cells = [
        _cells(step, lengths, np.clip(ability + 0.5 * step / num_steps, 0, 1))
        for step in range(1, num_steps + 1)
    ]
    (path / "cells.jsonl").write_text(_lines(cells))
    return path


def _metrics(step, rng):
    noise = rng.normal(0, 0.05)
    late = 0.05 if step > 3 else 1.5
    return {
        "step": step,
        "time": 1e9 + 3.1 * step,
        "rollout/reward_mean": 0.3 + 0.01 * step + noise,
        "rollout/pass_rate": 0.3 + 0.01 * step + noise,
        "rollout/length_mean_tokens": 80.0 - step,
        "rollout/length_p95_tokens": 150.0 - step,
        "cost/reward_mean_uniform": 0.28 + 0.01 * step + noise,
        "cost/tickets": 16.0 * step,
        "cost/generated_tokens": 14_000.0 * step,
        "cost/selectable_tokens": 13_000.0 * step,
        "cost/trained_tokens": 6_000.0 * step,
        "cost/engine_seconds": 2.0 * step,
        "cost/step_generated_tokens": 14_000.0,
        "loop/generated_tokens": 14_000.0,
        "cost/step_selectable_tokens": 13_000.0 + 900 * noise,
        "cost/step_trained_tokens": 6_000.0 + 900 * noise,
        "learner/loss": noise,
        "learner/grad_norm": 0.4 + noise,
        "learner/lr": 7e-5 * min(1.0, step / 5),
        "learner/clip_fraction": 0.002 + 0.01 * abs(noise),
        "learner/entropy": 0.2 - 0.002 * step,
        "learner/kl_rollout": 1e-5 * step,
        "parity/max_logprob_difference": 1e-6 if step % 2 else None,
        "loop/wait_seconds": late,
        "loop/update_seconds": 1.0,
        "loop/publish_seconds": 0.2,
        "loop/generate_seconds": 1.8,
        "loop/staleness": float(step > 1),
    }


def _cells(step, lengths, rates):
    worth = np.sqrt((rates * (1 - rates) + 0.01) / lengths)
    found = DrawDistribution(worth / worth.sum(), lengths, rates, rates, rates).cells()
    return {
        "step": step,
        "length_cells": found.length_cells.tolist(),
        "pass_rate_cells": found.pass_rate_cells.tolist(),
        "num_prompts": found.num_prompts.tolist(),
        "probabilities": found.probabilities.tolist(),
    }


def _lines(records):
    return "".join(json.dumps(record) + "\n" for record in records)
