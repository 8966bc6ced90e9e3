"""Weights from the learner's rank 0 to every engine worker, through vLLM's weight-transfer API.

    LearnerWorker rank 0                        RolloutActor x R (each with its engine workers)
      open_sender -> Sender -- EngineClient: init/start/update/finish -->
                     send_weights  ======= tensors: NCCL or gloo broadcast, CUDA IPC ======>  load

On GPUs vLLM's NCCL backend is used, with what `rollout.nccl_transfer` adds to it, and its CUDA IPC
with `rollout.ipc_transfer` where an engine and a learner have one GPU. vLLM has no backend for
CPUs, nor one for engines of which some share a GPU with the learner and some do not: that of
`rollout.gloo_transfer`. This module registers them in vLLM's factory; engine workers load them
through the `vllm.general_plugins` entry point in pyproject.toml, which is why the project must be
installed where engines run. A learner imports vLLM only where it sends through vLLM's backends.

Tied embeddings: vLLM's layerwise reload leaves a tied head stale without an error, so engines run
untied and `PolicySource` sends the head as an alias of the embedding.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch

from rollout.stack_traces import offer

BACKENDS = ("nccl", "ipc", "gloo")


class WeightMetadata(NamedTuple):
    """What a parameter is declared to be."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    """Full shape, unpartitioned."""


class PolicySource:
    """The policy's parameters as vLLM wants them: declared once, then streamed at every publish.

    It is what vLLM calls a `WeightSource`, as far as its NCCL and IPC backends ask for one.

    Args:
        metadata: (name, dtype, full shape) of every parameter, in stream order.
        parameters: Starts a fresh pass over (name, full tensor) in the same order; a collective
            over the learner's ranks when parameters are partitioned.
        aliases: Extra name -> name of the parameter it is tied to.
    """

    def __init__(
        self,
        metadata: Sequence[tuple[str, torch.dtype, tuple[int, ...]]],
        parameters: Callable[[], Iterator[tuple[str, torch.Tensor]]],
        aliases: Mapping[str, str],
    ) -> None:
        by_name = {name: (dtype, shape) for name, dtype, shape in metadata}
        self._parameters = parameters
        self._pass: Iterator[tuple[str, torch.Tensor]] | None = None
        self._aliases_of = {
            name: [alias for alias, target in aliases.items() if target == name] for name in by_name
        }
        self._metadata = [
            WeightMetadata(key, dtype, tuple(shape))
            for name, (dtype, shape) in by_name.items()
            for key in (name, *self._aliases_of[name])
        ]

    @property
    def num_bytes(self) -> int:
        """Bytes that one publish sends to one receiver."""
        return sum(m.dtype.itemsize * torch.Size(m.shape).numel() for m in self._metadata)

    def metadata(self) -> list[WeightMetadata]:
        """Declare what a pass yields, in its order."""
        return self._metadata

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in self._parameters() if self._pass is None else self._pass:
            for key in (name, *self._aliases_of[name]):
                yield key, tensor

    @contextmanager
    def to_its_end(self) -> Iterator[None]:
        """Make one pass within, to its end also where whoever iterates breaks off, or never begins.

        Where parameters are partitioned the other ranks wait for this one at each of them.
        """
        self._pass = self._parameters()
        try:
            yield
        finally:
            deque(self._pass, maxlen=0)
            self._pass = None


class EngineClient:
    """vLLM's four-method client protocol over RolloutActor handles, with a deadline per call.

    Every engine counts its own workers from 0, so the client shifts `rank_offset` per engine; and
    since vLLM's senders finish an update without naming it, the client adds `version`.
    """

    def __init__(
        self, handles: Sequence[Any], workers_per_engine: int, timeout_seconds: float
    ) -> None:
        self._handles = list(handles)
        self._workers_per_engine = workers_per_engine
        self._timeout_seconds = timeout_seconds
        self.version = 0
        self.give_up: Callable[[], None] = lambda: None
        """Called where an engine fails to receive, so that nobody waits any longer to send."""

    def _all(self, calls: list[Any]) -> None:
        import ray

        ray.get(calls, timeout=self._timeout_seconds)

    def leave_weight_transfer(self) -> None:
        """Let every engine leave the transfer group that it is in.

        Before a new one is made, so that nobody waits there for an engine that cannot.
        """
        self._all([handle.leave_weight_transfer.remote() for handle in self._handles])

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Let every engine join the transfer group; over CUDA IPC there are no ranks to give."""
        infos = [dict(init_info) for _ in self._handles]
        if (first := init_info.get("rank_offset")) is not None:
            for i, info in enumerate(infos):
                info["rank_offset"] = first + i * self._workers_per_engine
        pairs = zip(self._handles, infos, strict=True)
        self._all([handle.init_weight_transfer_engine.remote(info) for handle, info in pairs])

    def start_weight_update(self) -> None:
        """Stop scheduling in every engine, as the update mode asks, and prepare to load.

        An update that is begun can only be finished, so none is unless every engine is well.
        """
        self._all([handle.check.remote() for handle in self._handles])
        self._all([handle.start_weight_update.remote() for handle in self._handles])

    def update_weights(self, update_info: Any) -> None:
        """Let every engine receive; it returns when what is broadcast, or lies ready, is there."""
        try:
            self._all([handle.update_weights.remote(update_info) for handle in self._handles])
        except Exception:
            self.give_up()
            raise

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Finish loading, label what is sampled from now on, and resume."""
        version = int(weight_version) if weight_version is not None else self.version
        self._all([handle.finish_weight_update.remote(version) for handle in self._handles])


class Sender(Protocol):
    """The learner's end of a transfer group, at one rank."""

    def send_weights(self) -> None:
        """Stream the source once to all engines; every learner rank must call it."""

    def shutdown(self) -> None:
        """Leave the group."""


def register() -> None:
    """Put ours into vLLM's factory; vLLM calls this in every process, possibly twice.

    They are imported when one is asked for: those for GPUs load CUDA's libraries. The process's
    stacks can be taken from then on, too; see `rollout.stack_traces`.
    """
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    offer()
    for backend in BACKENDS:
        # In the place of vLLM's own.
        WeightTransferEngineFactory._registry.pop(backend, None)
        name = f"{backend.capitalize()}WeightTransferEngine"
        WeightTransferEngineFactory.register_engine(backend, f"rollout.{backend}_transfer", name)


def open_sender(
    *,
    backend: str,
    rank: int,
    master_address: str,
    master_port: int,
    num_receivers: int,
    client: EngineClient,
    source: PolicySource,
) -> Sender:
    """Join learner and engines into one transfer group and return the learner's end.

    Called on every learner rank; only rank 0 opens a connection.

    Args:
        backend: What carries the tensors, one of `BACKENDS`; the engines have the same.
        rank: This learner's rank.
        master_address: Host of learner rank 0, reachable from the engines.
        master_port: A free port there.
        num_receivers: Engine workers in all (engines times tensor parallel size).
        client: Tells the engines to join, to receive and to load.
        source: The parameters to send.
    """
    where = (master_address, master_port, num_receivers + 1)
    if backend == "gloo":
        from rollout.gloo_sender import GlooSender

        return GlooSender.open(rank, *where, client=client, source=source)
    # It has what they ask of a `WeightSource`.
    theirs: Any = source
    if backend == "ipc":
        from rollout.ipc_transfer import IpcTrainerWeightTransferEngine, ipc_settings

        settings = ipc_settings(rank, source.metadata())
        return IpcTrainerWeightTransferEngine.trainer_init(settings, client=client, source=theirs)
    from rollout.nccl_transfer import NcclTrainerWeightTransferEngine, break_off, nccl_settings

    sender = NcclTrainerWeightTransferEngine.trainer_init(
        nccl_settings(rank, *where), client=client, source=theirs
    )
    client.give_up = partial(break_off, sender)
    return sender
