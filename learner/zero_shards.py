"""What a rank's optimiser steps on in each ZeRO stage, and where in it the parameters lie.

    stage 0       every parameter by itself, whole, the same on all ranks
    stages 1, 2   the rank's part of a group's parameters, joined flat, in float32
    stage 3       the rank's part of each parameter, joined flat, in float32

DeepSpeed's ways to read a single parameter gather it from all ranks, cannot create what an
optimiser keeps from its first step on, and set the optimiser's copy but not the one that the policy
computes with. So this file, and no other, knows where DeepSpeed keeps things.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Fragment:
    """Says where a part of a parameter lies in what the optimiser steps on."""

    name: str
    """The parameter's."""
    first: int
    """Its first element in the parameter, counted flat."""
    offset: int
    """Its first element in what the optimiser steps on."""
    length: int
    """How many elements there are, at least 1."""


@dataclass(frozen=True, slots=True, eq=False)
class ZeroShard:
    """Holds one tensor that the optimiser steps on."""

    stepped: Tensor
    """The optimiser's own; keys of its state are such tensors."""
    whole: bool
    """Whether it is a parameter as it is, on every rank; otherwise it is flat."""
    names: tuple[str, ...]
    """All parameters of which the ranks together hold parts in it."""
    fragments: tuple[Fragment, ...]
    """Of those parameters what this rank holds; what is beyond them is padding."""


def whole_shape(parameter: nn.Parameter) -> tuple[int, ...]:
    """Return the shape of a parameter of which a rank may hold a part."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def check_kind(deepspeed_engine: Any) -> None:
    """Refuse what keeps its state where nobody here would find it.

    Raises:
        ValueError: If it is on NVMe, or kept by a kind of optimiser that is not known here.
    """
    optimizer = deepspeed_engine.optimizer
    if deepspeed_engine.zero_optimization_stage():
        known = ("DeepSpeedZeroOptimizer", "BF16_Optimizer", "DeepSpeedZeroOptimizer_Stage3")
        kind = type(optimizer).__name__
        if kind not in known or getattr(optimizer, "backup_optimizer", None) is not None:
            raise ValueError(
                "learner.deepspeed must leave the optimiser's state with one of "
                f"{', '.join(known)} for it to be saved, got {kind}"
            )
    for what in ("swap_optimizer", "params_in_nvme_and_cpu"):
        if getattr(optimizer, what, False):
            raise ValueError(
                "learner.deepspeed.zero_optimization must not offload to nvme for the learner's "
                f"state to be saved, got {what}"
            )


def torch_optimizer(deepspeed_engine: Any) -> Any:
    """Return torch's optimiser, which DeepSpeed's own, if any, is around."""
    optimizer = deepspeed_engine.optimizer
    return optimizer.optimizer if deepspeed_engine.zero_optimization_stage() else optimizer


def zero_shards_of(deepspeed_engine: Any, model: nn.Module, rank: int) -> list[ZeroShard]:
    """List what a rank's optimiser steps on, as the same list of parameters on every rank."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    optimizer, stage = deepspeed_engine.optimizer, deepspeed_engine.zero_optimization_stage()
    if stage == 0:
        return [
            ZeroShard(
                parameter,
                whole=True,
                names=(names[id(parameter)],),
                fragments=(Fragment(names[id(parameter)], 0, 0, parameter.numel()),),
            )
            for group in optimizer.param_groups
            for parameter in group["params"]
            if parameter.requires_grad and parameter.numel()
        ]
    found = []
    for stepped, group, places in _partitions(optimizer, stage, rank):
        fragments = [
            Fragment(names[id(parameter)], *place)
            for parameter, place in zip(group, places, strict=True)
            if place[-1] > 0
        ]
        found.append(
            ZeroShard(
                stepped,
                whole=False,
                names=tuple(names[id(parameter)] for parameter in group),
                fragments=tuple(fragments),
            )
        )
    return found


def _partitions(
    optimizer: Any, stage: int, rank: int
) -> Iterator[tuple[Tensor, Sequence[Any], list[tuple[int, int, int]]]]:
    """Yield a flat tensor, its group's parameters, and (first, offset, length) of each in it."""
    if stage == 3:
        flat_and_groups = zip(
            optimizer.fp32_partitioned_groups_flat, optimizer.fp16_groups, strict=True
        )
        for stepped, group in flat_and_groups:
            sizes = [parameter.partition_numel() for parameter in group]
            firsts = [rank * size for size in sizes]
            yield (
                stepped,
                group,
                [
                    (first, offset, min(size, parameter.ds_numel - first))
                    for parameter, first, offset, size in zip(
                        group, firsts, _offsets(sizes), sizes, strict=True
                    )
                ],
            )
        return
    if hasattr(optimizer, "round_robin_bit16_groups"):
        flats = optimizer.single_partition_of_fp32_groups
        # These are in the order in which they lie, with gaps between them if there are any.
        groups, offsets = optimizer.round_robin_bit16_groups, optimizer.round_robin_bit16_offsets
    else:
        flats, groups = optimizer.fp32_groups_flat_partition, optimizer.bf16_groups
        offsets = [_offsets([parameter.numel() for parameter in group]) for group in groups]
    for stepped, group, begins in zip(flats, groups, offsets, strict=True):
        mine = rank * stepped.numel()
        places = []
        for parameter, begin in zip(group, begins, strict=True):
            first, last = max(begin, mine), min(begin + parameter.numel(), mine + stepped.numel())
            places.append((first - begin, first - mine, last - first))
        yield stepped, group, places


def _offsets(sizes: Sequence[int]) -> list[int]:
    """Return where each of several things begins that lie one behind the other."""
    return list(accumulate(sizes, initial=0))[:-1]


def settle(deepspeed_engine: Any) -> None:
    """Have all take over what was set in the optimiser; every rank must call it.

    The policy computes with the new weights, in its own precision, and DeepSpeed finds the new
    state of each parameter.
    """
    optimizer, stage = deepspeed_engine.optimizer, deepspeed_engine.zero_optimization_stage()
    if stage == 0:
        return
    if stage == 3:
        # What is gathered is of the old weights.
        optimizer.checkpoint_event_prologue()
        for k in range(len(optimizer.fp16_groups)):
            optimizer._reassign_or_swap_out_partitioned_parameters(k)
        optimizer.checkpoint_event_epilogue()
        return
    optimizer.update_lp_params()
    # It is linked once, after the first step.
    optimizer._hp_optimizer_states_linked = False
    if optimizer.optimizer.state:
        optimizer._lazy_init_hp_params_optimizer_state()
