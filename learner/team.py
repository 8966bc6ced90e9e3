"""The learner as the driver sees it: L workers that act as one.

    groups, selections --split, plan--> rows per rank --> workers --sums--> metrics

The driver holds references only; each worker fetches the groups of which it has a response. All
ranks go through the same number of rows, so that their collectives meet.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import ray

from cost.prices.shape import ModelShape
from cost.types import Selection
from learner.batch_plan import BatchPlanner, MinibatchPlan, Row, rank_balance
from learner.compute import LearnerCompute
from learner.config import LearnerConfig
from learner.gradient_norms import check_layer
from learner.numerics import Numerics
from learner.objectives.types import Objective
from learner.partition import TOKENS, Work
from learner.queued_calls import QueuedCalls
from learner.update import StepSums, merge_sums
from learner.worker import LearnerWorker
from rollout.types import GroupRef

HEALTH = "health"
"""Ray's concurrency group in which a worker can be asked whether it lives."""
_POLL_SECONDS = 0.1
"""How often it is asked whether files are written."""


class DivergedError(RuntimeError):
    """Too many steps in a row were not finite; the weights are those of the last good one."""


class LearnerTeam:
    """Speaks to all learner workers as to one."""

    def __init__(
        self,
        workers: Sequence[Any],
        config: LearnerConfig,
        *,
        seed: int,
        shape: ModelShape | None = None,
    ) -> None:
        """Take over the Ray handles of workers, in rank order; `create` makes them.

        `shape` says what the ranks get equal shares of, which without it is tokens.
        """
        self.workers = tuple(workers)
        self._shape = shape
        self._work = TOKENS if shape is None else Work.of_shape(shape)
        self._config = config
        self._seed = seed
        self._skipped_in_a_row = 0
        self.limit: Callable[[str], AbstractAsyncContextManager[None]] = self._limit
        """Limits the time that all ranks take for what is named, what they do before left out."""
        self._calls = QueuedCalls()
        # Held by whoever changes the weights or sends them.
        self._weights = asyncio.Condition()
        # Held by a snapshot, which begins when the one before is written.
        self._snapshots = asyncio.Lock()
        self._writing_since = 0.0
        self.version: int | None = None
        """The version that the weights are; None from a batch's first update to its publish."""

    @classmethod
    def create(
        cls,
        config: LearnerConfig,
        model_path: str,
        objective: Objective,
        numerics: Numerics,
        *,
        seed: int,
        actor_options: Sequence[Mapping[str, Any]],
        memory_shares: Sequence[float] | None = None,
    ) -> "LearnerTeam":
        """Create the workers; whoever does so closes the team, also where `start` fails.

        Args:
            config: The learner's settings.
            model_path: Folder with a Hugging Face checkpoint, on every node that gets a worker.
            objective: Token losses.
            numerics: How the policy computes.
            seed: It decides the random cut into optimiser steps, among others.
            actor_options: Ray options (CPUs, GPUs, placement), one entry per worker to start.
            memory_shares: Part of its GPU's memory each worker may take, in (0, 1]; None for all.
        """
        # So that a worker answers while it works; what it works on has a thread of its own.
        options: dict[str, Any] = {"concurrency_groups": {HEALTH: 1}}
        actor: Any = ray.remote(**options)(LearnerWorker)
        workers: list[Any] = [
            actor.options(**placed).remote(
                rank,
                len(actor_options),
                config,
                model_path,
                objective,
                numerics,
                seed=seed,
                memory_share=1.0 if memory_shares is None else memory_shares[rank],
            )
            for rank, placed in enumerate(actor_options)
        ]
        return cls(workers, config, seed=seed, shape=ModelShape.found(model_path))

    async def start(self) -> None:
        """Let the workers join each other and load the policy.

        Raises:
            TimeoutError: If it takes longer than `learner.start_deadline_seconds`.
        """
        async with asyncio.timeout(self._config.start_deadline_seconds):
            addresses = await asyncio.gather(*[worker.address.remote() for worker in self.workers])
            host, port = addresses[0]
            on_host = Counter(address for address, _ in addresses)
            await asyncio.gather(
                *[
                    worker.connect.remote(host, port, on_host[address])
                    for worker, (address, _) in zip(self.workers, addresses, strict=True)
                ]
            )

    async def restart(self, config: LearnerConfig, objective: Objective, *, seed: int) -> None:
        """Begin another run in the same processes; arguments as for `create`.

        Engines must be connected anew.
        """
        self._config, self._seed, self._skipped_in_a_row = config, seed, 0
        self.version = None
        async with asyncio.timeout(config.start_deadline_seconds):
            await asyncio.gather(
                *[worker.restart.remote(config, objective, seed) for worker in self.workers]
            )

    async def update(
        self,
        groups: Sequence[GroupRef],
        selections: Sequence[Selection],
        *,
        step: int,
        epoch: int = 0,
        progress: float = 0.0,
    ) -> dict[str, float]:
        """Run one pass over a batch: `num_minibatches` optimiser steps.

        A part of the batch of which nothing was kept takes no step; it counts as an empty one.

        Args:
            groups: The batch, empty groups included.
            selections: One per group, in the same order.
            step: Number of the batch in the run.
            epoch: Number of the pass over this batch; each has its own selections.
            progress: Share of the run that is over before the batch, in [0, 1], for schedules.

        Returns:
            Metrics under `learner/`.

        Raises:
            ValueError: If groups and selections do not match.
            TimeoutError: If it takes longer than `learner.update_deadline_seconds`.
            DivergedError: If too many steps in a row were not finite.
        """
        async with self._weights:
            started = time.monotonic()
            plans = self._planner().plan(groups, selections, step=step, epoch=epoch)
            busy = [ranks for ranks in plans if ranks[0].rows]
            given = (groups, selections, busy, step, progress)
            sums = await self._update(*given) if busy else []
        steps = [list(ranks) for ranks in zip(*sums, strict=True)]
        metrics = merge_sums(steps, row_tokens=self._config.row_tokens)
        metrics["learner/rank_balance"] = rank_balance(busy)
        if self._shape is not None:
            reports = [group.report for group in groups]
            share = min((selection.token_share for selection in selections), default=1.0)
            compute = LearnerCompute(self._shape, self._config)
            metrics["learner/flops"] = compute.update(busy, reports, share)
        metrics["learner/empty_steps"] = float(self._config.num_minibatches - len(busy))
        metrics["learner/update_seconds"] = time.monotonic() - started
        self._count_skipped(steps)
        return metrics

    async def _update(
        self,
        groups: Sequence[GroupRef],
        selections: Sequence[Selection],
        plans: Sequence[Sequence[MinibatchPlan]],
        step: int,
        progress: float,
    ) -> list[list[StepSums]]:
        self.version = None
        calls: list[Awaitable[list[StepSums]]] = []
        for rank, worker in enumerate(self.workers):
            mine = [ranks[rank] for ranks in plans]
            refs = _needed(groups, [row for plan in mine for row in plan.rows])
            # Version v is the v-th published batch.
            calls.append(worker.update.remote(refs, list(selections), mine, step, progress))
        return await self._wait(calls, "update")

    def _planner(self) -> BatchPlanner:
        return BatchPlanner(self._config, len(self.workers), self._seed, self._work)

    def _count_skipped(self, steps: Sequence[Sequence[StepSums]]) -> None:
        for ranks in steps:
            applied = ranks[0].outcome.applied
            self._skipped_in_a_row = 0 if applied else self._skipped_in_a_row + 1
            if self._skipped_in_a_row >= self._config.max_skipped_steps:
                raise DivergedError(
                    f"the loss or its gradient was not finite in {self._skipped_in_a_row} "
                    "optimiser steps in a row (learner.max_skipped_steps); lower learner.lr"
                )

    async def gradient_norms(
        self, groups: Sequence[GroupRef], *, layer: str = "lm_head"
    ) -> list[npt.NDArray[np.float64]]:
        """Find the norms of responses' scores under the present weights, with respect to one layer.

        A score is the gradient of a response's summed log-probability; see
        `learner.gradient_norms`. Nothing is learned.

        Args:
            groups: Any groups, empty ones included.
            layer: `lm_head` (no backward pass) or `embedding` (one per packed row; GVM's default).

        Returns:
            One [n] array per group, in order; an empty one for an empty group.

        Raises:
            ValueError: If the layer is another, or the model's cannot be had.
            TimeoutError: If it takes longer than `learner.update_deadline_seconds`.
        """
        check_layer(layer)
        return await self._per_response(
            groups,
            lambda worker, refs, rows: worker.gradient_norms.remote(refs, rows, layer),
            "gradient_norms",
        )

    async def reference_kl(self, groups: Sequence[GroupRef]) -> list[npt.NDArray[np.float64]]:
        """Estimate how far the responses' policy is from the reference, response by response.

        Args:
            groups: Any groups, empty ones included.

        Returns:
            One [n] array per group, in order: the sum over a response's tokens of
            log(rollout / reference probability), nats.

        Raises:
            TimeoutError: If it takes longer than `learner.update_deadline_seconds`.
        """
        return await self._per_response(
            groups,
            lambda worker, refs, rows: worker.reference_kl.remote(refs, rows),
            "reference_kl",
        )

    async def _per_response(
        self,
        groups: Sequence[GroupRef],
        ask: Callable[[Any, list[Any], list[Row]], Awaitable[Any]],
        what: str,
    ) -> list[npt.NDArray[np.float64]]:
        """Have the workers compute a number for every response; [n] per group."""
        values = [np.zeros(group.report.num_responses) for group in groups]
        plans = self._planner().plan_all(groups)
        if not plans[0]:
            return values
        calls = [
            ask(worker, _needed(groups, rows), rows)
            for worker, rows in zip(self.workers, plans, strict=True)
        ]
        found: list[list[npt.NDArray[np.float64]]] = await self._wait(calls, what)
        for rows, per_row in zip(plans, found, strict=True):
            for row, numbers in zip(rows, per_row, strict=True):
                for (k, j), number in zip(row, numbers, strict=True):
                    values[k][j] = number
        return values

    def logprobs(
        self,
        sequences: Sequence[tuple[npt.ArrayLike, npt.ArrayLike]],
        temperature: float | None = None,
    ) -> Awaitable[list[npt.NDArray[np.float32]]]:
        """Score (prompt tokens, response tokens) pairs under the present weights; [T] each.

        The workers are asked when this is called, and not when it is awaited: they score before
        whatever they are asked for next.

        Args:
            sequences: What to score.
            temperature: What divides the logits; None for the sampling temperature.
        """
        calls = [worker.logprobs.remote(list(sequences), temperature) for worker in self.workers]
        return asyncio.ensure_future(self._first(calls, "logprobs"))

    async def connect_engines(
        self,
        handles: Sequence[Any],
        *,
        backend: str,
        workers_per_engine: int,
        deadline_seconds: float,
    ) -> None:
        """Join learner and engines into one transfer group, in place of an older one.

        Args:
            handles: RolloutActor handles.
            backend: What carries the weights, "nccl" or "gloo".
            workers_per_engine: Tensor parallel size of each engine.
            deadline_seconds: Limit of every later call to an engine.
        """
        async with asyncio.timeout(self._config.start_deadline_seconds):
            address, port = await self.workers[0].address.remote()
        await self._wait(
            [
                worker.connect_engines.remote(
                    list(handles),
                    address,
                    port,
                    backend=backend,
                    workers_per_engine=workers_per_engine,
                    deadline_seconds=deadline_seconds,
                )
                for worker in self.workers
            ],
            "connect_engines",
        )

    async def release(self) -> None:
        """Have all ranks give GPU memory back that holds nothing."""
        await self._wait([worker.release.remote() for worker in self.workers], "release")

    async def name(self, version: int) -> None:
        """Call the weights as they are a version, which engines that wait for one are then sent.

        Args:
            version: Number of the publish that comes next.
        """
        async with self._weights:
            self.version = version
            self._weights.notify_all()

    async def publish(self, version: int) -> dict[str, float]:
        """Send the weights to all engines as `version`.

        Returns:
            `publish/seconds`, `publish/bytes` (to each receiver) and `publish/bytes_per_second`.
        """
        async with self._weights:
            self.version = version
            self._weights.notify_all()
            return await self._send(version)

    async def republish(
        self,
        handles: Callable[[], Sequence[Any]],
        *,
        backend: str,
        workers_per_engine: int,
        deadline_seconds: float,
    ) -> int:
        """Join other engines and send them the weights, under the version that these are.

        While a batch is being learned its weights are of no version: the call waits until they get
        their name, and until it is over no update changes them.

        Args:
            handles: Gives the RolloutActor handles when it is time to join them.
            backend: What carries the weights, "nccl" or "gloo".
            workers_per_engine: Tensor parallel size of each engine.
            deadline_seconds: Limit of every later call to an engine.

        Returns:
            The version.
        """
        async with self._weights:
            await self._weights.wait_for(lambda: self.version is not None)
            version = self.version
            assert version is not None
            await self.connect_engines(
                handles(),
                backend=backend,
                workers_per_engine=workers_per_engine,
                deadline_seconds=deadline_seconds,
            )
            await self._send(version)
            return version

    async def _send(self, version: int) -> dict[str, float]:
        sent = await self._wait([w.publish.remote(version) for w in self.workers], "publish")
        seconds, num_bytes = sent[0]
        return {
            "publish/seconds": seconds,
            "publish/bytes": float(num_bytes),
            "publish/bytes_per_second": num_bytes / max(seconds, 1e-9),
        }

    async def disturb_weights(self) -> None:
        """Change everything that is published; for the start-up self-test."""
        await self._wait([w.disturb_weights.remote() for w in self.workers], "disturb_weights")

    async def restore_weights(self) -> None:
        """Undo `disturb_weights`, to the bit."""
        await self._wait([w.restore_weights.remote() for w in self.workers], "restore_weights")

    async def save(self, path: str, tokenizer_path: str | None = None) -> None:
        """Write the policy as a Hugging Face checkpoint, with the tokenizer's files if given."""
        await self._wait([w.save.remote(path, tokenizer_path) for w in self.workers], "save")

    async def snapshot(self, folder: str) -> float:
        """Copy the state of the learning and begin to write it; see `learner.state_files`.

        Updates wait for the copying, not for the writing. A snapshot waits until the one before is
        written, however that ends.

        Args:
            folder: It exists, on every worker's node the same.

        Returns:
            Seconds that updates had to wait.

        Raises:
            ValueError: If the optimiser keeps what cannot be saved.
            TimeoutError: If it takes longer than `learner.update_deadline_seconds`.
        """
        async with self._snapshots:
            await self._outcomes()
            async with self._weights:
                began = time.monotonic()
                skipped = self._skipped_in_a_row
                calls = [worker.snapshot.remote(folder, skipped) for worker in self.workers]
                self._writing_since = began
                await self._wait(calls, "snapshot")
                return time.monotonic() - began

    async def written(self) -> None:
        """Wait until the files of the latest snapshot are on the disks.

        Raises:
            OSError: If a disk was full, say; the other ranks have ended, too.
            TimeoutError: If it takes longer than `learner.update_deadline_seconds`.
        """
        for error in await self._outcomes():
            if error is not None:
                raise error

    async def _outcomes(self) -> list[Exception | None]:
        """Wait until all ranks have ended writing; returns what kept each from it.

        They are asked again and again. A call that waited for the files would have to wait in a
        thread of its own, which Ray gives an actor only by moving all its other calls off the main
        thread; an answer takes no time, and comes between two updates at the latest.
        """
        deadline = self._config.update_deadline_seconds
        while True:
            asked = time.monotonic()
            answers = await self._wait([w.written.remote() for w in self.workers], "written")
            if all(done for done, _ in answers):
                return [error for _, error in answers]
            # Not the time that a question waited behind an update.
            if asked - self._writing_since > deadline:
                raise TimeoutError(
                    f"learner written took longer than learner.update_deadline_seconds = {deadline}"
                )
            await asyncio.sleep(_POLL_SECONDS)

    async def load_state(self, folder: str) -> None:
        """Go on from where a snapshot was taken, on any number of workers and in any ZeRO stage.

        The weights are then of no version until `name` or `publish` gives them one.

        Args:
            folder: What `snapshot` and `written` made, on every worker's node.

        Raises:
            ValueError: If it is of another model, optimiser or kind, or is not whole; nothing is
                changed then.
            TimeoutError: If it takes longer than `learner.update_deadline_seconds`.
        """
        async with self._weights:
            found = await self._wait([w.obstacle.remote(folder) for w in self.workers], "obstacle")
            for obstacle in found:
                if obstacle is not None:
                    raise ValueError(obstacle)
            self.version = None
            calls = [worker.load_state.remote(folder) for worker in self.workers]
            self._skipped_in_a_row = (await self._wait(calls, "load_state"))[0]

    async def _first(self, calls: Sequence[Awaitable[Any]], what: str) -> Any:
        """Wait for all ranks, which answer the same."""
        return (await self._wait(calls, what))[0]

    async def _wait(self, calls: Sequence[Awaitable[Any]], what: str) -> list[Any]:
        """Wait for all ranks; the first error of any ends the wait."""
        return await self._calls.wait(calls, self.limit(what))

    @asynccontextmanager
    async def _limit(self, what: str) -> AsyncIterator[None]:
        deadline = self._config.update_deadline_seconds
        try:
            async with asyncio.timeout(deadline):
                yield
        except TimeoutError as error:
            raise TimeoutError(
                f"learner {what} took longer than learner.update_deadline_seconds = {deadline}"
            ) from error

    def close(self) -> None:
        """End the workers."""
        for worker in self.workers:
            ray.kill(worker)


def _needed(groups: Sequence[GroupRef], rows: Sequence[Row]) -> list[Any]:
    """List each group's reference, None where the rows have nothing of it.

    Inside a list Ray hands references over as they are.
    """
    needed = {k for row in rows for k, _ in row}
    return [group.data if k in needed else None for k, group in enumerate(groups)]
