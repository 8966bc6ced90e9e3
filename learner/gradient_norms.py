"""Norm of every response's score with respect to one layer, a packed row at a time.

A response's score is the gradient of its summed log-probability at the sampling temperature,

    s = sum over its loss tokens t of grad log pi(token_t | what precedes it),

without advantage, aggregation factor or weight: GVM's G is the mean of |s| over a prompt's correct
responses, with respect to the input embeddings alone (2505.02391, and its code).
One backward pass per response is not needed, since the segments of a row do not interact:

- `embedding`: one backward pass through the layers for the whole row gives the gradient delta_t at
  every token's embedding. A response's gradient has in row v the sum of the delta_t over its
  tokens v, prompt included; repeated tokens add up before the norm is taken.
- `lm_head`: no backward pass. The gradient is sum_t d_t outer h_t with the hidden state h_t and
  d_t = (one-hot of token_t - probabilities_t) / temperature, hence
  |s|^2 = sum over t, u of <d_t, d_u> <h_t, h_u>.

Responses may share a copy of their prompt for `lm_head`. For `embedding` they may not: the gradient
at a shared prompt is the sum over its responses.

Where a model uses one matrix for both, each norm is that of the one use, not of their sum. The
formulas are ours (chain rule); the tests compare them with autograd, response by response.
"""

from typing import Any

import torch
from torch import Tensor, nn

from learner.batch import MicroBatch
from learner.logprobs import PackedPolicy

LAYERS = ("embedding", "lm_head")

_VOCABULARY_CHUNK = 8192
"""Columns of a response's probabilities that exist at a time."""
_MASS_TOLERANCE = 1e-2
"""Largest distance of a token's total probability from 1; rounding stays far below."""


def check_layer(layer: str) -> None:
    """Refuse a layer that is not one of `LAYERS`.

    Raises:
        ValueError: If it is another.
    """
    if layer not in LAYERS:
        raise ValueError(f"layer must be one of {', '.join(LAYERS)}, got {layer!r}")


def gradient_norms(policy: PackedPolicy, row: MicroBatch, layer: str) -> Tensor:
    """Compute the norm of each response's score with respect to one layer's weight matrix.

    Gradients of parameters, and whether the model trains or evaluates, stay as they are.

    Args:
        policy: The policy; under ZeRO-3 all ranks must call this the same number of times.
        row: It is on the policy's device, segments in order.
        layer: One of `LAYERS`.

    Returns:
        [S] float64 on the CPU, one norm per segment of the row; none for padding. 0 for a segment
        without loss tokens.

    Raises:
        ValueError: If the layer is unknown, or the model has something between the layer and what
            it stands for, such as a scale on the embeddings or a cap on the logits, or responses
            share a prompt where they must not.
    """
    check_layer(layer)
    squares = _embedding(policy, row) if layer == "embedding" else _lm_head(policy, row)
    return squares.clamp(min=0).sqrt().cpu()


def _num_segments(row: MicroBatch) -> int:
    return int(row.segment_ids[-1]) + 1


def _shares_prompts(row: MicroBatch) -> bool:
    restarts = row.position_ids[1:] != row.position_ids[:-1] + 1
    return bool((row.position_ids[1:][restarts] != 0).any())


def _embedding(policy: PackedPolicy, row: MicroBatch) -> Tensor:
    """Return squared norms [S] float64 with respect to the input embeddings."""
    embedding = policy.model.get_input_embeddings()  # type: ignore[operator]
    if type(embedding).forward is not nn.Embedding.forward or embedding.scale_grad_by_freq:
        raise ValueError(
            f"layer must be lm_head for a model whose embedding is a {type(embedding).__name__}, "
            "got 'embedding'"
        )
    if _shares_prompts(row):
        raise ValueError("row must repeat shared prompts for the layer embedding (collate)")
    leaves: list[Tensor] = []

    def cut(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        # As a leaf it ends the graph: no parameter's gradient is asked for, so none is computed.
        leaves.append(output.detach().requires_grad_())
        return leaves[-1]

    with torch.enable_grad(), embedding.register_forward_hook(cut):
        logprobs, _ = policy(row.token_ids, row.position_ids, row.loss_mask)
        delta = torch.autograd.grad(logprobs.sum(), leaves)[0][0].float()
    squares = torch.zeros(_num_segments(row), dtype=torch.float64, device=delta.device)
    if row.is_padding:
        return squares
    # torch keeps the padding token's row of the matrix without gradient.
    counted = row.token_ids != (-1 if embedding.padding_idx is None else embedding.padding_idx)
    keys = torch.stack([row.segment_ids, row.token_ids], dim=1)[counted]
    distinct, place = torch.unique(keys, dim=0, return_inverse=True)
    rows = delta.new_zeros(len(distinct), delta.shape[1]).index_add_(0, place, delta[counted])
    return squares.index_add_(0, distinct[:, 0], rows.double().square().sum(dim=1))


@torch.no_grad()
def _lm_head(policy: PackedPolicy, row: MicroBatch) -> Tensor:
    """Return squared norms [S] float64 with respect to the output matrix."""
    head = policy.model.get_output_embeddings()  # type: ignore[operator]
    seen: list[tuple[Tensor, Tensor]] = []
    with head.register_forward_hook(lambda _, given, output: seen.append((given[0], output))):
        logprobs, _ = policy(row.token_ids, row.position_ids, row.loss_mask)
    hidden, logits = (torch.cat(parts, dim=1) for parts in zip(*seen, strict=True))
    if row.is_padding:
        return torch.zeros(0, dtype=torch.float64)
    chosen = row.token_ids[row.loss_mask]
    counts = row.segment_ids[row.loss_mask].bincount(minlength=_num_segments(row)).tolist()
    parts = [part.split(counts) for part in (hidden[0], logits[0], chosen, logprobs[row.loss_mask])]
    return torch.stack(
        [_outer_square(h, z, a, p, policy.temperature) for h, z, a, p in zip(*parts, strict=True)]
    )


def _outer_square(
    hidden: Tensor, logits: Tensor, chosen: Tensor, logprobs: Tensor, temperature: float
) -> Tensor:
    """Return the squared norm of sum_t d_t outer h_t of one response, float64.

    Made from [K, H], [K, V], [K] and [K], through K x K products where a response has fewer loss
    tokens than the state has dimensions, else through the gradient itself; either way chunk by
    chunk of the vocabulary.
    """
    hidden = hidden.float()
    num_tokens, num_dimensions = hidden.shape
    at_chosen = logits.gather(1, chosen[:, None]).squeeze(1).float()
    # The forward pass has done this sum over the vocabulary already.
    normaliser = at_chosen / temperature - logprobs
    gram = hidden.new_zeros(num_tokens, num_tokens)
    mass = torch.zeros_like(normaliser)
    square = torch.zeros((), dtype=torch.float64, device=hidden.device)
    for start in range(0, logits.shape[1], _VOCABULARY_CHUNK):
        part = logits[:, start : start + _VOCABULARY_CHUNK].float()
        difference = (part / temperature - normaliser[:, None]).exp()
        mass += difference.sum(dim=1)
        inside = ((chosen >= start) & (chosen < start + part.shape[1])).nonzero().squeeze(1)
        difference[inside, chosen[inside] - start] -= 1
        if num_tokens <= num_dimensions:
            gram += difference @ difference.T
        else:
            square += (difference.T @ hidden).double().square().sum()
    if num_tokens <= num_dimensions:
        square = (gram.double() * (hidden @ hidden.T).double()).sum()
    if num_tokens and (mass - 1).abs().max() > _MASS_TOLERANCE:
        raise ValueError(
            "layer must be embedding for a model that changes its head's logits, got 'lm_head'"
        )
    return square / temperature**2
