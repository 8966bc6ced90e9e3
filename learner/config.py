"""The learner's settings, as hydra composes them under the key `learner`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cost.ranges import SECONDS, Range, amount, count, positive, require_ranges
from learner.curvature_config import RejectedShares
from learner.lora import LoraConfig
from learner.optimizers import AdamW
from learner.reference_config import ReferenceConfig
from learner.schedule import SCHEDULES

_OURS = {
    "train_batch_size": "learner.row_tokens",
    "train_micro_batch_size_per_gpu": "learner.row_tokens",
    "gradient_accumulation_steps": "learner.num_minibatches",
    "gradient_clipping": "learner.max_grad_norm",
    "zero_optimization.stage": "learner.zero_stage",
    "optimizer": "learner.optimizer",
    "scheduler": "learner.schedule",
    "activation_checkpointing": "learner.gradient_checkpointing",
    "amp": "model.dtype",
    "bf16": "model.dtype",
    "torch_autocast": "model.dtype",
    "fp16.enabled": "model.dtype",
    "fp16.loss_scale": "model.dtype",
    "fp16.hysteresis": "model.dtype",
}
"""Settings of DeepSpeed that follow from one of ours, which must be set instead."""
_FALLS = (("min_lr_share", "0"), ("stable_share", "0"), ("schedule_steps", "null"))
"""Settings of a schedule that falls, and what they are with one that does not."""


@dataclass(kw_only=True, slots=True)
class LearnerConfig:
    """How the policy is trained: processes, optimiser, packing, deadlines.

    Raises:
        ValueError: If a number is outside its range, or two settings contradict each other.
    """

    zero_stage: int = 0
    """DeepSpeed ZeRO stage, 0 to 3: what is sharded over the learners (nothing, optimiser state,
    also gradients, also weights)."""
    lr: float = 1e-6
    """Learning rate after warm-up, positive."""
    optimizer: Any = None
    """Plug: how gradients become steps, see `learner.optimizers`; None for AdamW's defaults."""
    warmup_steps: int = 0
    """Optimiser steps over which the learning rate rises linearly; 0 for none."""
    schedule: str = "constant"
    """How the learning rate falls afterwards: "constant", "linear" or "cosine"."""
    schedule_steps: int | None = None
    """Optimiser steps, warm-up included, until the minimum is reached, where it stays. None to
    reach it at the end of the run, by `loop.num_steps` or a budget, whichever ends it."""
    min_lr_share: float = 0.0
    """Share of `lr` at which a schedule that falls ends, in [0, 1]."""
    stable_share: float = 0.0
    """Share of the way to the minimum, after the warm-up, for which the learning rate stays at `lr`
    before it falls, in [0, 0.999]: warm-up, stable, decay."""
    max_grad_norm: float = 1.0
    """DeepSpeed clips the norm of the whole gradient to this, positive. Where it clips, a step is
    not linear in the gradient, so that an unbiased gradient does not make the expected step
    unbiased."""
    row_tokens: int = 2048
    """Largest number of tokens in one packed row; activations take memory in proportion."""
    shared_prefix: bool = True
    """Compute a prompt once for all of its responses in a row; false computes it for each. No
    effect with `chunk_tokens`, which computes it for each."""
    varlen_attention: bool = True
    """On GPUs, compute attention over a row in one call of a kernel for sequences of different
    lengths (`learner.varlen`), if there is one: NVIDIA's from the A100 on, in 16 bits, for values
    as wide as queries. False takes one call per sequence, as on CPUs."""
    logits_chunk_tokens: int = 1024
    """How many tokens' logits exist at a time; each takes a few times the vocabulary's size in
    memory. In rows with more, the head is computed twice, and with ZeRO stage 3 its weight is
    gathered for every chunk."""
    num_minibatches: int = 1
    """Optimiser steps in one pass over a batch; each takes a random part of the groups."""
    num_epochs: int = 1
    """Passes over a batch, with a new thinning for each. More than one needs
    `learner.behaviour=rollout`, whose probabilities stay the same."""
    behaviour: str = "rollout"
    """Whose probability is the denominator of the objective's ratio. "rollout": the engine's, as
    sampled. "recomputed": the learner's own before the first optimiser step of a batch, at the
    cost of a forward pass; the mismatch with the engine is then left to the correction."""
    correction: Any = None
    """Plug: corrects for the mismatch of learner and engine (learner/corrections.py); null for no
    correction."""
    curvature: RejectedShares = field(default_factory=RejectedShares)
    """CAPO: mask the tokens at which the step would bend the policy too much
    (`learner.objectives.curvature`), at the cost of a forward pass and five products with the
    output head. The mask depends on what was drawn: biased by design. Needs AdamW, and no LoRA."""
    reference: ReferenceConfig = field(default_factory=ReferenceConfig)
    entropy_coefficient: float = 0.0
    """Weight of the entropy bonus at every trained token; not negative."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass instead of keeping them."""
    chunk_tokens: int | None = None
    """Train responses longer than this in chunks of this many tokens, with the exact gradient, in
    memory that grows only with the KV cache (`learner.chunked`); None never chunks."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """LoRA adapters to train instead of the weights (`learner.lora`); none by default."""
    deepspeed: dict[str, Any] = field(default_factory=dict)
    """Further settings of DeepSpeed, e.g. {zero_optimization: {offload_optimizer: {device: cpu}}};
    those that follow from settings here are refused."""
    num_threads: int = 1
    """CPU threads of torch in each learner worker."""
    start_deadline_seconds: float = 600.0
    """Longest wait for the workers to load the policy and find each other."""
    update_deadline_seconds: float = 3600.0
    """Longest wait for one pass over a batch."""
    max_skipped_steps: int = 3
    """The run ends when this many optimiser steps in a row were skipped for a non-finite loss or
    gradient, at least 1."""

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        ranges = {
            "lr": positive(100),
            "warmup_steps": amount(),
            "schedule_steps": count(),
            "min_lr_share": Range(0, 1),
            "stable_share": Range(0, 0.999),
            "max_grad_norm": positive(),
            "row_tokens": count(),
            "logits_chunk_tokens": count(),
            "num_minibatches": count(1e6),
            "num_epochs": count(1000),
            "entropy_coefficient": amount(1e6),
            "chunk_tokens": count(),
            "num_threads": count(10_000),
            "start_deadline_seconds": SECONDS,
            "update_deadline_seconds": SECONDS,
            "max_skipped_steps": count(),
        }
        require_ranges("learner.", self, ranges)
        if self.zero_stage not in (0, 1, 2, 3):
            raise ValueError(f"learner.zero_stage must be 0, 1, 2 or 3, got {self.zero_stage!r}")
        self._check_schedule()
        if not hasattr(self.chosen_optimizer, "build"):
            raise ValueError(
                f"learner.optimizer must be a plug with the method build, got {self.optimizer!r}"
            )
        if self.zero_stage > 0 and not self.chosen_optimizer.elementwise:
            raise ValueError(
                "learner.zero_stage must be 0 with learner.optimizer = "
                f"{type(self.optimizer).__name__}, which needs whole matrices, "
                f"got {self.zero_stage!r}"
            )
        self._check_chunks()
        self._check_deepspeed()
        self._check_loss()
        self._check_curvature()

    @property
    def chosen_optimizer(self) -> Any:
        """The optimizer, or AdamW in place of none.

        Not a default: hydra would take one for the field's type and refuse every other plug.
        """
        return AdamW() if self.optimizer is None else self.optimizer

    def _check_schedule(self) -> None:
        if self.schedule not in SCHEDULES:
            raise ValueError(
                f"learner.schedule must be one of {', '.join(SCHEDULES)}, got {self.schedule!r}"
            )
        for key, none in _FALLS:
            if self.schedule == "constant" and (value := getattr(self, key)):
                raise ValueError(
                    f"learner.{key} must be {none} with learner.schedule=constant, which never "
                    f"falls: set learner.schedule=cosine or linear, got {value!r}"
                )
        if self.schedule_steps is not None and self.schedule_steps <= self.warmup_steps:
            raise ValueError(
                f"learner.schedule_steps must exceed learner.warmup_steps = {self.warmup_steps}, "
                f"got {self.schedule_steps}"
            )

    def _check_loss(self) -> None:
        if self.behaviour not in ("rollout", "recomputed"):
            raise ValueError(
                f"learner.behaviour must be rollout or recomputed, got {self.behaviour!r}"
            )
        if self.behaviour == "recomputed" and self.num_epochs > 1:
            raise ValueError(
                "learner.num_epochs must be 1 with learner.behaviour=recomputed, which scores what "
                "a pass trains on at its start: in a second pass the ratio, and the clip range, "
                "would begin anew at the policy that the first one left, where PPO keeps the old "
                "one; set learner.behaviour=rollout, or learner.num_minibatches for more steps a "
                f"batch, got {self.num_epochs!r}"
            )
        if self.correction is None:
            return
        if not hasattr(self.correction, "factors"):
            raise ValueError(
                "learner.correction must be a plug with the method factors, "
                f"got {self.correction!r}"
            )
        if self.behaviour == "rollout" and self.correction.weighs:
            raise ValueError(
                "learner.correction must be a mask while learner.behaviour is rollout, whose "
                "objective carries the ratio to the engine already: set "
                f"learner.behaviour=recomputed, got {self.correction!r}"
            )

    def _check_curvature(self) -> None:
        if not self.curvature.masks:
            return
        if not isinstance(self.chosen_optimizer, AdamW):
            raise ValueError(
                "learner.optimizer must be AdamW with learner.curvature, which computes Adam's "
                f"step ahead, got {self.optimizer!r}"
            )
        if self.lora.rank:
            raise ValueError(
                "learner.lora.rank must be 0 with learner.curvature, which looks at the change of "
                f"the output head, and adapters leave the head as it is, got {self.lora.rank!r}"
            )

    def _check_chunks(self) -> None:
        if self.chunk_tokens is None:
            return
        if self.zero_stage == 3:
            raise ValueError(
                "learner.zero_stage must be 0, 1 or 2 with learner.chunk_tokens, whose backward "
                f"pass needs whole weights, got {self.zero_stage!r}"
            )
        if self.gradient_checkpointing:
            raise ValueError(
                "learner.gradient_checkpointing must be false with learner.chunk_tokens, which "
                f"recomputes already, got {self.gradient_checkpointing!r}"
            )

    def _check_deepspeed(self) -> None:
        for theirs, ours in _OURS.items():
            found: Any = self.deepspeed
            for part in theirs.split("."):
                found = found.get(part) if isinstance(found, Mapping) else None
            if found is not None:
                raise ValueError(
                    f"learner.deepspeed.{theirs} must not be set: it follows from {ours}; "
                    f"got {found!r}"
                )
        for what, least in (("offload_optimizer", 1), ("offload_param", 3)):
            if self.offloads(what) and self.zero_stage < least:
                raise ValueError(
                    f"learner.deepspeed.zero_optimization.{what} needs learner.zero_stage of at "
                    f"least {least}, got {self.zero_stage!r}"
                )

    def offloads(self, what: str) -> bool:
        """Whether `offload_optimizer` or `offload_param` moves something off the GPUs."""
        section = self.deepspeed.get("zero_optimization") or {}
        return bool((section.get(what) or {}).get("device", "none") != "none")

    @property
    def shares_prefixes(self) -> bool:
        """Whether responses share a copy of their prompt."""
        return self.shared_prefix and self.chunk_tokens is None

    @property
    def terms_for_all(self) -> list[str]:
        """Return the keys of loss terms in force that concern responses of advantage 0, too."""
        terms = {
            "learner.reference.kl_coefficient": self.reference.kl_in_loss,
            "learner.entropy_coefficient": self.entropy_coefficient,
        }
        return [key for key, coefficient in terms.items() if coefficient]
