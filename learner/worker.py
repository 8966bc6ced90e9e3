"""One learner process: fetches the groups it needs, packs them and trains on them.

A plain class; whoever starts it makes a Ray actor of it. `update`, `gradient_norms`,
`reference_kl`, `logprobs` and `save` are collective: every rank must be asked, with the same number
of rows, or the ranks wait for each other until the deadline.
"""

import gc
import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import ray
import torch

from cost.types import Selection
from learner.batch import MicroBatch
from learner.batch_plan import MinibatchPlan, Row
from learner.config import LearnerConfig
from learner.deepspeed_engine import DeepSpeedEngine
from learner.deepspeed_head import DeepSpeedHead
from learner.gpu_share import keep_to
from learner.layout import lay_out
from learner.loss import Loss, RowOrigin
from learner.numerics import Numerics
from learner.objectives.types import Objective
from learner.publisher import Publisher, publisher_of
from learner.scoring import response_divergences, sequence_logprobs, unscored_row
from learner.state_files import BackgroundWriter
from learner.token_masks import TopTokens, WithinCurvature
from learner.update import StepHook, StepSums, Updater, old_logprobs
from rollout.loading import loading
from rollout.rendezvous import interface_of, open_store, own_address, reserve_port
from rollout.types import Group

if TYPE_CHECKING:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]


class LearnerWorker:
    """Trains as one rank of the learner."""

    def __init__(
        self,
        rank: int,
        world_size: int,
        config: LearnerConfig,
        model_path: str,
        objective: Objective,
        numerics: Numerics,
        *,
        seed: int = 0,
        memory_share: float = 1.0,
    ) -> None:
        """Remember the settings; `connect` does the work.

        Args:
            rank: This worker's place, in [0, world_size).
            world_size: Number of workers.
            config: The learner's settings.
            model_path: Local folder with a Hugging Face checkpoint.
            objective: Token losses.
            numerics: How the policy computes.
            seed: For whatever torch draws at random in training.
            memory_share: Part of its GPU's memory that this process may take, in (0, 1].
        """
        torch.set_num_threads(config.num_threads)
        torch.manual_seed(seed)
        keep_to(memory_share)
        self.rank = rank
        self._world_size = world_size
        self._config = config
        self._model_path = model_path
        self._objective = objective
        self._numerics = numerics
        self._engine: DeepSpeedEngine | None = None
        self._updater: Updater | None = None
        self._hooks: tuple[StepHook, ...] = ()
        self._publisher: Publisher | None = None
        self._writer = BackgroundWriter()
        self._store: TCPStore | None = None

    @property
    def engine(self) -> DeepSpeedEngine:
        """Return the training engine; only after `connect`."""
        assert self._engine is not None, "connect() comes first"
        return self._engine

    def address(self) -> tuple[str, int]:
        """Return this host's address and a port reserved there, for others to meet at rank 0.

        Other ranks have no port.
        """
        host: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        return host, 0 if self.rank else reserve_port(host)

    def connect(self, master_address: str, master_port: int, local_size: int) -> None:
        """Join the other ranks and load the policy; returns when all are ready.

        Args:
            master_address: Rank 0's host.
            master_port: A free port there.
            local_size: Ranks on this worker's host.
        """
        os.environ.update(
            RANK=str(self.rank),
            WORLD_SIZE=str(self._world_size),
            # Ray shows each actor only its own GPU, which is then the first.
            LOCAL_RANK="0",
            LOCAL_SIZE=str(local_size),
            MASTER_ADDR=master_address,
            MASTER_PORT=str(master_port),
            # torch then takes the store that is there in place of one open to all interfaces.
            TORCHELASTIC_USE_AGENT_STORE="True",
        )
        # Else ranks listen where their machine's own name leads, which may be nowhere for others.
        towards = interface_of(own_address(master_address)) if self._world_size > 1 else None
        if towards is not None and "GLOO_SOCKET_IFNAME" not in os.environ:
            os.environ["GLOO_SOCKET_IFNAME"] = towards
            # NCCL would take one that only begins so, but for the sign.
            os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={towards}")
        if self.rank == 0:
            deadline = timedelta(seconds=self._config.start_deadline_seconds)
            where = (master_address, master_port, self._world_size)
            self._store = open_store(*where, hosts=True, timeout=deadline)
        self._load()

    def restart(self, config: LearnerConfig, objective: Objective, seed: int) -> None:
        """Begin another run in this process: the starting policy, a new optimiser.

        The ranks stay joined; engines must be connected anew.
        """
        if self._publisher is not None:
            self._publisher.close()
        self._publisher = self._engine = self._updater = None
        self._hooks = ()
        # The old engine's hooks refer to it in cycles, and its memory is needed.
        gc.collect()
        self.release()
        torch.manual_seed(seed)
        self._config, self._objective = config, objective
        self._load()

    def release(self) -> None:
        """Give the GPU memory back that torch keeps for later, so that an engine may have it."""
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _load(self) -> None:
        config = self._config
        with loading():
            engine = self._engine = DeepSpeedEngine(config, self._model_path, self._numerics)
        self._updater = Updater(engine, Loss.of(self._objective, config))
        self._hooks = ()
        if config.curvature.masks:
            head = DeepSpeedHead(engine, config.chosen_optimizer)
            self._hooks = (WithinCurvature(engine, head, config.curvature),)

    def update(
        self,
        groups: Sequence["ray.ObjectRef[Group] | None"],
        selections: Sequence[Selection],
        plans: Sequence[MinibatchPlan],
        version: int,
        progress: float,
    ) -> list[StepSums]:
        """Run one pass over a batch: one optimiser step per plan.

        Args:
            groups: A reference per group of the batch; None where this rank has nothing of it.
            selections: One per group, in the same order.
            plans: This rank's rows for each optimiser step.
            version: The learner's version before the pass.
            progress: Share of the run that is over before it, in [0, 1].

        Returns:
            This rank's sums, one per plan.
        """
        fetched = self._fetch(groups, [row for plan in plans for row in plan.rows])
        steps = [
            lay_out(fetched, selections, plan, version, shared_prefix=self._config.shares_prefixes)
            for plan in plans
        ]
        if self._config.behaviour == "recomputed":
            # All of the pass, before its first step changes the policy.
            steps = [(rows, self._recomputed(rows, origins)) for rows, origins in steps]
        # One share for the whole batch, so the same on every rank.
        share = min(selection.token_share for selection in selections)
        hooks = (TopTokens(self.engine, share), *self._hooks)
        assert self._updater is not None, "connect() comes first"
        self.engine.progress = progress
        return [self._updater.step(rows, origins, hooks) for rows, origins in steps]

    def _recomputed(
        self, rows: Sequence[MicroBatch], origins: Sequence[RowOrigin]
    ) -> list[RowOrigin]:
        return [
            replace(origin, old_logprobs=old)
            for origin, old in zip(origins, old_logprobs(self.engine, rows), strict=True)
        ]

    def gradient_norms(
        self,
        groups: Sequence["ray.ObjectRef[Group] | None"],
        rows: Sequence[Row],
        layer: str,
    ) -> list[npt.NDArray[np.float64]]:
        """Find norms of responses' scores under the present weights; see `learner.gradient_norms`.

        Args:
            groups: A reference per group; None where this rank has nothing of it.
            rows: This rank's rows.
            layer: One of `learner.gradient_norms.LAYERS`.

        Returns:
            Per row [S] float64, its responses' norms in order.
        """
        fetched = self._fetch(groups, rows)
        norms: list[npt.NDArray[np.float64]] = []
        for items in rows:
            row = unscored_row(fetched, items).to(self.engine.device)
            norms.append(self.engine.gradient_norms(row, layer).numpy())
        return norms

    def reference_kl(
        self, groups: Sequence["ray.ObjectRef[Group] | None"], rows: Sequence[Row]
    ) -> list[npt.NDArray[np.float64]]:
        """Estimate responses' divergence from the reference; see `learner.reference.response_kl`.

        Args:
            groups: A reference per group; None where this rank has nothing of it.
            rows: This rank's rows.

        Returns:
            Per row [S] float64, its responses' divergences in order, nats.
        """
        fetched = self._fetch(groups, rows)
        return [response_divergences(self.engine, fetched, row) for row in rows]

    def _fetch(
        self, refs: Sequence["ray.ObjectRef[Group] | None"], rows: Sequence[Row]
    ) -> dict[int, Group]:
        """Get the groups that the rows name, by their positions."""
        needed = sorted({k for row in rows for k, _ in row})
        fetched: list[Group] = ray.get(
            [ref for k in needed if (ref := refs[k]) is not None],
            timeout=self._config.update_deadline_seconds,
        )
        return dict(zip(needed, fetched, strict=True))

    def logprobs(
        self,
        sequences: Sequence[tuple[npt.ArrayLike, npt.ArrayLike]],
        temperature: float | None = None,
    ) -> list[npt.NDArray[np.float32]]:
        """Score responses under the present weights.

        Args:
            sequences: Prompt tokens [T_prompt] and response tokens [T] of each; the same on every
                rank.
            temperature: What divides the logits; None for the sampling temperature.

        Returns:
            [T] float32 log-probabilities per response.
        """
        with self.engine.at_temperature(temperature):
            return sequence_logprobs(self.engine, sequences, self._config.row_tokens)

    def connect_engines(
        self,
        handles: Sequence[Any],
        master_address: str,
        master_port: int,
        *,
        backend: str,
        workers_per_engine: int,
        deadline_seconds: float,
    ) -> None:
        """Choose the engines that weights are published to; see `WeightPublisher.connect`."""
        if self._publisher is None:
            self._publisher = publisher_of(self.engine, self._config)
        self._publisher.connect(
            handles,
            backend=backend,
            workers_per_engine=workers_per_engine,
            master_address=master_address,
            master_port=master_port,
            deadline_seconds=deadline_seconds,
        )

    def publish(self, version: int) -> tuple[float, int]:
        """Send what changed to all engines; returns seconds and bytes per receiver."""
        assert self._publisher is not None, "connect_engines() comes first"
        return self._publisher.publish(version)

    def disturb_weights(self) -> None:
        """See `DeepSpeedWeights.disturb`; for the start-up self-test."""
        self.engine.weights.disturb()

    def restore_weights(self) -> None:
        """See `DeepSpeedWeights.restore`."""
        self.engine.weights.restore()

    def save(self, path: str, tokenizer_path: str | None = None) -> None:
        """Write the policy as a Hugging Face checkpoint, with the tokenizer's files if given."""
        self.engine.weights.save(
            Path(path), None if tokenizer_path is None else Path(tokenizer_path)
        )

    def snapshot(self, folder: str, skipped_in_a_row: int) -> None:
        """Copy this rank's share of the state, and begin to write it; see `DeepSpeedState.copy`."""
        state, tensors = self.engine.state.copy(skipped_in_a_row)
        self._writer.begin(Path(folder), self.rank, state, tensors)

    def written(self) -> tuple[bool, Exception | None]:
        """See `BackgroundWriter.outcome`."""
        return self._writer.outcome()

    def obstacle(self, folder: str) -> str | None:
        """See `DeepSpeedState.obstacle`."""
        return self.engine.state.obstacle(Path(folder))

    def load_state(self, folder: str) -> int:
        """See `DeepSpeedState.load`; returns the optimiser steps since the last applied one."""
        return self.engine.state.load(Path(folder)).skipped_in_a_row
