"""Weights from the learner's rank 0 to every engine worker, through vLLM's weight-transfer API.

    LearnerWorker rank 0                        RolloutActor x R (each with its engine workers)
      open_sender -> TrainerWeightTransferEngine -- EngineClient: init/start/update/finish -->
                     send_weights  ============ tensors: NCCL or gloo broadcast ============>  load

On GPUs both ends are vLLM's own NCCL classes. vLLM has no backend for CPUs, so this module
registers "gloo" in both of vLLM's factories; engine workers load it through the
`vllm.general_plugins` entry point in pyproject.toml, which is why the project must be installed
where engines run.

Tied embeddings: vLLM's layerwise reload leaves a tied head stale without an error, so engines run
untied and `PolicySource` sends the head as an alias of the embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, ClassVar, Self

import torch
from torch.distributed import ProcessGroupGloo, TCPStore  # type: ignore[attr-defined]
from vllm.distributed.weight_transfer.base import (
    ParamMeta,
    TrainerInitInfo,
    TrainerWeightTransferEngine,
    WeightSource,
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import (
    WeightTransferEngineFactory,
    WeightTransferTrainerFactory,
)

BACKEND = "gloo"
TIMEOUT_SECONDS = 120.0


class PolicySource(WeightSource):
    """The policy's parameters as vLLM wants them: declared once, then streamed at every publish.

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
        self._aliases_of = {
            name: [alias for alias, target in aliases.items() if target == name] for name in by_name
        }
        self._metadata = [
            ParamMeta(key, dtype, tuple(shape))
            for name, (dtype, shape) in by_name.items()
            for key in (name, *self._aliases_of[name])
        ]

    @property
    def num_bytes(self) -> int:
        """Bytes on the wire for one publish to one receiver."""
        return sum(m.dtype.itemsize * torch.Size(m.shape).numel() for m in self._metadata)

    def metadata(self) -> list[ParamMeta]:
        """See `WeightSource.metadata`."""
        return self._metadata

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in self._parameters():
            for key in (name, *self._aliases_of[name]):
                yield key, tensor


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

    def _all(self, calls: list[Any]) -> None:
        import ray

        ray.get(calls, timeout=self._timeout_seconds)

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Let every engine join the transfer group."""
        first = init_info["rank_offset"]
        self._all(
            [
                handle.init_weight_transfer_engine.remote(
                    init_info | {"rank_offset": first + i * self._workers_per_engine}
                )
                for i, handle in enumerate(self._handles)
            ]
        )

    def start_weight_update(self) -> None:
        """Stop scheduling in every engine, as the update mode asks, and prepare to load."""
        self._all([handle.start_weight_update.remote() for handle in self._handles])

    def update_weights(self, update_info: Any) -> None:
        """Receive; runs while the sender broadcasts."""
        self._all([handle.update_weights.remote(update_info) for handle in self._handles])

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Finish loading, label what is sampled from now on, and resume."""
        version = int(weight_version) if weight_version is not None else self.version
        self._all([handle.finish_weight_update.remote(version) for handle in self._handles])


def _join(master_address: str, master_port: int, rank: int, world_size: int) -> ProcessGroupGloo:
    timeout = timedelta(seconds=TIMEOUT_SECONDS)
    store = TCPStore(
        master_address,
        master_port,
        world_size,
        is_master=rank == 0,
        timeout=timeout,
        wait_for_workers=False,
    )
    return ProcessGroupGloo(store, rank, world_size, timeout)


def _broadcast(group: ProcessGroupGloo, tensor: torch.Tensor) -> None:
    group.broadcast(tensor, 0).wait()  # type: ignore[attr-defined]


@dataclass(kw_only=True)
class GlooInitInfo(WeightTransferInitInfo):
    """What an engine worker needs to join the transfer group."""

    master_address: str
    master_port: int
    rank_offset: int
    world_size: int


@dataclass
class GlooUpdateInfo(WeightTransferUpdateInfo):
    """Names, dtypes and shapes in stream order."""

    names: list[str]
    dtype_names: list[str]
    shapes: list[list[int]]


class GlooWeightTransferEngine(WeightTransferEngine[GlooInitInfo, GlooUpdateInfo]):
    """Engine-worker half of the gloo backend."""

    init_info_cls = GlooInitInfo
    update_info_cls = GlooUpdateInfo
    _group: ProcessGroupGloo | None = None

    def init_transfer_engine(self, init_info: GlooInitInfo) -> None:
        """Join the learner's group at this worker's rank."""
        parallel = self.parallel_config
        rank = parallel.data_parallel_index * parallel.world_size + parallel.rank
        self._group = _join(
            init_info.master_address,
            init_info.master_port,
            rank + init_info.rank_offset,
            init_info.world_size,
        )

    def start_weight_update(self) -> None:
        """Open a layerwise reload: CPU kernels repack weights, so loading in place fails."""
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Receive without the base class's accelerator synchronisation, which CPUs lack."""
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: GlooUpdateInfo) -> None:
        """Receive and load one parameter after the other."""
        if self._group is None:
            raise RuntimeError("gloo weight transfer: init_transfer_engine has not been called")
        group = self._group

        def stream() -> Iterator[tuple[str, torch.Tensor]]:
            for name, dtype_name, shape in zip(
                update_info.names, update_info.dtype_names, update_info.shapes, strict=True
            ):
                tensor = torch.empty(shape, dtype=getattr(torch, dtype_name))
                _broadcast(group, tensor)
                yield name, tensor

        for name, tensor in stream():
            self.model.load_weights([(name, tensor)])  # type: ignore[operator]

    def finish_weight_update(self) -> None:
        """Close the layerwise reload."""
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        finalize_layerwise_reload(self.model, self.model_config)  # type: ignore[no-untyped-call]

    def shutdown(self) -> None:
        """Leave the group."""
        self._group = None


@dataclass
class GlooTrainerInitInfo(TrainerInitInfo):
    """Learner-side settings of the gloo backend."""

    backend: ClassVar[str] = BACKEND

    master_address: str
    master_port: int
    world_size: int


class GlooTrainerWeightTransferEngine(TrainerWeightTransferEngine[GlooTrainerInitInfo]):
    """Learner half of the gloo backend; rank 0 sends, the other ranks only help to gather."""

    init_info_cls = GlooTrainerInitInfo
    _group: ProcessGroupGloo | None = None

    @classmethod
    def trainer_init(
        cls, init_info: GlooTrainerInitInfo, *, client: Any, source: WeightSource | None = None
    ) -> Self:
        """Open the group together with the engines; see `TrainerWeightTransferEngine`."""
        engine = cls(client=client, source=source, is_sender=init_info.is_sender)
        if not engine.is_sender:
            return engine
        payload = GlooInitInfo(
            master_address=init_info.master_address,
            master_port=init_info.master_port,
            rank_offset=1,
            world_size=init_info.world_size,
        )
        with ThreadPoolExecutor(max_workers=1) as side:
            joined = side.submit(client.init_weight_transfer_engine, asdict(payload))
            engine._group = _join(
                init_info.master_address, init_info.master_port, 0, init_info.world_size
            )
            joined.result()
        return engine

    def send_weights(self) -> None:
        """Stream the source once; called on every learner rank."""
        assert self.source is not None
        if not self.is_sender:
            for _ in self.source:
                pass
            return
        assert self._group is not None
        metadata = self.source.metadata()
        info = GlooUpdateInfo(
            names=[m.name for m in metadata],
            dtype_names=[str(m.dtype).removeprefix("torch.") for m in metadata],
            shapes=[list(m.shape) for m in metadata],
        )
        self.client.start_weight_update()
        side = ThreadPoolExecutor(max_workers=1)
        try:
            received = side.submit(self.client.update_weights, asdict(info))
            for (name, tensor), expected in zip(self.source, metadata, strict=True):
                if name != expected.name or tuple(tensor.shape) != expected.shape:
                    raise ValueError(
                        f"weight source: declared {expected.name} {expected.shape}, "
                        f"got {name} {tuple(tensor.shape)}"
                    )
                _broadcast(self._group, tensor.detach().contiguous())
            received.result()
        finally:
            # After a failed broadcast the receiver never returns; joining it would hang here too.
            side.shutdown(wait=False)
        self.client.finish_weight_update()

    def shutdown(self) -> None:
        """Leave the group."""
        self._group = None


def register() -> None:
    """Add "gloo" to vLLM's factories; vLLM calls this in every process, possibly twice."""
    if BACKEND not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(BACKEND, GlooWeightTransferEngine)
    if BACKEND not in WeightTransferTrainerFactory._registry:
        WeightTransferTrainerFactory.register_engine(BACKEND, GlooTrainerWeightTransferEngine)


def open_sender(
    *,
    on_gpu: bool,
    rank: int,
    master_address: str,
    master_port: int,
    num_receivers: int,
    client: EngineClient,
    source: PolicySource,
) -> TrainerWeightTransferEngine[Any]:
    """Join learner and engines into one transfer group and return the learner's end.

    Called on every learner rank; only rank 0 opens a connection.

    Args:
        on_gpu: NCCL when True, gloo otherwise.
        rank: This learner's rank.
        master_address: Host of learner rank 0, reachable from the engines.
        master_port: A free port there.
        num_receivers: Engine workers in all (engines times tensor parallel size).
        client: Control plane to the engines.
        source: What to send.
    """
    register()
    where = (master_address, master_port, num_receivers + 1)
    info: TrainerInitInfo
    if on_gpu:
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

        info = NCCLTrainerInitInfo(*where, rank=rank)
    else:
        info = GlooTrainerInitInfo(*where, rank=rank)
    return WeightTransferTrainerFactory.trainer_init(info, client=client, source=source)
