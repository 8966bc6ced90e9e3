"""Weights under the names that they have on disk, where a model holds them differently in memory.

transformers joins the experts of a layer into one tensor when it loads a model, and renames some
modules; engines and checkpoints know the names and shapes that were on disk.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

Metadata = tuple[str, torch.dtype, tuple[int, ...]]


def on_disk(model: Any, weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield weights by their names on disk.

    Args:
        model: The Hugging Face model, which knows what was done to its weights at loading.
        weights: Whole tensors by the model's parameter names.
    """
    if not converts(model):
        yield from weights.items()
        return
    from transformers.core_model_loading import revert_weight_conversion

    yield from revert_weight_conversion(model, dict(weights)).items()


def metadata_on_disk(model: Any, metadata: list[Metadata]) -> list[Metadata]:
    """List what `on_disk` yields if it is given one weight after the other.

    Raises:
        ValueError: If a weight on disk is made of several in memory.
    """
    if not converts(model):
        return metadata
    empty = {
        name: torch.empty(shape, dtype=dtype, device="meta") for name, dtype, shape in metadata
    }
    found = [
        (disk_name, tensor.dtype, tuple(tensor.shape))
        for name, weight in empty.items()
        for disk_name, tensor in on_disk(model, {name: weight})
    ]
    whole = {(name, tuple(tensor.shape)) for name, tensor in on_disk(model, empty)}
    if {(name, shape) for name, _, shape in found} != whole:
        raise ValueError(
            "model.path must hold weights that are not split when they are loaded, for engines are "
            "sent one after the other; choose another architecture or set "
            f"learner.lora.publish=adapters, got {type(model).__name__}"
        )
    return found


def name_on_disk(model: Any, name: str) -> str:
    """Return the name on disk of a parameter that is one tensor there, too."""
    empty = {name: torch.empty(1, device="meta")}
    return next(iter(on_disk(model, empty)))[0]


def converts(model: Any) -> bool:
    """Whether the model's weights have other names or shapes on disk."""
    return bool(getattr(model, "_weight_conversions", None))
