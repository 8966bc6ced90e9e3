"""What packing weights takes on a GPU while they are sent: arithmetic only."""

from __future__ import annotations

from conf.schema import RunConfig
from cost.prices.shape import ModelShape
from rollout.config import PACKED_BYTES


def sent_bytes(config: RunConfig, shape: ModelShape, *, on_gpu: bool) -> float:
    """Return the bytes of what a learner has packed, or packs, at a time; see `received_bytes`.

    Over NCCL what it packs is a copy where weights are gathered, or adapters merged into them.
    """
    learner = config.learner
    copies = learner.zero_stage == 3 or learner.lora.rank > 0
    over_nccl = not config.resources.shares
    received = received_bytes(config, shape, on_gpu=on_gpu)
    return received * (1.5 if copies and over_nccl else 1.0)


def received_bytes(config: RunConfig, shape: ModelShape, *, on_gpu: bool) -> float:
    """Return the bytes of what an engine's worker has received at a time and not yet loaded.

    The largest weight is taken to be that of the embeddings. Over gloo, and of adapters that are
    published by themselves, nothing lies on a GPU; over CUDA IPC there is one bucket at a time, of
    which the learner has the buffer and the engine a copy.
    """
    resources = config.resources
    if not on_gpu or config.learner.lora.published_rank:
        return 0.0
    value = 4 if config.model.dtype == "float32" else 2
    largest = float(value * shape.vocab_size * shape.hidden_size)
    if not resources.shares:
        return 2.0 * (PACKED_BYTES + largest)
    over_ipc = resources.cuda_ipc and resources.num_engines == resources.num_learners == 1
    return max(float(PACKED_BYTES), largest) if over_ipc else 0.0
