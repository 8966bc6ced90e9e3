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
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch

from learner import lora
from learner.batch import MicroBatch
from learner.chunked import ChunkedPolicy
from learner.config import LearnerConfig
from learner.deepspeed_joining import join
from learner.deepspeed_settings import check_device, deepspeed_settings
from learner.deepspeed_state import DeepSpeedState
from learner.deepspeed_weights import DeepSpeedWeights
from learner.engine import StepOutcome
from learner.freed_memory import give_back
from learner.gradient_norms import gradient_norms
from learner.logprobs import PackedPolicy
from learner.numerics import Numerics
from learner.output_head import check_head
from learner.packing_check import check_packing
from learner.policy import load_policy
from learner.schedule import learning_rate

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class DeepSpeedEngine:
    """Holds one rank's model, optimiser and gradients.

    RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT must be set before it is built; all
    ranks build it at the same time, and call its methods in the same order.
    """

    def __init__(self, config: LearnerConfig, model_path: str, numerics: Numerics) -> None:
        """Join the other ranks and load the policy.

        Args:
            config: The learner's settings.
            model_path: Local folder with a Hugging Face checkpoint.
            numerics: How the policy computes, and its reference.

        Raises:
            ValueError: If the settings ask for what this device lacks, or for adapters where the
                model has no layer.
        """
        check_device(config, numerics.dtype, on_gpu=torch.cuda.is_available())
        self.config = config
        self.numerics = numerics
        self._deepspeed = join(timedelta(seconds=config.update_deadline_seconds))
        self._applied_steps = 0
        self.progress = 0.0
        """Share of the run that is over, in [0, 1], which the learning rate may follow."""
        self.model = load_policy(model_path, config, numerics)
        """The Hugging Face model; under ZeRO-3 its parameters are empty between steps."""
        self.adapted = lora.attach(self.model, config.lora) if config.lora.rank else None
        """peft's view of the model; None without adapters."""
        self.frozen = lora.checksum(self.model) if self.adapted is not None else 0
        """Tells the weights that adapters go with from others; 0 without adapters."""
        self.weights = DeepSpeedWeights(self)
        self._packed = self._policy_of(self.model)
        if torch.cuda.is_available():
            # DeepSpeed would do it next. There the check takes minutes less for a large model, and
            # is of the kernels that will be used.
            self.model.to(torch.device("cuda"))
        check_packing(self._packed)
        if config.curvature.masks:
            check_head(self._packed)
        self._engine = self._initialised()
        self.state = DeepSpeedState(self, self._engine)
        if config.zero_stage == 3:
            self._packed.most = self._most
        self._reference = self._load_reference(model_path)
        # DeepSpeed has copied or moved the weights that were loaded.
        give_back()

    def _policy_of(self, model: "PreTrainedModel") -> PackedPolicy:
        return PackedPolicy(
            model,
            self.numerics.temperature,
            logits_chunk_tokens=self.config.logits_chunk_tokens,
        )

    def _initialised(self) -> Any:
        """Put DeepSpeed's engine around the policy and its optimiser."""
        policy = self._packed
        if self.config.chunk_tokens is not None:
            policy = ChunkedPolicy(
                self.model,
                self.numerics.temperature,
                chunk_tokens=self.config.chunk_tokens,
                logits_chunk_tokens=self.config.logits_chunk_tokens,
            )
        trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
        engine, *_ = self._deepspeed.initialize(
            model=policy,
            optimizer=self.config.chosen_optimizer.build(trained, self.config.lr),
            config=deepspeed_settings(self.config, self.numerics.dtype),
            dist_init_required=False,
        )
        scaler: Any = getattr(engine.optimizer, "loss_scaler", None)
        # At the smallest scale a bad gradient is an ordinary skipped step, as in other precisions.
        if getattr(scaler, "raise_error_at_min_scale", False):
            scaler.raise_error_at_min_scale = False
        return engine

    def _load_reference(self, model_path: str) -> PackedPolicy | None:
        """Load the frozen reference; None without one, or when adapters make it free."""
        settings = self.config.reference
        if not settings.kl_coefficient or (self.adapted is not None and settings.path is None):
            return None
        model = load_policy(settings.path or model_path, self.config, self.numerics)
        model.eval().requires_grad_(False)
        return self._policy_of(model).to(self.device)

    @property
    def num_ranks(self) -> int:
        """Return how many ranks' gradients are averaged."""
        return int(self._deepspeed.comm.get_world_size())

    @property
    def rank(self) -> int:
        """Return this process's place among the ranks."""
        return int(self._deepspeed.comm.get_rank())

    @property
    def device(self) -> torch.device:
        """Return the device that rows must be on."""
        return torch.device(self._engine.device)

    def logprobs(
        self, row: MicroBatch, *, entropy_gradient: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a row's log-probabilities [T] with gradient and entropies [T] at its loss tokens.

        Entropies have a gradient if asked for.
        """
        logprobs, entropies = self._engine(
            row.token_ids, row.position_ids, row.loss_mask, entropy_gradient=entropy_gradient
        )
        return logprobs, entropies

    @contextmanager
    def at_temperature(self, temperature: float | None) -> Iterator[None]:
        """Divide logits by another temperature meanwhile; None changes nothing."""
        policy = self._engine.module
        before = policy.temperature
        policy.temperature = before if temperature is None else temperature
        try:
            yield
        finally:
            policy.temperature = before

    @torch.no_grad()
    def reference_logprobs(self, row: MicroBatch) -> torch.Tensor:
        """Return log-probabilities [T] of the loss tokens under the reference, without gradient.

        Only if `learner.reference.kl_coefficient` is not 0. The reference is a whole model on every
        rank, in every ZeRO stage; with adapters and no path of its own it is the policy without
        them, and takes no memory.
        """
        inputs = (row.token_ids, row.position_ids, row.loss_mask)
        if self._reference is not None:
            logprobs: torch.Tensor = self._reference(*inputs)[0]
            return logprobs
        assert self.adapted is not None, "there is no reference"
        with self.adapted.disable_adapter():
            base: torch.Tensor = self._engine(*inputs)[0]
        return base

    @property
    def num_applied_steps(self) -> int:
        """Return how many optimiser steps have changed the policy."""
        return self._applied_steps

    @num_applied_steps.setter
    def num_applied_steps(self, number: int) -> None:
        self._applied_steps = number

    def optimizer_state(self, parameter: torch.nn.Parameter, key: str) -> torch.Tensor:
        """Return what the optimiser holds of a parameter under a key, whole.

        It is there after the first applied step. Every rank must ask; it is not to be changed.
        """
        if self.config.zero_stage == 0:
            state: torch.Tensor = self._engine.optimizer.state[parameter][key]
            return state
        whole: torch.Tensor = self._deepspeed.utils.safe_get_full_optimizer_state(parameter, key)
        return whole

    def gradient_norms(self, row: MicroBatch, layer: str) -> torch.Tensor:
        """Return the norms [S] float64 of the responses' scores; see `learner.gradient_norms`."""
        # Past the engine's forward, which prepares its output for a training backward pass.
        norms = gradient_norms(self._packed, row, layer)
        if self.config.zero_stage == 3:
            # A training backward pass ends by giving the gathered weights up; this one does not.
            self._engine.optimizer.empty_partition_cache()
        return norms

    def agree(self, value: bool) -> bool:
        """Return whether the value is true on every rank; every rank must ask."""
        flag = torch.tensor([int(value)], device=self.device)
        torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MIN)
        return bool(flag.item())

    def _most(self, number: int) -> int:
        """Return the largest of the ranks' numbers; every rank must ask."""
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
        if self.config.zero_stage == 0:
            applied, norm = self._step_unsharded()
            return self._counted(StepOutcome(applied=applied, grad_norm=norm, lr=lr))
        scale = self._loss_scale()
        self._engine.step()
        applied = bool(self._engine.was_step_applied())
        if not applied:
            self._forget_gradient()
        # A skipped step leaves the norm of an earlier one behind, in float16.
        norm = float(self._engine.get_global_grad_norm()) if applied else math.nan
        retry = not applied and self._loss_scale() < scale
        return self._counted(StepOutcome(applied=applied, grad_norm=norm, lr=lr, retry=retry))

    def _forget_gradient(self) -> None:
        """Drop the gradient of a skipped step.

        ZeRO 1 and 2 keep it where the optimiser is offloaded, and would add the next one to it:
        what is not finite once would be so for ever.
        """
        if self.config.zero_stage < 3:
            held = getattr(self._engine.optimizer, "averaged_gradients", {})
            held.update(dict.fromkeys(held))

    @property
    def next_lr(self) -> float:
        """Return the learning rate of the next optimiser step."""
        return learning_rate(
            self._applied_steps,
            self.progress,
            lr=self.config.lr,
            schedule=self.config.schedule,
            warmup=self.config.warmup_steps,
            num_steps=self.config.schedule_steps,
            minimum=self.config.min_lr_share,
            stable=self.config.stable_share,
        )

    def _counted(self, outcome: StepOutcome) -> StepOutcome:
        self._applied_steps += outcome.applied
        return outcome

    def _loss_scale(self) -> float:
        """Return what DeepSpeed multiplies the loss by in float16; 1 otherwise."""
        return float(getattr(self._engine.optimizer, "loss_scale", 1.0))

    def _step_unsharded(self) -> tuple[bool, float]:
        gradients = [p.grad for p in self._engine.module.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if not norm.isfinite():
            self._engine.zero_grad()
            return False, norm.item()
        self._engine.step()
        return True, norm.item()

    def whole(self, parameters: Sequence[torch.nn.Parameter]) -> AbstractContextManager[Any]:
        """Within it the parameters are whole, also under ZeRO-3; every rank must enter."""
        if self.config.zero_stage < 3:
            return nullcontext()
        gathered: AbstractContextManager[Any] = self._deepspeed.zero.GatheredParameters(
            list(parameters)
        )
        return gathered
