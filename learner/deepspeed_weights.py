"""The weights of a policy that DeepSpeed trains, whole: to publish, to save and to disturb.

Under ZeRO-3 each rank holds a part of every weight, so that all ranks must take part in all of it.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from learner import disk_names, lora
from learner.checkpoint import save_checkpoint
from learner.config import LearnerConfig
from learner.zero_shards import whole_shape

DISTURBANCE = 0.05
"""Standard deviation of the noise in adapters, see `DeepSpeedWeights.disturb`."""


class Holder(Protocol):
    """What holds the policy: `learner.deepspeed_engine.DeepSpeedEngine`, of which this is used."""

    config: LearnerConfig
    model: Any
    """The Hugging Face model."""
    adapted: Any
    """peft's view of it; None without adapters."""

    @property
    def rank(self) -> int:
        """Return this process's place among the ranks."""
        ...

    def whole(self, parameters: Sequence[torch.nn.Parameter]) -> AbstractContextManager[Any]:
        """Make parameters whole within a block, also under ZeRO-3; every rank must enter."""
        ...

    def agree(self, value: bool) -> bool:
        """Return whether the value is true on every rank; every rank must ask."""
        ...


class DeepSpeedWeights:
    """Gives others a policy: its weights, adapters merged, and its adapters.

    Args:
        engine: It has loaded its model, and attached the adapters.
    """

    def __init__(self, engine: Holder) -> None:
        self._engine = engine
        self._weights = list(lora.weights_of(engine.model))
        # By name: what moves a model to its device puts others in their place.
        self._buffers = lasting_buffers(engine.model)
        self._undisturbed: list[Tensor] = []

    def metadata(self) -> list[disk_names.Metadata]:
        """List name, dtype and full shape of every weight in the order of `full`."""
        weights = [
            (weight.name, weight.parameter.dtype, whole_shape(weight.parameter))
            for weight in self._weights
        ]
        return weights + [
            (name, buffer.dtype, tuple(buffer.shape)) for name, buffer in self._held_buffers()
        ]

    def published_metadata(self) -> list[disk_names.Metadata]:
        """List name, dtype and full shape of every weight in the order of `published`."""
        return disk_names.metadata_on_disk(self._engine.model, self.metadata())

    def published(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every weight as `full`, by its name and in its shape on disk, as engines load it.

        A weight that is several on disk is yielded as these.
        """
        for name, tensor in self.full():
            yield from disk_names.on_disk(self._engine.model, {name: tensor})

    def full(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every weight, whole, by its Hugging Face name; all ranks must iterate together.

        Adapters are merged into the weights that they change. A tensor is only valid until the next
        one is asked for. Tied weights come once, under the embedding's name. Buffers that a
        checkpoint has come last: whoever loads one without them makes up others.
        """
        for weight in self._weights:
            with self._engine.whole(weight.parts):
                yield weight.name, weight.merged()
        yield from self._held_buffers()

    def _held_buffers(self) -> list[tuple[str, Tensor]]:
        return [(name, self._engine.model.get_buffer(name)) for name in self._buffers]

    @torch.no_grad()
    def disturb(self) -> None:
        """Change everything that is published, so that engines that miss a part of it stand out.

        Weights are halved, which is exact. Of adapters that are published by themselves, B is
        replaced by noise: at the start of a run it is zero. The optimiser's own copies stay as they
        are: `restore` before the next step.
        """
        if not self._engine.config.lora.published_rank:
            self._scale_weights(0.5)
            return
        # On every rank the same, so that what ranks hold alike stays alike.
        generator = torch.Generator().manual_seed(0)
        for own in self._published_adapters():
            self._undisturbed.append(own.clone())
            own.copy_(DISTURBANCE * torch.randn(own.shape, generator=generator))

    @torch.no_grad()
    def restore(self) -> None:
        """Undo `disturb`, to the bit."""
        if not self._engine.config.lora.published_rank:
            self._scale_weights(2.0)
            return
        for own, before in zip(self._published_adapters(), self._undisturbed, strict=True):
            own.copy_(before)
        self._undisturbed = []

    def _published_adapters(self) -> list[Tensor]:
        """Return what this rank holds of every adapter's B."""
        halves = [weight.b for weight in self._weights if weight.b is not None]
        return [_own_share(half) for half in halves]

    def _scale_weights(self, factor: float) -> None:
        for weight in self._weights:
            # An adapter's change is a product: one of its two halves.
            for part in (weight.parameter, weight.b):
                for held in [] if part is None else _held(part):
                    held.mul_(factor)
        for _, buffer in self._held_buffers():
            if buffer.is_floating_point():
                buffer.mul_(factor)

    def save(self, path: Path, tokenizer_path: Path | None = None) -> None:
        """Write the policy as a Hugging Face checkpoint; all ranks must call it, rank 0 writes.

        Adapters are merged into it, and stand by themselves in its subfolder `adapter`. Where rank
        0 cannot write it raises, and all can save again.
        """
        weights, error = {}, None
        for name, tensor in self.full():
            if self._engine.rank == 0:
                weights[name] = tensor.to("cpu", copy=True)
        adapter = self.adapter_tensors()
        if self._engine.rank == 0:
            write_adapter = None
            if self._engine.adapted is not None:
                write_adapter = partial(lora.save_adapter, self._engine.adapted, adapter)
            try:
                save_checkpoint(self._engine.model, weights, path, tokenizer_path, write_adapter)
            except Exception as failed:
                error = failed
        # Nobody reads the checkpoint before it is there, or waits for one that will not be.
        self._engine.agree(error is None)
        if error is not None:
            raise error

    def adapter_files(self) -> dict[str, bytes]:
        """Return the adapters as peft's files, content by name, on rank 0; every rank must ask."""
        adapter = self.adapter_tensors()
        if self._engine.rank:
            return {}
        assert self._engine.adapted is not None, "there are no adapters"
        return lora.adapter_files(self._engine.adapted, adapter)

    def adapter_tensors(self) -> dict[str, Tensor]:
        """Return whole adapter tensors, on the CPU by name, on rank 0; every rank must ask."""
        tensors: dict[str, Tensor] = {}
        if self._engine.adapted is None:
            return tensors
        for name, parameter in self._engine.model.named_parameters():
            if parameter.requires_grad:
                with self._engine.whole([parameter]):
                    if self._engine.rank == 0:
                        tensors[name] = parameter.detach().to("cpu", copy=True)
        return tensors


def lasting_buffers(model: torch.nn.Module) -> list[str]:
    """Name the buffers that are part of a model's checkpoint, such as biases of DeepSeek's routers.

    Nothing trains them.
    """
    lasting = model.state_dict().keys()
    return [name for name, _ in model.named_buffers() if name in lasting]


def _own_share(parameter: torch.nn.Parameter) -> Tensor:
    """What this rank holds of a parameter: under ZeRO-3 a part, which lies outside of it."""
    share: Tensor = getattr(parameter, "ds_tensor", parameter).data
    return share


def _held(parameter: torch.nn.Parameter) -> list[Tensor]:
    """Return all that this rank holds of a parameter.

    Beside its share ZeRO-3 keeps small parameters whole between steps.
    """
    share, own = _own_share(parameter), parameter.data
    whole = own.numel() == math.prod(whole_shape(parameter))
    return [share, own] if whole and own.data_ptr() != share.data_ptr() else [share]
