"""Low-rank adapters (LoRA, 2106.09685): only they are trained, the policy's own weights stay.

    y = W x + s B A x    A [rank, in], B [out, rank] of each targeted linear layer, s = alpha / rank

B starts at zero, so that training starts from the policy. The arithmetic is peft's. What leaves the
learner is merged: W + s B A under the layer's own name, one weight at a time, so that engines and
checkpoints see an ordinary model. Engines can be given the adapters by themselves instead: far
fewer bytes at every publish, for two small products more in every layer of vLLM's forward pass.
Without adapters the policy is the one that the run started from, which makes a reference policy
free.

Merging rounds to the model's precision. In float32 the engines compute what the learner computes up
to 1e-6; in bfloat16 a change below 1/256 of a weight is rounded (ours: the parity guard measures
it, raise `parity.slack` or use float32 or float16 when it objects).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cost.ranges import amount, positive, require_ranges
from rollout.config import ADAPTER_RANKS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from peft import PeftModel
    from torch import Tensor, nn
    from transformers import PreTrainedModel

ALL_LINEAR = "all-linear"
_ADAPTER = "default"
"""peft's name of a model's first adapter."""
_SUMMED_VALUES = 1000
"""Of each weight, spread over it, for `checksum`."""


@dataclass(kw_only=True, slots=True)
class LoraConfig:
    """Says how large the adapters are, and where.

    No dropout: the rollout engines drop nothing.

    Raises:
        ValueError: If a setting is out of range.
    """

    rank: int = 0
    """Rank of the change to each targeted weight; 0 trains all weights, without adapters."""
    alpha: float = 32.0
    """The change is scaled by alpha / rank, positive."""
    target_modules: Any = ALL_LINEAR
    """Names, or ends of names after a dot, of linear layers; "all-linear" for all but the output
    head. In mixtures of experts that name layers as peft names experts, such as the MLPs beside
    DeepSeek's, those layers have none."""
    publish: str = "merged"
    """What engines are given: "merged" weights, or the "adapters" by themselves."""

    @property
    def published_rank(self) -> int:
        """Rank of the adapters that engines are given by themselves; 0 where they get weights."""
        return self.rank if self.publish == "adapters" else 0

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        require_ranges("learner.lora.", self, {"rank": amount(), "alpha": positive()})
        if self.publish not in ("merged", "adapters"):
            raise ValueError(
                f"learner.lora.publish must be merged or adapters, got {self.publish!r}"
            )
        if self.publish == "adapters" and not 1 <= self.rank <= ADAPTER_RANKS[-1]:
            raise ValueError(
                f"learner.lora.rank must lie in [1, {ADAPTER_RANKS[-1]}] with "
                f"learner.lora.publish=adapters, got {self.rank!r}"
            )
        targets = self.target_modules
        if targets == ALL_LINEAR:
            return
        if (
            not isinstance(targets, list | tuple)
            or not targets
            or not all(isinstance(target, str) and target for target in targets)
        ):
            raise ValueError(
                f'learner.lora.target_modules must be "{ALL_LINEAR}" or a list of names, '
                f"got {targets!r}"
            )


def targets_of(model: PreTrainedModel, config: LoraConfig) -> list[str]:
    """Find what the setting names: ends of names of linear layers, sorted.

    Raises:
        ValueError: If there is none, or if a name matches none within the model, or experts too.
    """
    from torch import nn

    head: Any = model.get_output_embeddings()
    names = [
        name
        for name, module in model.named_modules()
        # A router may be a linear layer that returns more than a product.
        if isinstance(module, nn.Linear)
        and type(module).forward is nn.Linear.forward
        and module is not head
    ]
    known = sorted({name.rsplit(".", 1)[-1] for name in names})
    known = [name for name in known if not _means_experts(model, name)]
    if not known:
        raise ValueError(
            "learner.lora.rank must be 0 for a model that has no linear layers below its output "
            f"head, as torch knows them; choose another model, got {type(model).__name__}"
        )
    if config.target_modules == ALL_LINEAR:
        return known
    for target in config.target_modules:
        named = any(name == target or name.endswith(f".{target}") for name in names)
        if not named or _means_experts(model, target):
            raise ValueError(
                "learner.lora.target_modules must name linear layers of the model below its "
                f"output head, and no experts ({', '.join(known)}), got {target!r}"
            )
    return sorted(config.target_modules)


def check_targets(model_path: str, config: LoraConfig) -> None:
    """Refuse names that no linear layer of a model has, without loading its weights.

    Args:
        model_path: Local Hugging Face folder.
        config: The adapters; where all linear layers have some, or none has, nothing is looked at.

    Raises:
        ValueError: See `targets_of`.
    """
    if not config.rank or config.target_modules == ALL_LINEAR:
        return
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = AutoConfig.from_pretrained(
        model_path, local_files_only=True, trust_remote_code=False
    )
    with torch.device("meta"):
        targets_of(AutoModelForCausalLM.from_config(settings), config)


def _means_experts(model: PreTrainedModel, target: str) -> bool:
    """Whether peft would train a model's experts in place of the linear layers of this name.

    So adapters of older releases fit, where experts were linear layers. Nothing here, and nothing
    in an engine, knows adapters of experts.
    """
    import peft
    from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers

    settings = peft.LoraConfig(target_modules=[target])
    try:
        convert_peft_config_for_transformers(settings, model, None)
    except ValueError:
        # One of several that experts have as one.
        return True
    return bool(settings.target_parameters)


def attach(model: PreTrainedModel, config: LoraConfig) -> PeftModel:
    """Give a model adapters, in place, and freeze everything else.

    Args:
        model: Its targeted linear layers are replaced by ones with adapters.
        config: The adapters, of a rank of at least 1.

    Returns:
        peft's view of the same model; it can disable and save the adapters.

    Raises:
        ValueError: If a target matches nothing.
    """
    import peft

    settings = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]
        lora_dropout=0.0,
        target_modules=targets_of(model, config),
    )
    # The adapters keep the model's precision: DeepSpeed holds the float32 master copies.
    return peft.PeftModelForCausalLM(model, settings, autocast_adapter_dtype=False)


@dataclass(frozen=True, slots=True, eq=False)
class Weight:
    """Holds a weight of the policy as others know it: with its adapter's change, if any."""

    name: str
    """Its Hugging Face name, as if there were no adapters."""
    parameter: nn.Parameter
    """The model's own weight, W."""
    a: nn.Parameter | None = None
    b: nn.Parameter | None = None
    scaling: float = 1.0

    @property
    def parts(self) -> list[nn.Parameter]:
        """List the parameters that the merged weight is made of."""
        return [part for part in (self.parameter, self.a, self.b) if part is not None]

    def merged(self) -> Tensor:
        """Compute W + s B A in the weight's dtype, summed in float32 at least; W itself if plain.

        All parts must be whole (gathered, under ZeRO-3). The parts are not changed.
        """
        import torch

        weight = self.parameter.detach()
        if self.a is None or self.b is None:
            return weight
        wide = torch.promote_types(weight.dtype, torch.float32)
        change = self.b.detach().to(wide) @ self.a.detach().to(wide)
        return torch.add(weight.to(wide), change, alpha=self.scaling).to(weight.dtype)


def weights_of(model: PreTrainedModel) -> Iterator[Weight]:
    """List a model's weights in the order of its parameters, adapters folded into theirs.

    A model without adapters has plain weights only. Tied weights come once.
    """
    from peft.tuners.lora import LoraLayer

    adapted = {
        f"{name}.base_layer.weight": module
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer)
    }
    for name, parameter in model.named_parameters():
        if ".lora_A." in name or ".lora_B." in name:
            continue
        plain_name = name.replace(".base_layer.", ".")
        layer: Any = adapted.get(name)
        if layer is None:
            yield Weight(plain_name, parameter)
        else:
            yield Weight(
                plain_name,
                parameter,
                layer.lora_A[_ADAPTER].weight,
                layer.lora_B[_ADAPTER].weight,
                layer.scaling[_ADAPTER],
            )


def checksum(model: PreTrainedModel) -> int:
    """Add up the bits of a thousand values of each weight that is not trained.

    Adapters are of no use with another model's weights, whose sum is another.

    Args:
        model: With whole weights, so before ZeRO-3 shares them out.
    """
    import torch

    whole_numbers = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    total = 0
    for parameter in model.parameters():
        if not parameter.requires_grad:
            step = max(1, parameter.numel() // _SUMMED_VALUES)
            bits = parameter.detach().flatten()[::step].view(whole_numbers[parameter.itemsize])
            total += int(bits.sum(dtype=torch.int64))
    return total


def save_adapter(adapted: PeftModel, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write the adapters as peft does: adapter_model.safetensors and adapter_config.json.

    Args:
        adapted: What `attach` returned; its own tensors are not read.
        tensors: Whole adapter tensors by the model's parameter names.
        path: The folder.
    """
    # peft sees the model inside two wrappers of its own.
    state = {f"base_model.model.{name}": tensor for name, tensor in tensors.items()}
    adapted.save_pretrained(str(path), state_dict=state, save_embedding_layers=False)


def adapter_files(adapted: PeftModel, tensors: Mapping[str, Tensor]) -> dict[str, bytes]:
    """Make the two files of `save_adapter` without leaving them anywhere: content by name."""
    with tempfile.TemporaryDirectory() as folder:
        save_adapter(adapted, tensors, Path(folder))
        return {
            name: (Path(folder) / name).read_bytes()
            for name in ("adapter_config.json", "adapter_model.safetensors")
        }
