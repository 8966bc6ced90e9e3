"""Gradient norms of single responses: packed rows against a backward pass for each response.

embedding, lm_head:  responses -> plan_rows -> rows [T] -> learner.gradient_norms
all_weights:         each response alone -> autograd over every weight
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from conf.schema import RunConfig
from launch.study.bench.timing import ratio_of_medians, time_in_turns
from launch.study.bench.workload import MOST_WORK, Workload, best_device, load_model
from learner.batch import MicroBatch, collate
from learner.gradient_norms import LAYERS, gradient_norms
from learner.logprobs import PackedPolicy
from learner.partition import Work, plan_rows


def packed_norms(
    policy: PackedPolicy, rows: Sequence[MicroBatch], order: Sequence[int], layer: str
) -> Tensor:
    """Return the norms [M] of all responses.

    `order` [M] names the response of each segment of the rows.
    """
    norms = torch.zeros(len(order), dtype=torch.float64)
    norms[list(order)] = torch.cat([gradient_norms(policy, row, layer) for row in rows])
    return norms


def norms_one_by_one(policy: PackedPolicy, responses: Sequence[MicroBatch]) -> Tensor:
    """Return the norms [M] of each response's gradient over all weights, by autograd."""
    norms = []
    for row in responses:
        logprobs, _ = policy(row.token_ids, row.position_ids, row.loss_mask)
        gradients = torch.autograd.grad(logprobs.sum(), list(policy.parameters()))
        norms.append(torch.stack([gradient.double().norm() for gradient in gradients]).norm())
    return torch.stack(norms).cpu()


def bench_gradient_norms(
    config: RunConfig, *, repetitions: int, warm_ups: int, workload: Workload | None = None
) -> dict[str, Any]:
    """Measure all in turns with `learner.num_threads` threads.

    Returns:
        Median seconds; per layer the ratio of the backward passes' seconds over the packed ones,
        and the correlation of the norms' logarithms with those over all weights.
    """
    torch.set_num_threads(config.learner.num_threads)
    workload = (workload or Workload()).within(Work.of_model(config.model.path), MOST_WORK / 2)
    device = best_device()
    model = load_model(config, device)
    # Where the matrix is tied, autograd must tell its two uses apart.
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    policy = PackedPolicy(model, config.rollout.temperature)
    segments = workload.segments(
        vocabulary=model.config.vocab_size, max_tokens=config.rollout.max_tokens, seed=config.seed
    )
    [plan] = plan_rows([len(s.token_ids) for s in segments], 1, config.learner.row_tokens)
    rows = [collate([segments[item] for item in row]).to(device) for row in plan]
    order = [item for row in plan for item in row]
    responses = [collate([segment]).to(device) for segment in segments]
    run: dict[str, Callable[[], Tensor]] = {
        layer: partial(packed_norms, policy, rows, order, layer) for layer in LAYERS
    }
    run["all_weights"] = partial(norms_one_by_one, policy, responses)
    timed = time_in_turns(run, repetitions=repetitions, warm_ups=warm_ups)
    logs = {name: np.log(norms.numpy()) for name, norms in timed.last.items()}
    seconds = timed.seconds
    return {
        "median_seconds": timed.medians(),
        "all_weights_over_packed": {
            layer: ratio_of_medians(seconds["all_weights"], seconds[layer]) for layer in LAYERS
        },
        "correlation_with_all_weights": {
            layer: float(np.corrcoef(logs[layer], logs["all_weights"])[0, 1]) for layer in LAYERS
        },
        "repetitions_seconds": seconds,
        "num_responses": len(segments),
        "num_rows": len(rows),
    }
