"""What a torch optimiser keeps between steps, taken apart into tensors and numbers.

Any optimiser fits whose state is numbers and tensors; in ZeRO stages 1 to 3, where parameters are
joined flat, only tensors with an element for each of the parameter's.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from learner.state_description import Number
from learner.state_files import DTYPES


def taken_apart(
    kept: Mapping[str, Any], stepped: Tensor, *, whole: bool
) -> tuple[dict[str, Tensor], dict[str, Number]]:
    """Sort what an optimiser keeps of a tensor that it steps on.

    Args:
        kept: Its state of that tensor, by key.
        stepped: The tensor.
        whole: Whether it is one parameter as it is, so that tensors may have any shape.

    Returns:
        Tensors and numbers, by key.

    Raises:
        ValueError: If something is neither, or has another shape.
    """
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Number] = {}
    for key, value in kept.items():
        if value is None or isinstance(value, bool | int | float):
            numbers[key] = Number(value)
        elif isinstance(value, Tensor) and value.ndim == 0:
            numbers[key] = Number(value.item(), dtype_name(value), value.device.type != "cpu")
        elif (
            isinstance(value, Tensor)
            and value.dtype in DTYPES
            and (whole or value.shape == stepped.shape)
        ):
            tensors[key] = value
        else:
            raise ValueError(
                "learner.optimizer must keep numbers and tensors of its parameters' shape for its "
                f"state to be saved, got {key!r} = {_described(value)}"
            )
    return tensors, numbers


def settings_of(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return a parameter group's settings; the learning rate is set before every step."""
    return {key: value for key, value in group.items() if key not in ("params", "lr")}


def changed_settings(group: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a group that its optimiser has changed since these were so before.

    Raises:
        ValueError: If one of them is no number.
    """
    changed = {}
    for key, value in settings_of(group).items():
        if not isinstance(value, Tensor) and key in before and value == before[key]:
            continue
        if not isinstance(value, bool | int | float):
            raise ValueError(
                "learner.optimizer must change nothing but numbers among its settings for its "
                f"state to be saved, got {key!r} = {_described(value)}"
            )
        changed[key] = value
    return changed


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a {dtype_name(value)} tensor of shape {list(value.shape)}"
    return f"a {type(value).__name__}"


def dtype_name(tensor: Tensor) -> str:
    """Return the name of a tensor's dtype in torch."""
    return str(tensor.dtype).removeprefix("torch.")


def made(number: Number, device: torch.device, *, fused: bool) -> Any:
    """Make what the optimiser keeps of a number again.

    Args:
        number: As it was taken apart, perhaps on another device.
        device: Of the tensors that the optimiser steps on.
        fused: Whether it steps in one kernel, which takes nothing of another device.
    """
    if number.dtype is None:
        return number.value
    return torch.tensor(
        number.value,
        dtype=getattr(torch, number.dtype),
        device=device if fused or number.on_device else "cpu",
    )
