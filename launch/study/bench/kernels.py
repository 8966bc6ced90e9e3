"""The learner's kernels alone: attention over a packed row, and log-probabilities from its states.

    attention  square | pieces | varlen     whole square with a mask, `learner.attention`'s two ways
    logprobs   plain | whole | chunked      log-softmax of all logits, `learner.logprobs` in one
                                            chunk and in four

Each is a forward and a backward pass on the device that the process has. `agrees` says whether the
results are those of the first within `TOLERANCE`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from conf.schema import RunConfig
from launch.study.bench.peak_memory import peak_bytes
from launch.study.bench.throughput import device_name, peak_flops
from launch.study.bench.timing import time_in_turns
from launch.study.bench.workload import Workload, best_device, load_model
from learner.attention import Layout, attend, layout_of
from learner.batch import MicroBatch, collate
from learner.logprobs import PackedPolicy, predictors
from learner.partition import Work
from learner.varlen import obstacle

TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2, "float16": 1e-2}
"""Largest norm of a difference over that of what it differs from."""
NUM_CHUNKS = 4
Step = Callable[[], list[Tensor]]
"""Returns results and gradients, detached."""


def bench_kernels(config: RunConfig, *, repetitions: int, warm_ups: int) -> dict[str, Any]:
    """Measure both on one row of the length of `learner.row_tokens`, of groups of 8 responses."""
    torch.set_num_threads(config.learner.num_threads)
    device = best_device()
    row = _row(config).to(device)
    counts = {"repetitions": repetitions, "warm_ups": warm_ups}
    return {
        "device": _device(config.model.dtype),
        "dtype": config.model.dtype,
        "row_tokens": len(row.token_ids),
        "attention": _attention(config, row, counts),
        "logprobs": _logprobs(config, row, counts),
    }


def _device(dtype: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": device_name(),
        "peak_flops": peak_flops(device_name(), dtype) or "unknown",
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
    }
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        found["memory_bytes"] = properties.total_memory
        found["compute_capability"] = [properties.major, properties.minor]
    return found


def _row(config: RunConfig) -> MicroBatch:
    """Collate the longest row that a plan of `Workload` has."""
    workload = Workload(num_responses=max(64, config.learner.row_tokens // 8))
    work = Work.of_model(config.model.path)
    longest = config.learner.row_tokens - workload.prompt_tokens[1]
    segments = workload.segments(vocabulary=100, max_tokens=longest, seed=config.seed)
    [plan] = workload.plan(segments, 1, config.learner.row_tokens, work)
    rows = [collate([segments[item] for item in items], shared_prefix=True) for items in plan]
    return max(rows, key=lambda row: len(row.token_ids))


def _compared(
    steps: Mapping[str, Step], holder: nn.Module, counts: Mapping[str, int], dtype: str
) -> dict[str, Any]:
    """Time the steps in turns and hold all against the first."""
    timed = time_in_turns(steps, most_seconds=20.0, **counts)
    truth = next(iter(timed.last.values()))
    differences = {
        name: max(
            float((mine.float() - true.float()).norm() / true.float().norm().clamp_min(1e-12))
            for mine, true in zip(found, truth, strict=True)
        )
        for name, found in timed.last.items()
    }
    return {
        "median_seconds": timed.medians(),
        "peak_bytes": {name: peak_bytes(step, holder) for name, step in steps.items()},
        "largest_relative_difference": differences,
        "agrees": all(each <= TOLERANCE[dtype] for each in differences.values()),
    }


def _seen(layout: Layout, device: torch.device) -> Tensor:
    """Whom every token sees, [T, T] bool."""
    sizes = torch.tensor(layout.sizes)
    owners = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
    prefixes = torch.tensor([-1 if p is None else p for p in layout.prefixes])[owners]
    seen = (owners[:, None] == owners) | (prefixes[:, None] == owners)
    return seen.tril().to(device)


def _attention(config: RunConfig, row: MicroBatch, counts: Mapping[str, int]) -> dict[str, Any]:
    """Attend with random queries, keys and values in the model's shapes."""
    from transformers import AutoConfig

    model: Any = AutoConfig.from_pretrained(
        config.model.path, local_files_only=True, trust_remote_code=False
    ).get_text_config()
    heads = model.num_attention_heads
    size = getattr(model, "head_dim", None) or model.hidden_size // heads
    device, num_tokens = row.token_ids.device, len(row.token_ids)
    generator = torch.Generator().manual_seed(config.seed)

    def drawn(number: int) -> nn.Parameter:
        values = torch.randn(1, number, num_tokens, size, generator=generator)
        return nn.Parameter(values.to(device, getattr(torch, config.model.dtype)))

    kv_heads = getattr(model, "num_key_value_heads", None) or heads
    tensors = nn.ParameterList([drawn(heads), drawn(kv_heads), drawn(kv_heads)])
    seen = _seen(layout_of(row.position_ids), device)

    def step(attended: Callable[..., Tensor]) -> list[Tensor]:
        tensors.zero_grad()
        out = attended(*tensors)
        # A mean's gradient would be too small for float16's exponents.
        torch.autograd.backward(out.float().square().sum())
        if device.type == "cuda":
            torch.cuda.synchronize()
        return [out.detach(), *(t.grad.clone() for t in tensors if t.grad is not None)]

    def square(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=True)
        return out.transpose(1, 2)

    def ours(q: Tensor, k: Tensor, v: Tensor, *, varlen: bool, positions: Tensor) -> Tensor:
        arguments = {"position_ids": positions, "varlen": varlen}
        return attend(SimpleNamespace(), q, k, v, None, **arguments)[0]  # type: ignore[arg-type]

    # What is read off the positions stays with them, as it does over the layers of a model.
    ways: dict[str, Callable[..., Tensor]] = {
        "square": square,
        "pieces": partial(ours, varlen=False, positions=_own(row)),
    }
    reason = obstacle(tensors[0], tensors[2])
    if reason is None:
        ways["varlen"] = partial(ours, varlen=True, positions=_own(row))
    steps = {name: partial(step, way) for name, way in ways.items()}
    found = _compared(steps, tensors, counts, config.model.dtype)
    return found | ({"varlen": f"skipped: {reason}"} if reason else {})


def _own(row: MicroBatch) -> Tensor:
    return row.position_ids[None].clone()


def _logprobs(config: RunConfig, row: MicroBatch, counts: Mapping[str, int]) -> dict[str, Any]:
    """Score the row from its hidden states, which are computed once."""
    model = load_model(config, row.token_ids.device)
    model.requires_grad_(False)
    with torch.no_grad():
        decoded = model.get_decoder()(
            input_ids=row.token_ids[None], position_ids=row.position_ids[None], use_cache=False
        )
    states = nn.Parameter(decoded.last_hidden_state.detach().clone())
    targets = row.loss_mask.nonzero().squeeze(1)
    temperature = config.rollout.temperature

    def plain() -> Tensor:
        decoded["last_hidden_state"] = states[:, predictors(row.position_ids)[targets]]
        logits = model(input_ids=row.token_ids[None, :1], use_cache=False).logits[0].float()
        scored = (logits / temperature).log_softmax(dim=-1)
        chosen: Tensor = scored.gather(1, row.token_ids[targets, None]).squeeze(1)
        return chosen

    def ours(chunk_tokens: int) -> Tensor:
        decoded["last_hidden_state"] = states
        policy = PackedPolicy(model, temperature, logits_chunk_tokens=chunk_tokens)
        logprobs: Tensor = policy(row.token_ids, row.position_ids, row.loss_mask)[0]
        return logprobs[targets]

    def step(scored: Callable[[], Tensor]) -> list[Tensor]:
        states.grad = None
        logprobs = scored()
        torch.autograd.backward(logprobs.sum())
        if states.is_cuda:
            torch.cuda.synchronize()
        assert states.grad is not None
        return [logprobs.detach(), states.grad.clone()]

    ways: dict[str, Callable[[], Tensor]] = {
        "plain": plain,
        "whole": partial(ours, len(targets)),
        "chunked": partial(ours, -(-len(targets) // NUM_CHUNKS)),
    }
    steps = {name: partial(step, way) for name, way in ways.items()}
    with _answering_with(model.get_decoder(), decoded):
        found = _compared(steps, nn.ParameterList([states]), counts, config.model.dtype)
    return found | {"vocabulary": model.config.vocab_size, "scored_tokens": len(targets)}


@contextmanager
def _answering_with(decoder: Any, decoded: Any) -> Iterator[None]:
    decoder.forward = lambda *_, **__: decoded
    try:
        yield
    finally:
        del decoder.forward
