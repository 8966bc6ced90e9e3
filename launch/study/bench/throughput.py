"""Tokens per second of an optimiser step, and how much of the device that is.

Model FLOPs are those that the model needs, three forward passes' worth for forward and backward;
what is computed besides (padding, recomputed activations) does not count. Utilisation is their rate
over the device's peak (PaLM, 2204.02311, appendix B).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from learner.batch import Segment
from learner.partition import Work

PEAK_FLOPS = {
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H200": 989e12,
    "H800": 989e12,
    "GB200": 2500e12,
    "B200": 2250e12,
    "A100": 312e12,
    "A800": 312e12,
    "L40S": 362e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}
"""Part of a GPU's name to its peak for 16-bit matrices without sparsity, added up in float32,
operations per second, by NVIDIA's data sheets; the first that fits counts."""


def device_name() -> str:
    """Return the GPU's name, "cpu" without one."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def peak_flops(device: str, dtype: str) -> float | None:
    """Return the device's peak, operations per second; None where it is not known here."""
    if dtype not in ("bfloat16", "float16"):
        return None
    return next((peak for name, peak in PEAK_FLOPS.items() if name in device), None)


def throughput(
    segments: Sequence[Segment],
    work: Work,
    seconds: Mapping[str, float],
    *,
    dtype: str,
    device: str | None = None,
) -> dict[str, dict[str, float | None]]:
    """Return what each side did per second.

    Args:
        segments: What was learned from, each with its own prompt.
        work: Of a forward pass, floating-point operations.
        seconds: By side, of one optimiser step over all segments.
        dtype: Precision of the weights.
        device: Its name; None is the one that this process has.

    Returns:
        `tokens_per_second`, `model_flops_per_second` and `model_flops_utilisation` by side; the
        last is None where the peak is not known.
    """
    tokens = sum(len(segment.token_ids) for segment in segments)
    forward = sum(
        work.of_prompt(segment.num_prompt_tokens)
        + work.of_response(
            segment.num_prompt_tokens, len(segment.token_ids) - segment.num_prompt_tokens
        )
        for segment in segments
    )
    peak = peak_flops(device or device_name(), dtype)
    return {
        "tokens_per_second": {side: tokens / each for side, each in seconds.items()},
        "model_flops_per_second": {side: 3 * forward / each for side, each in seconds.items()},
        "model_flops_utilisation": {
            side: None if peak is None else 3 * forward / each / peak
            for side, each in seconds.items()
        },
    }
