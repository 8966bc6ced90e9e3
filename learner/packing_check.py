"""Whether a model scores packed rows as it scores single sequences."""

from typing import Any

import torch

from learner.logprobs import PackedPolicy

_CHECK_PROMPT, _CHECK_RESPONSES = 5, (4, 6)
_CHECK_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
_CHECK_COARSE_TOLERANCE = 0.25
"""Mean difference of log-probabilities that 16-bit weights are allowed; rounding makes a fifth."""


@torch.no_grad()
def check_packing(policy: PackedPolicy) -> None:
    """Refuse a model that packed rows with a shared prompt would not score as it should be.

    Scores two short responses behind one prompt, and each by itself with transformers' own plain
    attention. They differ where layers look past a segment's end (recurrent layers, convolutions),
    where positions count from the row's start, or where attention is not what we compute.

    Args:
        policy: With whole weights, so before ZeRO-3 shares them out.

    Raises:
        ValueError: If the two differ by more than rounding.
    """
    model: Any = policy.model
    embedding = model.get_input_embeddings().weight
    total = _CHECK_PROMPT + sum(_CHECK_RESPONSES)
    # Spread over the vocabulary, and all different.
    token_ids = torch.arange(1, total + 1, device=embedding.device) * 7919 % len(embedding)
    prompt, *responses = torch.split(token_ids, [_CHECK_PROMPT, *_CHECK_RESPONSES])
    positions = [torch.arange(_CHECK_PROMPT)]
    positions += [_CHECK_PROMPT + torch.arange(size) for size in _CHECK_RESPONSES]
    position_ids = torch.cat(positions).to(embedding.device)
    mask = torch.arange(total, device=embedding.device) >= _CHECK_PROMPT
    packed = policy(token_ids, position_ids, mask)[0][mask]
    implementation = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        alone = [
            model(input_ids=torch.cat([prompt, response])[None], use_cache=False)
            .logits[0, _CHECK_PROMPT - 1 : -1]
            .float()
            .div(policy.temperature)
            .log_softmax(-1)
            .gather(1, response[:, None])
            .squeeze(1)
            for response in responses
        ]
    finally:
        model.set_attn_implementation(implementation)
    difference = (packed - torch.cat(alone)).abs().mean().item()
    if not difference <= _CHECK_TOLERANCE.get(embedding.dtype, _CHECK_COARSE_TOLERANCE):
        raise ValueError(
            f"model.path: {type(model).__name__} does not score packed rows as it scores single "
            "sequences (it must be a decoder with causal attention over the whole context and "
            "position ids); choose another architecture, got log-probabilities that differ by "
            f"{difference:.3g} on average"
        )
