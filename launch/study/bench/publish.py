"""Seconds and bytes per second of bringing the weights from the learner to the engines.

Before each publish all that is published is changed, or restored: the engines receive something
that they do not hold, and the parity guard would notice if they kept what they had.
"""

from __future__ import annotations

import statistics
import time
from typing import Any, Protocol

from launch.study.bench.timing import turns

CHANGES = ("disturbed", "restored")


class Learners(Protocol):
    """What is used of `learner.team.LearnerTeam`."""

    async def disturb_weights(self) -> None:
        """Change everything that is published."""

    async def restore_weights(self) -> None:
        """Undo it."""


class Publishing(Protocol):
    """What is used of `launch.run.system.System`."""

    version: int

    @property
    def learners(self) -> Learners:
        """Return all learner workers."""

    async def publish(self, version: int) -> dict[str, float]:
        """Bring the learner's weights to every engine and begin to check parity."""

    async def checked(self) -> None:
        """Wait until parity is checked."""


async def bench_publish(system: Publishing, *, repetitions: int, warm_ups: int) -> dict[str, Any]:
    """Publish disturbed and restored weights in turns, with the parity guard as configured.

    Returns:
        In each row `seconds` is the publish alone: pause the engines, send, load, resume.
        `seconds_of_loop` is what the loop waits for; `seconds_with_parity` ends when the check
        has, which a loop does not wait for. A difference is that of the publish before.
    """
    measured: list[dict[str, Any]] = []
    learners = system.learners
    for turn in turns(CHANGES, repetitions=repetitions, warm_ups=warm_ups):
        disturbs = turn.contestant == "disturbed"
        await (learners.disturb_weights() if disturbs else learners.restore_weights())
        began = time.monotonic()
        metrics = await system.publish(system.version + 1)
        waited = time.monotonic() - began
        await system.checked()
        checked = time.monotonic() - began
        if turn.measured:
            measured.append(
                {
                    "weights": turn.contestant,
                    "seconds": metrics["publish/seconds"],
                    "seconds_of_loop": waited,
                    "seconds_with_parity": checked,
                    "bytes_per_second": metrics["publish/bytes_per_second"],
                    "max_logprob_difference": metrics.get("parity/max_logprob_difference"),
                }
            )
    differences = [row["max_logprob_difference"] for row in measured]
    return {
        "bytes": int(metrics["publish/bytes"]),
        "median": {
            key: statistics.median(row[key] for row in measured)
            for key in ("seconds", "seconds_of_loop", "seconds_with_parity", "bytes_per_second")
        },
        "max_logprob_difference": max(differences) if None not in differences else None,
        "repetitions": measured,
    }
