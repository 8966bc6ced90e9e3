"""Training with DeepSpeed: ZeRO 0 to 3, NCCL on GPUs and gloo on CPUs.

What differs between the stages stays in this file: who holds a full weight, and who notices a
non-finite gradient. DeepSpeed's ZeRO 1 to 3 skip such a step by themselves on all ranks; its
stage 0 would write NaN into the weights, so there the (already averaged) gradient is looked at
before the step.
"""

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from learner import attention
from learner.batch import MicroBatch
from learner.checkpoint import save_checkpoint
from learner.config import LearnerConfig
from learner.gradient_norms import gradient_norms
from learner.logprobs import PackedPolicy
from learner.update import StepOutcome

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class DeepSpeedEngine:
    """One rank's model, optimiser and gradients.

    RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT must be set before it is built; all
    ranks build it at the same time, and call its methods in the same order.
    """

    def __init__(
        self, config: LearnerConfig, model_path: str, *, dtype: str, temperature: float
    ) -> None:
        """Join the other ranks and load the policy.

        Args:
            config: The learner's settings.
            model_path: Local folder with a Hugging Face checkpoint.
            dtype: "float32", or "bfloat16" with a ZeRO stage of at least 1.
            temperature: Sampling temperature of the rollouts.
        """
        on_gpu = torch.cuda.is_available()
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
        self._model = load_policy(model_path, config, dtype)
        policy = PackedPolicy(self._model, temperature)
        optimizer = torch.optim.AdamW(
            policy.parameters(),
            lr=config.lr,
            betas=(config.betas[0], config.betas[1]),
            eps=config.adam_eps,
            weight_decay=config.weight_decay,
        )
        self._engine, *_ = deepspeed.initialize(
            model=policy,
            optimizer=optimizer,
            config=deepspeed_settings(config, dtype),
            dist_init_required=False,
        )

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
    def model(self) -> "PreTrainedModel":
        """The Hugging Face model; under ZeRO-3 its parameters are empty between steps."""
        return self._model

    def logprobs(self, row: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities [T] with gradient and entropies [T] of a row's loss tokens."""
        logprobs, entropies = self._engine(row.token_ids, row.position_ids, row.loss_mask)
        return logprobs, entropies

    def gradient_norms(self, row: MicroBatch, layer: str) -> torch.Tensor:
        """Norms [S] float64 of the row's responses' scores; see `learner.gradient_norms`."""
        # Past the engine's forward, which prepares its output for a training backward pass.
        norms = gradient_norms(self._engine.module, row, layer)
        if self._config.zero_stage == 3:
            # A training backward pass ends by giving the gathered weights up; this one does not.
            self._engine.optimizer.empty_partition_cache()
        return norms

    def agree(self, value: bool) -> bool:
        """True if the value is true on every rank; every rank must ask."""
        flag = torch.tensor([int(value)], device=self.device)
        torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MIN)
        return bool(flag.item())

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
        warmup = max(self._config.warmup_steps, 1)
        lr = self._config.lr * min(1.0, (self._applied_steps + 1) / warmup)
        for group in self._engine.optimizer.param_groups:
            group["lr"] = lr
        if self._config.zero_stage == 0:
            applied, norm = self._step_unsharded()
        else:
            self._engine.step()
            applied = bool(self._engine.was_step_applied())
            norm = float(self._engine.get_global_grad_norm())
        self._applied_steps += applied
        return StepOutcome(applied=applied, grad_norm=norm, lr=lr)

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
            (name, parameter.dtype, tuple(getattr(parameter, "ds_shape", parameter.shape)))
            for name, parameter in self._model.named_parameters()
        ]

    def full_parameters(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield every weight, whole, by its Hugging Face name; all ranks must iterate together.

        A tensor is only valid until the next one is asked for. Tied weights come once, under the
        embedding's name.
        """
        for name, parameter in self._model.named_parameters():
            if self._config.zero_stage == 3:
                with self._deepspeed.zero.GatheredParameters([parameter]):
                    yield name, parameter.detach()
            else:
                yield name, parameter.detach()

    @torch.no_grad()
    def scale_weights(self, factor: float) -> None:
        """Multiply every weight in place; a power of two is exact and can be undone.

        The optimiser's own copies stay as they are: undo it before the next step.
        """
        for parameter in self._model.parameters():
            # Under ZeRO-3 each rank holds its share of the weight outside the parameter.
            getattr(parameter, "ds_tensor", parameter).data.mul_(factor)

    def save_pretrained(self, path: Path, tokenizer_path: Path | None = None) -> None:
        """Write the policy as a Hugging Face checkpoint; all ranks must call it, rank 0 writes."""
        weights = {}
        for name, tensor in self.full_parameters():
            if self.rank == 0:
                weights[name] = tensor.to("cpu", copy=True)
        if self.rank == 0:
            save_checkpoint(self._model, weights, path, tokenizer_path)
        # Nobody reads the checkpoint before it is there.
        self.agree(True)


def load_policy(model_path: str, config: LearnerConfig, dtype: str) -> "PreTrainedModel":
    """Load a causal language model for training: no dropout, checkpointing as configured."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    model = AutoModelForCausalLM.from_pretrained(
        model_path,
        dtype=getattr(torch, dtype),
        attn_implementation=attention.register(),
        local_files_only=True,
        use_safetensors=True,
    )
    model.train()
    # The rollout engine drops nothing; a learner that did would differ from it at ratio 1.
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.0  # type: ignore[assignment]
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


def deepspeed_settings(config: LearnerConfig, dtype: str) -> dict[str, Any]:
    """DeepSpeed's configuration for ours.

    `gradient_accumulation_steps` is 1 whatever the number of rows: the rows of a step vary, and
    `set_gradient_accumulation_boundary` marks the last.
    """
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.max_grad_norm,
        "zero_optimization": {"stage": config.zero_stage, "overlap_comm": False},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": None,
    }
    if dtype == "bfloat16":
        settings["bf16"] = {"enabled": True}
        settings["data_types"] = {"grad_accum_dtype": "fp32"}
    return settings
