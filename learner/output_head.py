"""The output head of a policy: what it is given, whether it is plain, and its precision."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from learner.logprobs import PackedPolicy

_CHECK_TOKENS = 5


@contextmanager
def head_inputs(model: nn.Module) -> Iterator[list[Tensor]]:
    """Collect what the output head is given: [1, n, D] a call, in the order of the loss tokens.

    The model must pass `check_head`.
    """
    seen: list[Tensor] = []
    head = model.get_output_embeddings()  # type: ignore[operator]
    with head.register_forward_hook(lambda _, given, __: seen.append(given[0])):
        yield seen


@torch.no_grad()
def check_head(policy: PackedPolicy) -> None:
    """Refuse a model whose logits are not its head's weight times hidden states.

    Args:
        policy: With whole weights, so before ZeRO-3 shares them out.

    Raises:
        ValueError: If the head is no plain matrix, or the model changes what comes out of it, such
            as by a cap or a scale.
    """
    model: Any = policy.model
    head = model.get_output_embeddings()
    plain = isinstance(head, nn.Linear) and type(head).forward is nn.Linear.forward
    if plain and head.bias is None:
        came_out: list[Tensor] = []
        token_ids = torch.arange(_CHECK_TOKENS, device=head.weight.device)
        with head.register_forward_hook(lambda _, __, output: came_out.append(output.clone())):
            logits = model(input_ids=token_ids[None], use_cache=False).logits
        if len(came_out) == 1 and torch.equal(came_out[0].to(logits.dtype), logits):
            return
    raise ValueError(
        "learner.curvature.low, high and shift must be 0 for a model whose logits are not the "
        f"product of hidden states and its head's weight, got {type(model).__name__}"
    )


def widen_head(head: nn.Module) -> None:
    """Make an output head compute float32 logits from weights and hidden states of 16 bits.

    Their products are exact in float32, so that only the sums are rounded, where 16-bit logits keep
    two or three digits (FP32 logits of ScaleRL, 2510.13786). The parameters stay as they are.

    Args:
        head: A linear layer.

    Raises:
        ValueError: If it is another kind of layer.
    """
    if not isinstance(head, nn.Linear):
        raise ValueError(
            "model.float32_head must be false for a model whose output head is no linear layer, "
            f"got {type(head).__name__}"
        )

    def forward(hidden: Tensor) -> Tensor:
        bias = None if head.bias is None else head.bias.float()
        return nn.functional.linear(hidden.float(), head.weight.float(), bias)

    head.forward = forward  # type: ignore[method-assign, assignment]
