"""Seconds and bytes per second of bringing the weights from the learner to the engines."""

from __future__ import annotations

import statistics
import time
from typing import Any

from launch.bench.timing import turns
from launch.system import System


async def bench_publish(system: System, *, repetitions: int, warm_ups: int) -> dict[str, Any]:
    """Publish again and again, with the parity guard after each as configured.

    `seconds` is the publish alone: pausing the engines, sending, loading, resuming.
    `seconds_with_parity` is what the loop waits for, probe included.
    """
    measured: list[dict[str, float]] = []
    for turn in turns(["publish"], repetitions=repetitions, warm_ups=warm_ups):
        began = time.monotonic()
        metrics = await system.publish(system.version + 1)
        waited = time.monotonic() - began
        if turn.measured:
            row = {"seconds": metrics["publish/seconds"], "seconds_with_parity": waited}
            row["bytes_per_second"] = metrics["publish/bytes_per_second"]
            if "parity/max_logprob_difference" in metrics:
                row["max_logprob_difference"] = metrics["parity/max_logprob_difference"]
            measured.append(row)
    return {
        "bytes": int(metrics["publish/bytes"]),
        "median": {key: statistics.median(row[key] for row in measured) for key in measured[0]},
        "max_logprob_difference": system.max_logprob_difference,
        "repetitions": measured,
    }
