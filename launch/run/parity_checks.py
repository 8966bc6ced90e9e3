"""Parity, checked at start on fresh responses, and after a publish beside the next generation.

    start:    fresh probe <- engines;  learners score it
    publish:  batch -> rows -> learners score them, in turn before the next update
                            -> engines score them, among what they generate
              both -> Difference -> Tolerance, before the version after it is published

After a publish the loop does not wait: engines and learners score responses that were generated
anyway, while it continues. If an engine does not hold the weights of a version, the run ends before
the next version is published. Only where engines cannot score what they are given (adapters) each
check is a fresh probe, and is waited for. Engines score given responses at temperature 1, so the
learners do too; fresh responses are compared at the sampling temperature.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import ray

from conf.schema import ParityConfig
from launch.run.parity import Difference, Pair, ParityError, Tolerance, metrics_of, pairs_of
from learner.team import LearnerTeam
from rollout.pool import RolloutPool
from rollout.types import GroupRef, TokenArray

BASELINE_PROBES = 4
"""Probes whose largest rounding differences are the baseline in 16 bits."""


class ParityChecks:
    """Compares engines with learners; a fault is raised by whoever next waits for a check.

    Args:
        config: How often, on how much, and what may differ.
        dtype: Of the model.
        prompts: Tokens [T] of each prompt of the fresh probes.
        rollouts: The engines; asked are those that hold weights by then.
        flops_of: Says what a check of such pairs takes engines and learners; NaN if unknown.
        scoring: Whether engines can score what they are given. With adapters of the output head
            vLLM cannot: each check is then a fresh probe, which is waited for.
    """

    def __init__(
        self,
        config: ParityConfig,
        dtype: str,
        prompts: Sequence[TokenArray],
        rollouts: RolloutPool,
        flops_of: Callable[[Sequence[Pair]], float],
        *,
        scoring: bool = True,
    ) -> None:
        self._flops_of, self._scoring = flops_of, scoring
        self._config = config
        self._prompts = list(prompts)
        self._rollouts = rollouts
        self._tolerance = Tolerance(
            max_difference=config.max_difference if dtype == "float32" else None,
            slack=config.slack,
        )
        self._num_probes = 0
        self._pairs: list[Pair] = []
        self._running: asyncio.Task[Difference | None] | None = None
        self._version = 0
        self._metrics: dict[str, float] = {}
        self.largest = 0.0
        """Largest difference of one log-probability so far, nats."""

    async def probe(self, version: int, learners: LearnerTeam) -> Difference:
        """Compare every engine with the learners on fresh responses, which the engines score too.

        Raises:
            TimeoutError: If either takes longer than `parity.deadline_seconds`.
        """
        self._num_probes += 1
        async with self._in_time(version, "the engines"):
            probes = await asyncio.gather(
                *(
                    handle.generate_probe.remote(
                        self._prompts, self._config.num_tokens, self._num_probes
                    )
                    for handle in self._rollouts.actors.holders
                )
            )
        rows = [row for probe in probes for row in probe]
        pairs = [(prompt, response) for prompt, response, _ in rows]
        async with self._in_time(version, "the learners"):
            learner = await learners.logprobs(pairs)
        sampled = Difference.between([logprobs for *_, logprobs in rows], learner)
        self._pairs = pairs[: self._config.num_sequences]
        if not self._scoring:
            return sampled
        given = await self._scored(version, learners.logprobs(self._pairs, temperature=1.0))
        return sampled if given is None else Difference.largest([sampled, given])

    async def self_test(
        self, learners: LearnerTeam, publish: Callable[[], Awaitable[object]]
    ) -> None:
        """Check parity at version 0, and that engines follow a change of all that is published.

        Raises:
            ParityError: If they do not.
        """
        baseline = await self.probe(0, learners)
        if self._tolerance.max_difference is None:
            more = [await self.probe(0, learners) for _ in range(BASELINE_PROBES - 1)]
            baseline = Difference.largest([baseline, *more])
            self._tolerance = replace(self._tolerance, baseline=baseline)
        self.first(baseline)
        if not self._config.self_test:
            return
        await learners.disturb_weights()
        await publish()
        disturbed = await self.probe(0, learners)
        await learners.restore_weights()
        await publish()
        restored = await self.probe(0, learners)
        try:
            self._tolerance.check(0, disturbed)
            self._tolerance.check(0, restored)
        except ParityError as error:
            raise ParityError(f"start-up self-test with disturbed weights: {error}") from None

    def begin_again(self) -> None:
        """Forget the checks of the run before; what rounding comes to stays."""
        self.cancel()
        self._num_probes, self._metrics = 0, {}

    def first(self, found: Difference) -> None:
        """Take a probe of version 0 in.

        Raises:
            ParityError: If it is not rounding.
        """
        self.largest, self._metrics = found.maximum, metrics_of(found)
        self._tolerance.check(0, found)

    async def choose(self, version: int, groups: Sequence[GroupRef]) -> None:
        """Take what the check of a version scores from a batch, if its turn is then.

        What was taken before stays if the batch is empty.

        Args:
            version: That is published with the batch.
            groups: The batch that was learned, members in draw order.
        """
        if not self._scoring or not self._is_due(version):
            return
        there = [group.data for group in groups if group.data is not None]
        try:
            found = [await data for data in there[: self._config.num_sequences]]
        except ray.exceptions.RayError:
            # Its node died: other responses do as well.
            return
        pairs = pairs_of(found, self._config.num_sequences, self._config.num_tokens)
        self._pairs = pairs or self._pairs

    async def begin(self, version: int, learners: LearnerTeam) -> None:
        """Have a version that was just published checked, if its turn is now.

        The learners are asked at once, so that they score before whatever they are asked next.

        Raises:
            ParityError: If engine and learner differ by more than rounding, where it is waited for.
            ray.exceptions.RayError: If an engine died meanwhile, likewise.
        """
        if not self._is_due(version) or not self._pairs:
            return
        if not self._scoring:
            self._take(version, await self.probe(version, learners))
            return
        self._version = version
        asked = learners.logprobs(self._pairs, temperature=1.0)
        self._running = asyncio.create_task(self._scored(version, asked))

    async def finish(self) -> None:
        """Wait for the check that is on its way.

        Raises:
            ParityError: If engine and learner differ by more than rounding.
            TimeoutError: If either takes longer than `parity.deadline_seconds`.
        """
        running = self._running
        if running is None:
            return
        # Whoever is cancelled while it waits leaves the check to whoever waits next.
        await asyncio.wait({running})
        self._running = None
        if (found := running.result()) is not None:
            self._take(self._version, found)

    def _take(self, version: int, found: Difference) -> None:
        self.largest = max(self.largest, found.maximum)
        flops = self._flops_of(self._pairs)
        self._metrics = metrics_of(found)
        if not math.isnan(flops):
            self._metrics["parity/flops"] = flops
        self._tolerance.check(version, found)

    def _is_due(self, version: int) -> bool:
        return bool(self._config.every) and version % self._config.every == 0

    def metrics(self) -> dict[str, float]:
        """Return what the last check found, once."""
        found, self._metrics = self._metrics, {}
        return found

    def cancel(self) -> None:
        """Give up the check that is on its way."""
        if self._running is not None:
            self._running.cancel()
            self._running = None

    def state_dict(self) -> dict[str, Any]:
        """Return what later checks go by, and what is not told yet, as plain data."""
        baseline = self._tolerance.baseline
        return {
            "num_probes": self._num_probes,
            "max_logprob_difference": self.largest,
            "baseline": None if baseline is None else asdict(baseline),
            "untold": dict(self._metrics),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`."""
        if state["baseline"] is not None:
            baseline = Difference(**state["baseline"])
            self._tolerance = replace(self._tolerance, baseline=baseline)
        self._num_probes = state["num_probes"]
        self.largest = state["max_logprob_difference"]
        self._metrics = dict(state["untold"])

    async def _scored(
        self, version: int, learner: Awaitable[list[npt.NDArray[np.float32]]]
    ) -> Difference | None:
        """Compare what all score; None where no engine is left that holds the version."""
        pairs, handles = self._pairs, self._rollouts.actors.holders
        asked = [handle.score.remote(pairs) for handle in handles]
        async with self._in_time(version, "the learners"):
            expected = await learner
        async with self._in_time(version, "the engines"):
            answers = await asyncio.gather(*asked, return_exceptions=True)
        found: list[Difference] = []
        for handle, answer in zip(handles, answers, strict=True):
            if isinstance(answer, BaseException):
                await _require_death(handle, answer)
            # What replaced an engine may hold the next weights: it is checked at the next version.
            elif all(held == version for _, held in answer):
                found.append(Difference.between([logprobs for logprobs, _ in answer], expected))
        return Difference.largest(found) if found else None

    @asynccontextmanager
    async def _in_time(self, version: int, who: str) -> AsyncIterator[None]:
        limit = self._config.deadline_seconds
        try:
            async with asyncio.timeout(limit):
                yield
        except TimeoutError as error:
            raise TimeoutError(
                f"version {version}: {who} did not answer the parity probe within "
                f"parity.deadline_seconds = {limit:g}"
            ) from error


async def _require_death(engine: Any, error: BaseException) -> None:
    """Raise the error unless the engine is dead, which is replaced and checked at a later version.

    Args:
        engine: The actor's handle.
        error: What it answered.
    """
    if not isinstance(error, ray.exceptions.RayError):
        raise error
    try:
        await engine.check.remote()
    except ray.exceptions.RayError:
        return
    raise error
