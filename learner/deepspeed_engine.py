"""Training with DeepSpeed: ZeRO 0 to 3, NCCL on GPUs and gloo on CPUs.

What differs between the stages stays in this file: who holds a full weight, and who notices a
non-finite gradient. DeepSpeed's ZeRO 1 to 3 skip such a step by themselves on all ranks; its
stage 0 would write NaN into the weights, so there the (already averaged) gradient is looked at
before the step.

In float16 DeepSpeed multiplies the loss so that small gradients do not vanish, by a factor that it
halves when the gradient overflows and doubles after many steps without. Such a step is skipped but
says nothing about the policy: its outcome asks to try the same step again.
"""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from learner import lora
from learner.batch import MicroBatch
from learner.checkpoint import save_checkpoint
from learner.chunked import ChunkedPolicy
from learner.config import LearnerConfig
from learner.engine import StepOutcome
from learner.gradient_norms import gradient_norms
from learner.logprobs import PackedPolicy, check_head, check_packing
from learner.numerics import Numerics
from learner.policy import load_policy

if TYPE_CHECKING:
    from transformers import PreTrainedModel


DISTURBANCE = 0.05
"""Standard deviation of the noise in adapters, see `DeepSpeedEngine.disturb_weights`."""


class DeepSpeedEngine:
    """One rank's model, optimiser and gradients.

    RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT must be set before it is built; all
    ranks build it at the same time, and call its methods in the same order.
    """

    def __init__(self, config: LearnerConfig, model_path: str, numerics: Numerics) -> None:
        """Join the other ranks and load the policy.

        Args:
            config: The learner's settings.
            model_path: Local folder with a Hugging Face checkpoint.
            numerics: Of the policy, and of its reference.

        Raises:
            ValueError: If the settings ask for what this device lacks, or for adapters where the
                model has no layer.
        """
        on_gpu = torch.cuda.is_available()
        check_device(config, numerics.dtype, on_gpu=on_gpu)
        os.environ.setdefault("DS_ACCELERATOR", "cuda" if on_gpu else "cpu")
        import deepspeed

        # DeepSpeed compiles a shared-memory all-reduce at the first start on a machine (about a
        # minute). It only serves ranks on one host; gloo serves all, so no op is offered.
        deepspeed.ops.__compatible_ops__ = {}
        deepspeed.init_distributed(
            dist_backend="nccl" if on_gpu else "gloo",
            auto_mpi_discovery=False,
            verbose=False,
            timeout=timedelta(seconds=config.update_deadline_seconds),
        )
        self._deepspeed = deepspeed
        self._config = config
        self._applied_steps = 0
        self._undisturbed: list[torch.Tensor] = []
        self._model = load_policy(model_path, config, numerics)
        self._adapted = lora.attach(self._model, config.lora) if config.lora.rank else None
        self._weights = list(lora.weights_of(self._model))
        chunk = {"logits_chunk_tokens": config.logits_chunk_tokens}
        policy = self._packed = PackedPolicy(self._model, numerics.temperature, **chunk)
        check_packing(policy)
        if config.curvature.masks:
            check_head(policy)
        if config.chunk_tokens is not None:
            policy = ChunkedPolicy(
                self._model, numerics.temperature, chunk_tokens=config.chunk_tokens, **chunk
            )
        trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
        self._engine, *_ = deepspeed.initialize(
            model=policy,
            optimizer=config.chosen_optimizer.build(trained, config.lr),
            config=deepspeed_settings(config, numerics.dtype),
            dist_init_required=False,
        )
        if config.zero_stage == 3:
            self._packed.most = self._most
        self._reference = self._load_reference(model_path, numerics)
        scaler: Any = getattr(self._engine.optimizer, "loss_scaler", None)
        # At the smallest scale a bad gradient is an ordinary skipped step, as in other precisions.
        if getattr(scaler, "raise_error_at_min_scale", False):
            scaler.raise_error_at_min_scale = False

    def _load_reference(self, model_path: str, numerics: Numerics) -> PackedPolicy | None:
        """The frozen reference on its device; None without one, or when adapters make it free."""
        settings = self._config.reference
        if not settings.kl_coefficient or (self._adapted is not None and settings.path is None):
            return None
        model = load_policy(settings.path or model_path, self._config, numerics)
        model.eval().requires_grad_(False)  # type: ignore[no-untyped-call]
        policy = PackedPolicy(
            model, numerics.temperature, logits_chunk_tokens=self._config.logits_chunk_tokens
        )
        return policy.to(self.device)

    @property
    def num_ranks(self) -> int:
        """Ranks whose gradients are averaged."""
        return int(self._deepspeed.comm.get_world_size())

    @property
    def rank(self) -> int:
        """This process's place among the ranks."""
        return int(self._deepspeed.comm.get_rank())

    @property
    def device(self) -> torch.device:
        """Where rows must be."""
        return torch.device(self._engine.device)

    @property
    def temperature(self) -> float:
        """Sampling temperature of the rollouts, which divides the logits."""
        return self._packed.temperature

    @property
    def model(self) -> "PreTrainedModel":
        """The Hugging Face model; under ZeRO-3 its parameters are empty between steps."""
        return self._model

    def logprobs(
        self, row: MicroBatch, *, entropy_gradient: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities [T] with gradient and entropies [T] of a row's loss tokens.

        Entropies have a gradient if asked for.
        """
        logprobs, entropies = self._engine(
            row.token_ids, row.position_ids, row.loss_mask, entropy_gradient=entropy_gradient
        )
        return logprobs, entropies

    @torch.no_grad()
    def reference_logprobs(self, row: MicroBatch) -> torch.Tensor:
        """Log-probabilities [T] of a row's loss tokens under the reference, without gradient.

        Only if `learner.reference.kl_coefficient` is not 0. The reference is a whole model on every
        rank, in every ZeRO stage; with adapters and no path of its own it is the policy without
        them, and takes no memory.
        """
        inputs = (row.token_ids, row.position_ids, row.loss_mask)
        if self._reference is not None:
            logprobs: torch.Tensor = self._reference(*inputs)[0]
            return logprobs
        assert self._adapted is not None, "there is no reference"
        with self._adapted.disable_adapter():
            base: torch.Tensor = self._engine(*inputs)[0]
        return base

    @property
    def num_applied_steps(self) -> int:
        """Optimiser steps that have changed the policy."""
        return self._applied_steps

    def optimizer_state(self, parameter: torch.nn.Parameter, key: str) -> torch.Tensor:
        """Return what the optimiser holds of a parameter under a key, whole.

        It is there after the first applied step. Every rank must ask; it is not to be changed.
        """
        if self._config.zero_stage == 0:
            state: torch.Tensor = self._engine.optimizer.state[parameter][key]
            return state
        whole: torch.Tensor = self._deepspeed.utils.safe_get_full_optimizer_state(parameter, key)
        return whole

    def gradient_norms(self, row: MicroBatch, layer: str) -> torch.Tensor:
        """Norms [S] float64 of the row's responses' scores; see `learner.gradient_norms`."""
        # Past the engine's forward, which prepares its output for a training backward pass.
        norms = gradient_norms(self._packed, row, layer)
        if self._config.zero_stage == 3:
            # A training backward pass ends by giving the gathered weights up; this one does not.
            self._engine.optimizer.empty_partition_cache()
        return norms

    def agree(self, value: bool) -> bool:
        """True if the value is true on every rank; every rank must ask."""
        flag = torch.tensor([int(value)], device=self.device)
        torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MIN)
        return bool(flag.item())

    def _most(self, number: int) -> int:
        """Largest of the ranks' numbers; every rank must ask."""
        numbers = torch.tensor([number], device=self.device)
        torch.distributed.all_reduce(numbers, op=torch.distributed.ReduceOp.MAX)
        return int(numbers.item())

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        """Join the [n] values of all ranks in rank order, n may differ; every rank must ask."""
        mine = torch.tensor([len(values)], device=self.device)
        counts = [torch.zeros_like(mine) for _ in range(self.num_ranks)]
        torch.distributed.all_gather(counts, mine)
        longest = max(int(count.item()) for count in counts)
        padded = torch.nn.functional.pad(values, (0, longest - len(values)))
        parts = [torch.zeros_like(padded) for _ in range(self.num_ranks)]
        torch.distributed.all_gather(parts, padded)
        return torch.cat(
            [part[: int(count.item())] for part, count in zip(parts, counts, strict=True)]
        )

    def backward(self, loss: torch.Tensor, *, boundary: bool) -> None:
        """Add a loss's gradient; `boundary` marks the last one before `step`."""
        self._engine.set_gradient_accumulation_boundary(boundary)
        self._engine.backward(loss)

    def step(self) -> StepOutcome:
        """Clip and apply the gradient, or discard it if it is not finite; either way clear it."""
        lr = self.next_lr
        for group in self._engine.optimizer.param_groups:
            group["lr"] = lr
        if self._config.zero_stage == 0:
            applied, norm = self._step_unsharded()
            return self._counted(StepOutcome(applied=applied, grad_norm=norm, lr=lr))
        scale = self._loss_scale()
        self._engine.step()
        applied = bool(self._engine.was_step_applied())
        # A skipped step leaves the norm of an earlier one behind, in float16.
        norm = float(self._engine.get_global_grad_norm()) if applied else math.nan
        retry = not applied and self._loss_scale() < scale
        return self._counted(StepOutcome(applied=applied, grad_norm=norm, lr=lr, retry=retry))

    @property
    def next_lr(self) -> float:
        """Learning rate of the next optimiser step."""
        warmup = max(self._config.warmup_steps, 1)
        return self._config.lr * min(1.0, (self._applied_steps + 1) / warmup)

    def _counted(self, outcome: StepOutcome) -> StepOutcome:
        self._applied_steps += outcome.applied
        return outcome

    def _loss_scale(self) -> float:
        """What DeepSpeed multiplies the loss by in float16; 1 otherwise."""
        return float(getattr(self._engine.optimizer, "loss_scale", 1.0))

    def _step_unsharded(self) -> tuple[bool, float]:
        gradients = [p.grad for p in self._engine.module.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if not norm.isfinite():
            self._engine.zero_grad()
            return False, norm.item()
        self._engine.step()
        return True, norm.item()

    def parameter_metadata(self) -> list[tuple[str, torch.dtype, tuple[int, ...]]]:
        """Name, dtype and full shape of every weight in the order of `full_parameters`."""
        return [
            (weight.name, weight.parameter.dtype, _whole_shape(weight.parameter))
            for weight in self._weights
        ]

    def full_parameters(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield every weight, whole, by its Hugging Face name; all ranks must iterate together.

        Adapters are merged into the weights that they change. A tensor is only valid until the next
        one is asked for. Tied weights come once, under the embedding's name.
        """
        for weight in self._weights:
            with self.whole(weight.parts):
                yield weight.name, weight.merged()

    def whole(self, parameters: Sequence[torch.nn.Parameter]) -> AbstractContextManager[Any]:
        """Within it the parameters are whole, also under ZeRO-3; every rank must enter."""
        if self._config.zero_stage < 3:
            return nullcontext()
        gathered: AbstractContextManager[Any] = self._deepspeed.zero.GatheredParameters(
            list(parameters)
        )
        return gathered

    @torch.no_grad()
    def disturb_weights(self) -> None:
        """Change everything that is published, so that engines that miss a part of it stand out.

        Weights are halved, which is exact. Of adapters that are published by themselves, B is
        replaced by noise: at the start of a run it is zero. The optimiser's own copies stay as they
        are: `restore_weights` before the next step.
        """
        if not self._config.lora.published_rank:
            self._scale_weights(0.5)
            return
        # On every rank the same, so that what ranks hold alike stays alike.
        generator = torch.Generator().manual_seed(0)
        for own in self._published_adapters():
            self._undisturbed.append(own.clone())
            own.copy_(DISTURBANCE * torch.randn(own.shape, generator=generator))

    @torch.no_grad()
    def restore_weights(self) -> None:
        """Undo `disturb_weights`, to the bit."""
        if not self._config.lora.published_rank:
            self._scale_weights(2.0)
            return
        for own, before in zip(self._published_adapters(), self._undisturbed, strict=True):
            own.copy_(before)
        self._undisturbed = []

    def _published_adapters(self) -> list[torch.Tensor]:
        """What this rank holds of every adapter's B."""
        halves = [weight.b for weight in self._weights if weight.b is not None]
        return [_own_share(half) for half in halves]

    def _scale_weights(self, factor: float) -> None:
        for weight in self._weights:
            # An adapter's change is a product: one of its two halves.
            for part in (weight.parameter, weight.b):
                if part is not None:
                    _own_share(part).mul_(factor)

    def save_pretrained(self, path: Path, tokenizer_path: Path | None = None) -> None:
        """Write the policy as a Hugging Face checkpoint; all ranks must call it, rank 0 writes.

        Adapters are merged into it, and stand by themselves in its subfolder `adapter`.
        """
        weights = {}
        for name, tensor in self.full_parameters():
            if self.rank == 0:
                weights[name] = tensor.to("cpu", copy=True)
        adapter = self._adapter_tensors()
        if self.rank == 0:
            write_adapter = None
            if self._adapted is not None:
                write_adapter = partial(lora.save_adapter, self._adapted, adapter)
            save_checkpoint(self._model, weights, path, tokenizer_path, write_adapter)
        # Nobody reads the checkpoint before it is there.
        self.agree(True)

    def adapter_files(self) -> dict[str, bytes]:
        """Adapters as peft's files, content by name, on rank 0; every rank must ask."""
        adapter = self._adapter_tensors()
        if self.rank:
            return {}
        assert self._adapted is not None, "there are no adapters"
        return lora.adapter_files(self._adapted, adapter)

    def _adapter_tensors(self) -> dict[str, torch.Tensor]:
        """Whole adapter tensors on the CPU by parameter name, on rank 0; every rank must ask."""
        tensors: dict[str, torch.Tensor] = {}
        if self._adapted is None:
            return tensors
        for name, parameter in self._model.named_parameters():
            if parameter.requires_grad:
                with self.whole([parameter]):
                    if self.rank == 0:
                        tensors[name] = parameter.detach().to("cpu", copy=True)
        return tensors


def _own_share(parameter: torch.nn.Parameter) -> torch.Tensor:
    """What this rank holds of a parameter: under ZeRO-3 a part, which lies outside of it."""
    share: torch.Tensor = getattr(parameter, "ds_tensor", parameter).data
    return share


def _whole_shape(parameter: torch.nn.Parameter) -> tuple[int, ...]:
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def check_device(config: LearnerConfig, dtype: str, *, on_gpu: bool) -> None:
    """Refuse what CPUs cannot do.

    Raises:
        ValueError: For float16, and for moving state to where it is already.
    """
    if on_gpu:
        return
    if dtype == "float16":
        raise ValueError(
            "model.dtype must be float32 or bfloat16 where the learner runs on CPUs: DeepSpeed "
            f"trains in float16 on GPUs only, got {dtype!r}"
        )
    for what in ("offload_optimizer", "offload_param"):
        if config.offloads(what):
            raise ValueError(
                f"learner.deepspeed.zero_optimization.{what} must be unset where the learner runs "
                "on CPUs: there is no other memory to spare, got "
                f"{config.deepspeed['zero_optimization'][what]!r}"
            )


def deepspeed_settings(config: LearnerConfig, dtype: str) -> dict[str, Any]:
    """DeepSpeed's configuration for ours.

    `gradient_accumulation_steps` is 1 whatever the number of rows: the rows of a step vary, and
    `set_gradient_accumulation_boundary` marks the last. The user's own settings are laid over
    ours; those that follow from ours were refused by `LearnerConfig`.
    """
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.max_grad_norm,
        "zero_optimization": {"stage": config.zero_stage, "overlap_comm": False},
        "zero_allow_untested_optimizer": True,
        # Its own CPU optimiser would be compiled at the start, with CUDA's toolkit.
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": None,
    }
    if dtype == "bfloat16":
        settings["bf16"] = {"enabled": True}
        settings["data_types"] = {"grad_accum_dtype": "fp32"}
    if dtype == "float16":
        # Scale 0 is a dynamic one. Without hysteresis each overflow halves it, so that a step is
        # never tried again at the scale that it has just failed at.
        settings["fp16"] = {"enabled": True, "loss_scale": 0, "hysteresis": 1}
    return _laid_over(settings, config.deepspeed)


def _laid_over(settings: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Join nested settings; where both have a plain value, the second's counts."""
    joined = dict(settings)
    for key, value in more.items():
        both = isinstance(value, Mapping) and isinstance(joined.get(key), Mapping)
        joined[key] = _laid_over(joined[key], value) if both else value
    return joined
