"""The learner's end of the weight transfer over gloo; the engines' is `rollout.gloo_transfer`.

It imports nothing of vLLM, which takes nearly as long as all else that a learner imports.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING

import torch
from torch.distributed import ProcessGroupGloo

from rollout.gloo_group import TIMEOUT_SECONDS, Contents, Meeting, broadcast, join
from rollout.rendezvous import host_group

if TYPE_CHECKING:
    from rollout.weight_transfer import EngineClient, PolicySource, WeightMetadata


def _declared(source: PolicySource, metadata: Sequence[WeightMetadata]) -> Iterator[torch.Tensor]:
    """Yield what a source has; ValueError if it is not what was declared."""
    for (name, tensor), declared in zip(source, metadata, strict=True):
        found = (name, tensor.dtype, tuple(tensor.shape))
        if found != declared:
            raise ValueError(
                "weight source: declared {} {} {}, got {} {} {}".format(*declared, *found)
            )
        yield tensor.detach()


class GlooSender:
    """Rank 0 sends, the others only help to gather.

    Args:
        client: Tells the engines to join, to receive and to load.
        source: The parameters to send.
        group: That all engines are in; None at other ranks than 0.
    """

    def __init__(
        self, client: EngineClient, source: PolicySource, group: ProcessGroupGloo | None
    ) -> None:
        self._client, self._source, self._group = client, source, group

    @classmethod
    def open(
        cls,
        rank: int,
        master_address: str,
        master_port: int,
        world_size: int,
        *,
        client: EngineClient,
        source: PolicySource,
    ) -> GlooSender:
        """Open the group together with the engines; see `rollout.weight_transfer.open_sender`."""
        if rank:
            return cls(client, source, None)
        meeting = Meeting(
            master_address=master_address,
            master_port=master_port,
            rank_offset=1,
            world_size=world_size,
        )
        group = host_group(
            master_address,
            master_port,
            world_size,
            timeout=timedelta(seconds=TIMEOUT_SECONDS),
            ask=lambda: client.init_weight_transfer_engine(asdict(meeting)),
            enter=lambda store: join(store, 0, world_size, master_address),
        )
        return cls(client, source, group)

    def send_weights(self) -> None:
        """Stream the source once to all engines; every learner rank must call it.

        Raises:
            ValueError: If the source yields another tensor than it declared.
        """
        if self._group is None:
            deque(self._source, maxlen=0)
            return
        metadata = self._source.metadata()
        contents = Contents(
            names=[m.name for m in metadata],
            dtype_names=[str(m.dtype).removeprefix("torch.") for m in metadata],
            shapes=[list(m.shape) for m in metadata],
        )
        self._client.start_weight_update()
        side = ThreadPoolExecutor(max_workers=1)
        try:
            received = side.submit(self._client.update_weights, asdict(contents))
            tensors = _declared(self._source, metadata)
            for bucket in contents.buckets():
                broadcast(self._group, bucket.packed(tensors))
            # To its end, where what was gathered last is let go of.
            deque(tensors, maxlen=0)
            received.result()
        finally:
            # After a failed broadcast the receiver never returns; joining it would hang here too.
            side.shutdown(wait=False)
        self._client.finish_weight_update()

    def shutdown(self) -> None:
        """Leave the group."""
        self._group = None
