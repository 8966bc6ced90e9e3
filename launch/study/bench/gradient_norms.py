"""Gradient norms of single responses: packed rows against one backward pass per response.

    embedding, lm_head:  responses -> plan_rows -> rows [T] -> learner.gradient_norms
    *_one_by_one:        each response alone -> autograd over that one layer's weight
    all_weights:         each response alone -> autograd over every weight, as a plain backward pass

The norms that the two sides find first are compared. `*_one_by_one` is the cheapest that autograd
can do response by response: for the head it needs no pass back through the layers either.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from conf.schema import RunConfig
from launch.study.bench.timing import ratio_of_medians, time_in_turns
from launch.study.bench.workload import Workload
from learner.batch import MicroBatch, collate
from learner.gradient_norms import LAYERS, gradient_norms
from learner.logprobs import PackedPolicy
from learner.partition import Work, plan_rows
from learner.policy import load_policy

MOST_WORK = 2.5e11
"""Floating-point operations of a forward pass over all responses."""


def packed_norms(
    policy: PackedPolicy, rows: Sequence[MicroBatch], order: Sequence[int], layer: str
) -> Tensor:
    """Norms [M] of all responses; `order` [M] names the response of each segment of the rows."""
    norms = torch.zeros(len(order), dtype=torch.float64)
    norms[list(order)] = torch.cat([gradient_norms(policy, row, layer) for row in rows])
    return norms


def norms_one_by_one(
    policy: PackedPolicy, responses: Sequence[MicroBatch], weights: Sequence[Tensor]
) -> Tensor:
    """Norms [M] of each response's gradient with respect to some weights, by autograd."""
    norms = []
    for row in responses:
        logprobs, _ = policy(row.token_ids, row.position_ids, row.loss_mask)
        gradients = torch.autograd.grad(logprobs.sum(), list(weights))
        norms.append(torch.stack([gradient.double().norm() for gradient in gradients]).norm())
    return torch.stack(norms).cpu()


def bench_gradient_norms(
    config: RunConfig, workload: Workload, *, repetitions: int, warm_ups: int
) -> dict[str, Any]:
    """Measure all in turns, and compare the norms found first, with `learner.num_threads` threads.

    Returns:
        Per layer the ratio of the one-by-one seconds over the packed seconds, that of whole
        backward passes over the packed seconds, and the largest relative difference of a norm.
    """
    torch.set_num_threads(config.learner.num_threads)
    workload = workload.within(Work.of_model(config.model.path), MOST_WORK)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model: Any = load_policy(config.model.path, config.learner, config.numerics)
    # Where the matrix is tied, autograd must tell its two uses apart.
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    policy = PackedPolicy(model.to(device), config.rollout.temperature)
    segments = workload.segments(
        vocabulary=model.config.vocab_size, max_tokens=config.rollout.max_tokens, seed=config.seed
    )
    lengths = [len(segment.token_ids) for segment in segments]
    plan = plan_rows(lengths, 1, config.learner.row_tokens)[0]
    rows = [collate([segments[item] for item in row]).to(device) for row in plan]
    order = [item for row in plan for item in row]
    responses = [collate([segment]).to(device) for segment in segments]
    weights = {
        "embedding": [model.get_input_embeddings().weight],
        "lm_head": [model.get_output_embeddings().weight],
    }
    run: dict[str, Callable[[], Tensor]] = {}
    for layer in LAYERS:
        run[layer] = partial(packed_norms, policy, rows, order, layer)
        run[f"{layer}_one_by_one"] = partial(norms_one_by_one, policy, responses, weights[layer])
    run["all_weights"] = partial(norms_one_by_one, policy, responses, list(policy.parameters()))
    timed = time_in_turns(run, repetitions=repetitions, warm_ups=warm_ups)
    norms, seconds = {name: found.numpy() for name, found in timed.first.items()}, timed.seconds
    differences = {
        layer: float(np.max(np.abs(norms[layer] / norms[f"{layer}_one_by_one"] - 1)))
        for layer in LAYERS
    }
    return {
        "median_seconds": {name: statistics.median(seconds[name]) for name in run},
        "one_by_one_over_packed": {
            layer: ratio_of_medians(seconds[f"{layer}_one_by_one"], seconds[layer])
            for layer in LAYERS
        },
        "all_weights_over_packed": {
            layer: ratio_of_medians(seconds["all_weights"], seconds[layer]) for layer in LAYERS
        },
        "norms_agree": max(differences.values()) <= 1e-4,
        "norm_relative_max_difference": differences,
        "correlation_with_all_weights": {
            layer: float(np.corrcoef(np.log(norms[layer]), np.log(norms["all_weights"]))[0, 1])
            for layer in LAYERS
        },
        "repetitions_seconds": seconds,
        "threads": torch.get_num_threads(),
        "device": str(device),
        "dtype": config.model.dtype,
        "row_tokens": config.learner.row_tokens,
        "num_rows": len(rows),
        "num_responses": len(segments),
        "tokens": sum(lengths),
    }
