"""Comparisons of made-up runs."""

import numpy as np

from conf.programs import BudgetConfig
from launch.study.comparison.curves import AXES, Curve
from launch.study.comparison.findings import find
from launch.study.comparison.runs import FinishedRun

NUM_STEPS = 10


def make_run(pass_rate, tokens=100.0, held_out=False, **summary):
    spent = np.linspace(tokens / NUM_STEPS, tokens, NUM_STEPS)
    rising = np.linspace(0.3, pass_rate, NUM_STEPS)
    content = {
        "pass_rate_after": pass_rate, "pass_at_8_after": 0.9, "greedy_after": None,
        "length_mean_after": 70.0, "num_steps": NUM_STEPS, "generated_tokens": tokens,
        "selectable_tokens": tokens, "trained_tokens": tokens / 2, "seconds": {"loop": 5.0},
    } | summary  # fmt: skip
    measured = rising if held_out else np.append(np.full(NUM_STEPS - 1, np.nan), pass_rate)
    return FinishedRun(content, Curve(dict.fromkeys(AXES, spent), rising, measured, 0.3))


def find_in(budget=100.0, held_out=False, tokens=100.0, shares=None, **rates):
    runs = {
        arm: {seed: make_run(rate, tokens, held_out) for seed, rate in enumerate(values)}
        for arm, values in rates.items()
    }
    return find("test", BudgetConfig(amount=budget, shares=shares or {}), runs, 8)
