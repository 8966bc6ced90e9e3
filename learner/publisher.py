"""How one learner rank makes its weights available to the engines.

All ranks take part in every publish: under ZeRO-3 each weight is gathered from all of them. Rank 0
sends. Weights go through vLLM's weight transfer, see `rollout.weight_transfer`; adapters are small
and go through Ray's object store, as the files that peft writes and vLLM reads.
"""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import ray
import torch

from learner.config import LearnerConfig
from learner.deepspeed_engine import DeepSpeedEngine
from learner.disk_names import name_on_disk
from rollout.weight_transfer import EngineClient, PolicySource, open_sender

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_HEADLESS = ("gemma2", "gemma3n", "gemma3n_text", "cohere", "cohere2", "cohere2_moe")
"""Kinds of models whose logits vLLM takes from the embedding itself."""


class WeightPublisher:
    """Sends all weights, adapters merged into them.

    Args:
        engine: The training engine, already built.
    """

    def __init__(self, engine: DeepSpeedEngine) -> None:
        self._engine = engine
        self._source = PolicySource(
            engine.weights.published_metadata(),
            engine.weights.published,
            {
                name_on_disk(engine.model, head): name_on_disk(engine.model, embedding)
                for head, embedding in tied_head(engine.model).items()
            },
        )
        self._sender: Any = None
        self._client: EngineClient | None = None

    def connect(
        self,
        handles: Sequence[Any],
        *,
        backend: str,
        workers_per_engine: int,
        master_address: str,
        master_port: int,
        deadline_seconds: float,
    ) -> None:
        """Choose the engines, which leave an older transfer group and join a new one.

        Args:
            handles: RolloutActor handles.
            backend: What carries the weights; see `rollout.weight_transfer`.
            workers_per_engine: Tensor parallel size of each engine.
            master_address: Rank 0's host.
            master_port: A free port there.
            deadline_seconds: Limit of every call to an engine.
        """
        if self._sender is not None:
            self._sender.shutdown()
        self._client = EngineClient(handles, workers_per_engine, deadline_seconds)
        if self._engine.rank == 0:
            self._client.leave_weight_transfer()
        self._sender = open_sender(
            backend=backend,
            rank=self._engine.rank,
            master_address=master_address,
            master_port=master_port,
            num_receivers=len(handles) * workers_per_engine,
            client=self._client,
            source=self._source,
        )

    def close(self) -> None:
        """Leave the transfer group."""
        if self._sender is not None:
            self._sender.shutdown()

    def publish(self, version: int) -> tuple[float, int]:
        """Send all weights as `version`.

        Returns:
            Wall-clock seconds, and bytes sent to each receiver.
        """
        assert self._client is not None, "connect() comes first"
        began = time.monotonic()
        self._client.version = version
        if self._engine.device.type == "cuda":
            # vLLM reads weights on streams of its own, which wait for no other.
            torch.cuda.synchronize()
        with self._source.to_its_end():
            self._sender.send_weights()
        return time.monotonic() - began, self._source.num_bytes


class AdapterPublisher:
    """Sends adapters to engines that hold the weights that the run starts from.

    Args:
        engine: The training engine, already built.
    """

    def __init__(self, engine: DeepSpeedEngine) -> None:
        self._engine = engine
        self._handles: list[Any] = []
        self._deadline_seconds = 0.0

    def connect(self, handles: Sequence[Any], *, deadline_seconds: float, **_: Any) -> None:
        """Choose the engines; see `WeightPublisher.connect`. There is no group to join."""
        self._handles, self._deadline_seconds = list(handles), deadline_seconds

    def publish(self, version: int) -> tuple[float, int]:
        """Send the adapters as `version`; see `WeightPublisher.publish`."""
        began = time.monotonic()
        files = self._engine.weights.adapter_files()
        if files:
            # Stored once, however many engines fetch it.
            stored = ray.put(files)
            calls = [handle.load_adapter.remote(version, stored) for handle in self._handles]
            ray.get(calls, timeout=self._deadline_seconds)
        return time.monotonic() - began, sum(map(len, files.values()))

    def close(self) -> None:
        """Forget the engines."""
        self._handles = []


Publisher = WeightPublisher | AdapterPublisher


def publisher_of(engine: DeepSpeedEngine, config: LearnerConfig) -> Publisher:
    """Choose what the learner's settings ask for: all weights, or adapters by themselves."""
    return AdapterPublisher(engine) if config.lora.published_rank else WeightPublisher(engine)


def tied_head(model: "PreTrainedModel") -> dict[str, str]:
    """Name of the output head and of the embedding it is tied to; empty when untied.

    It is empty too where the engine has no head to load.
    """
    if model.config.model_type in _HEADLESS:
        return {}
    head: Any = model.get_output_embeddings()
    embedding: Any = model.get_input_embeddings()
    if head is None or head.weight is not embedding.weight:
        return {}
    names = {id(module): name for name, module in model.named_modules()}
    return {f"{names[id(head)]}.weight": f"{names[id(embedding)]}.weight"}
