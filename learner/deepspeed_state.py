"""All that training with DeepSpeed keeps between optimiser steps: to copy, and to set again.

The optimiser's float32 weights, its own state, the loss scale, the number of applied steps and
torch's random generators. Of what is trained only: under adapters not the weights below them, of
which a checksum says whether they are the same. Each rank copies what it holds, without a word to
the others; in ZeRO stage 0, where all hold everything, each copies its share of every tensor.
Settings are not state.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from learner.config import LearnerConfig
from learner.numerics import Numerics
from learner.optimizer_state import changed_settings, dtype_name, made, settings_of, taken_apart
from learner.state_description import (
    Layout,
    LearnerState,
    ParameterState,
    difference,
    disagreement,
)
from learner.state_files import (
    RANDOM,
    STATE,
    WEIGHTS,
    StateFiles,
    opened,
    piece_name,
    random_name,
)
from learner.zero_shards import (
    ZeroShard,
    check_kind,
    settle,
    torch_optimizer,
    whole_shape,
    zero_shards_of,
)

_SCALER = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")
"""What DeepSpeed's dynamic loss scaler changes."""


class Trained(Protocol):
    """What is trained: `learner.deepspeed_engine.DeepSpeedEngine`, of which this is used."""

    config: LearnerConfig
    numerics: Numerics
    model: Any
    num_applied_steps: int
    frozen: int

    @property
    def rank(self) -> int:
        """Return this process's place among the ranks."""
        ...

    @property
    def num_ranks(self) -> int:
        """Return how many ranks there are."""
        ...


class DeepSpeedState:
    """Copies and sets the state of a policy that DeepSpeed trains, between optimiser steps.

    Args:
        engine: Ours.
        deepspeed_engine: DeepSpeed's, before its first step.
    """

    def __init__(self, engine: Trained, deepspeed_engine: Any) -> None:
        self._engine = engine
        self._deepspeed = deepspeed_engine
        self._optimizer = torch_optimizer(deepspeed_engine)
        self._settings = [settings_of(group) for group in self._optimizer.param_groups]

    def copy(self, skipped_in_a_row: int = 0) -> tuple[LearnerState, dict[str, Tensor]]:
        """Copy this rank's share into host memory; nothing that is trained later changes it.

        Args:
            skipped_in_a_row: Optimiser steps since the last applied one.

        Returns:
            What there is, the same on every rank, and flat tensors [n] by their names in files.

        Raises:
            ValueError: If the optimiser keeps what cannot be saved.
        """
        state = self.describe(skipped_in_a_row)
        rank = self._engine.rank
        tensors = {
            name: piece.detach().to("cpu", copy=True)
            for shard in self._shards()
            for name, piece in self._pieces(shard)
        }
        for kind, generator in _random_states().items():
            tensors[piece_name(RANDOM, random_name(kind, rank), 0)] = generator
        return state, tensors

    def describe(self, skipped_in_a_row: int = 0) -> LearnerState:
        """Say what there is; arguments and errors as for `copy`."""
        check_kind(self._deepspeed)
        scaler: Any = getattr(self._deepspeed.optimizer, "loss_scaler", None)
        dynamic = getattr(scaler, "dynamic", False)
        return LearnerState(
            num_ranks=self._engine.num_ranks,
            dtype=self._engine.numerics.dtype,
            lora_rank=self._engine.config.lora.rank,
            optimizer=f"{type(self._optimizer).__module__}.{type(self._optimizer).__name__}",
            applied_steps=self._engine.num_applied_steps,
            skipped_in_a_row=skipped_in_a_row,
            loss_scale={key: getattr(scaler, key) for key in _SCALER} if dynamic else {},
            groups=[
                changed_settings(group, before)
                for group, before in zip(self._optimizer.param_groups, self._settings, strict=True)
            ],
            parameters={
                name: kept
                for shard in self._shards()
                for name, kept in self._parameter_states(shard)
            },
            frozen=self._engine.frozen,
        )

    def _shards(self) -> list[ZeroShard]:
        return zero_shards_of(self._deepspeed, self._engine.model, self._engine.rank)

    def _kept(self, shard: ZeroShard) -> dict[str, Any]:
        """Return the optimiser's state of what it steps on, empty before the first step."""
        kept: dict[str, Any] = self._optimizer.state.get(shard.stepped, {})
        return kept

    def _parameter_states(self, shard: ZeroShard) -> Iterator[tuple[str, ParameterState]]:
        """Describe what is kept of each parameter of a shard."""
        tensors, numbers = taken_apart(self._kept(shard), shard.stepped, whole=shard.whole)
        for name in shard.names:
            shape = list(whole_shape(self._engine.model.get_parameter(name)))
            yield (
                name,
                ParameterState(
                    Layout(dtype_name(shard.stepped), shape),
                    {
                        key: Layout(dtype_name(value), list(value.shape) if shard.whole else shape)
                        for key, value in tensors.items()
                    },
                    numbers,
                ),
            )

    def _pieces(self, shard: ZeroShard) -> Iterator[tuple[str, Tensor]]:
        """Yield flat what this rank is to copy of a shard, by names in files."""
        found = {WEIGHTS: shard.stepped}
        for key, value in self._kept(shard).items():
            if isinstance(value, Tensor) and value.ndim:
                found[STATE + key] = value
        for what, tensor in found.items():
            if shard.whole:
                rank, ranks = self._engine.rank, self._engine.num_ranks
                begin, end = (tensor.numel() * k // ranks for k in (rank, rank + 1))
                if begin < end:
                    name = piece_name(what, shard.names[0], begin)
                    yield name, tensor.reshape(-1)[begin:end]
                continue
            for fragment in shard.fragments:
                name = piece_name(what, fragment.name, fragment.first)
                yield name, tensor.narrow(0, fragment.offset, fragment.length)

    def obstacle(self, folder: Path) -> str | None:
        """Say in a sentence why the state in a folder cannot be loaded; None if it can be.

        Nothing is changed, and nobody else is asked.
        """
        try:
            saved, mine = LearnerState.read(folder), self.describe()
            reason = difference(saved, mine)
            joined = [shard.names for shard in self._shards() if not shard.whole]
            for names in joined:
                reason = reason or disagreement(saved, names)
            if reason is None:
                with opened(folder, saved.num_ranks) as files:
                    files.check(saved)
        except ValueError as error:
            return str(error)
        return None if reason is None else f"the learner's state in {folder} does not fit: {reason}"

    @torch.no_grad()
    def load(self, folder: Path) -> LearnerState:
        """Set everything as it was copied; every rank must call it.

        Args:
            folder: No `obstacle` is in the way.

        Returns:
            What there is.
        """
        saved = LearnerState.read(folder)
        with opened(folder, saved.num_ranks) as files:
            for shard in self._shards():
                self._set(shard, saved.parameters, files)
            _set_random_states(files, self._engine.rank % saved.num_ranks)
        for group, before, changed in zip(
            self._optimizer.param_groups, self._settings, saved.groups, strict=True
        ):
            group.update(before | changed)
        for key, value in saved.loss_scale.items():
            setattr(self._deepspeed.optimizer.loss_scaler, key, value)
        settle(self._deepspeed)
        self._engine.num_applied_steps = saved.applied_steps
        return saved

    def _set(
        self, shard: ZeroShard, parameters: Mapping[str, ParameterState], files: StateFiles
    ) -> None:
        """Set what the optimiser steps on, and what it keeps of it."""
        stepped = shard.stepped.detach()
        kept = parameters[shard.names[0]]
        self._optimizer.state.pop(shard.stepped, None)
        tensors = {
            key: torch.zeros(
                layout.shape if shard.whole else stepped.shape,
                dtype=getattr(torch, layout.dtype),
                device=stepped.device,
            )
            for key, layout in kept.tensors.items()
        }
        targets = {WEIGHTS: stepped} | {STATE + key: value for key, value in tensors.items()}
        for what, target in targets.items():
            if shard.whole:
                flat = files.read(what, shard.names[0], 0, target.numel())
                target.copy_(flat.view(target.shape))
                continue
            for fragment in shard.fragments:
                part = files.read(what, fragment.name, fragment.first, fragment.length)
                target.narrow(0, fragment.offset, fragment.length).copy_(part)
        fused = any(group.get("fused") for group in self._optimizer.param_groups)
        numbers = {
            key: made(number, stepped.device, fused=fused) for key, number in kept.numbers.items()
        }
        if tensors or numbers:
            self._optimizer.state[shard.stepped] = tensors | numbers


def _random_states() -> dict[str, Tensor]:
    """Return the states of torch's generators, which some models draw from, on the CPU."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _set_random_states(files: StateFiles, rank: int) -> None:
    """Set them as a rank had them; those of a device that was not there stay."""
    for kind, now in _random_states().items():
        if files.has(RANDOM, random_name(kind, rank)):
            state = files.read(RANDOM, random_name(kind, rank), 0, math.prod(now.shape))
            (torch.cuda.set_rng_state if kind == "cuda" else torch.set_rng_state)(state)
