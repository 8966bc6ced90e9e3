"""What is kept of a learner beside the numbers in its tensors, and what of it fits another learner.

It is written as `learner.json`, see `learner.state_files`.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

DESCRIPTION = "learner.json"


@dataclass(frozen=True, slots=True)
class Layout:
    """Says what a whole tensor looks like.

    Example:
        Layout(dtype="float32", shape=[64, 128])
    """

    dtype: str
    """A name in torch."""
    shape: list[int]


@dataclass(frozen=True, slots=True)
class Number:
    """Holds a number that an optimiser keeps.

    Example:
        Number(value=12.0, dtype="float32", on_device=False)
    """

    value: float | int | bool | None
    dtype: str | None = None
    """torch's dtype where the optimiser keeps a tensor without dimensions; None for Python's."""
    on_device: bool = False
    """Whether that tensor is on the accelerator, with the weights."""


@dataclass(frozen=True, slots=True)
class ParameterState:
    """Says what is kept of a trained parameter.

    Example:
        ParameterState(
            weights=Layout("float32", [2, 3]),
            tensors={"exp_avg": Layout("float32", [2, 3]), "exp_avg_sq": Layout("float32", [2, 3])},
            numbers={"step": Number(12.0, "float32")},
        )
    """

    weights: Layout
    tensors: dict[str, Layout]
    """The optimiser's tensors by its keys."""
    numbers: dict[str, Number]
    """The optimiser's numbers by its keys."""


@dataclass(frozen=True, slots=True)
class LearnerState:
    """Says all that is not in a tensor: the content of `learner.json`.

    Example:
        LearnerState(
            num_ranks=1,
            dtype="float32",
            lora_rank=0,
            optimizer="torch.optim.sgd.SGD",
            applied_steps=12,
            skipped_in_a_row=0,
            loss_scale={},
            groups=[{}],
            parameters={"lm_head.weight": ParameterState(Layout("float32", [261, 64]), {}, {})},
        )
    """

    num_ranks: int
    """How many ranks wrote the tensors."""
    dtype: str
    """Precision that the policy computes in, a name in torch."""
    lora_rank: int
    """Rank of the adapters; 0 where all weights are trained."""
    optimizer: str
    """Module and name of torch's optimiser."""
    applied_steps: int
    """Optimiser steps that have changed the policy."""
    skipped_in_a_row: int
    """Optimiser steps since the last applied one."""
    loss_scale: dict[str, float | int]
    """What DeepSpeed's dynamic loss scaler keeps in float16, by attribute; empty otherwise."""
    groups: list[dict[str, float | int | bool]]
    """Per parameter group of the optimiser the settings that training has changed, without lr."""
    parameters: dict[str, ParameterState]
    """What is kept, by the parameter's name."""
    frozen: int = 0
    """A checksum of the weights that adapters go with; 0 without adapters."""

    def to_json(self) -> str:
        """Write it as JSON."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def read(cls, folder: Path) -> "LearnerState":
        """Read `learner.json` in a folder.

        Raises:
            ValueError: If it is not there, or not what `to_json` makes.
        """
        path = folder / DESCRIPTION
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            parameters = {
                name: ParameterState(
                    Layout(**kept["weights"]),
                    {key: Layout(**layout) for key, layout in kept["tensors"].items()},
                    {key: Number(**number) for key, number in kept["numbers"].items()},
                )
                for name, kept in found["parameters"].items()
            }
            return cls(**found | {"parameters": parameters})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is no description of a learner's state: {error!r}") from error


def difference(saved: LearnerState, mine: LearnerState) -> str | None:
    """Say what is of another kind than here, as part of a sentence; None if nothing is."""
    for key, there, here in (
        ("model.dtype", saved.dtype, mine.dtype),
        ("learner.lora.rank", saved.lora_rank, mine.lora_rank),
        ("the checksum of the weights in model.path", saved.frozen, mine.frozen),
        ("learner.optimizer", saved.optimizer, mine.optimizer),
        ("the number of its parameter groups", len(saved.groups), len(mine.groups)),
    ):
        if there != here:
            return f"{key} was {there} and is {here}"
    for name in [*mine.parameters, *saved.parameters]:
        theirs, ours = saved.parameters.get(name), mine.parameters.get(name)
        there, here = (
            "not trained" if kept is None else f"{kept.weights.dtype} {kept.weights.shape}"
            for kept in (theirs, ours)
        )
        if there != here:
            return f"{name} was {there} and is {here}"
    return None


def disagreement(saved: LearnerState, names: Sequence[str]) -> str | None:
    """Say which parameters cannot be joined flat, as in ZeRO stages 1 to 3; None if all can."""
    advice = "learner.zero_stage must be 0, as it was"
    first, *others = (saved.parameters[name] for name in names)
    for key, layout in first.tensors.items():
        if layout.shape != first.weights.shape:
            return f"{advice}: state {key} of {names[0]} is {layout.dtype} {layout.shape}"
    for name, other in zip(names[1:], others, strict=True):
        same_tensors = {key: layout.dtype for key, layout in first.tensors.items()} == {
            key: layout.dtype
            for key, layout in other.tensors.items()
            if layout.shape == other.weights.shape
        }
        if not (same_tensors and first.numbers == other.numbers):
            return (
                f"{advice}: the optimiser keeps {sorted(first.tensors)} and {first.numbers} of "
                f"{names[0]}, {sorted(other.tensors)} and {other.numbers} of {name}"
            )
    return None
