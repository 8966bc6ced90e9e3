"""Log-probabilities of a packed row's tokens under the policy that is being trained.

    token_ids, position_ids [T] --decoder--> hidden [T, H] --at the predictors--> [K, H]
        --head, C tokens at a time--> logits [C, V] --log-softmax at the token--> logprobs [T]

No attention mask is passed: attention sees from the restarts of `position_ids` where segments and
responses begin and lets none look into another (`learner.attention`; without shared prompts also
`sdpa` and `eager` of transformers 5). Logits are float32 and divided by the sampling temperature,
as the engine's are. They exist only for positions that predict a loss token, so prompts cost no
vocabulary-sized memory, and only for C of them at a time, in the backward pass too: there a chunk's
logits are computed again, the last chunk's excepted, which are still there.

The head is whatever the model does between its decoder's hidden states and its logits: the model
itself is called with a decoder that answers with the hidden states at hand, so caps and scales of
the logits are the model's own.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

DEFAULT_CHUNK_TOKENS = 1024
_SOFTMAX_ROWS = 256
"""Rows of the softmax in float32 that exist at a time."""


class PackedPolicy(nn.Module):
    """A causal language model seen as a function from a packed row to log-probabilities.

    It is a module of its own because ZeRO-3 gathers weights in the hooks of the outermost module.
    """

    def __init__(
        self,
        model: nn.Module,
        temperature: float,
        *,
        logits_chunk_tokens: int = DEFAULT_CHUNK_TOKENS,
    ) -> None:
        """Wrap a Hugging Face causal language model.

        Args:
            model: Its decoder's forward takes `input_ids`, `position_ids` and `use_cache`.
            temperature: Sampling temperature of the rollouts, positive.
            logits_chunk_tokens: C, loss tokens whose logits exist at a time, at least 1.

        Raises:
            ValueError: If the temperature is not positive, or the chunk empty.
        """
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature!r}")
        if logits_chunk_tokens < 1:
            raise ValueError(
                f"learner.logits_chunk_tokens must be at least 1, got {logits_chunk_tokens!r}"
            )
        self.model = model
        self.temperature = temperature
        self.logits_chunk_tokens = logits_chunk_tokens
        self.most: Callable[[int], int] | None = None
        """Largest of the numbers that all ranks ask it with; None where a rank stands alone. Every
        chunk calls the head, whose weight ZeRO-3 gathers from all ranks: with this they call it
        equally often, however many loss tokens a rank's row has."""

    def forward(
        self,
        token_ids: Tensor,
        position_ids: Tensor,
        loss_mask: Tensor,
        entropy_gradient: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Score the loss tokens of a packed row.

        Args:
            token_ids: [T] int64.
            position_ids: [T] int64, see `learner.batch`.
            loss_mask: [T] bool, False where the position is 0.
            entropy_gradient: Whether the entropies have a gradient.

        Returns:
            Log-probabilities [T] float32 with gradient, and the entropies of the distributions
            they were taken from [T] float32, in nats; both 0 outside the loss mask.
        """
        targets = loss_mask.nonzero().squeeze(1)
        decoder = self._decoder()
        decoded = decoder(
            input_ids=token_ids[None], position_ids=position_ids[None], use_cache=False
        )
        hidden = decoded.last_hidden_state[:, predictors(position_ids)[targets]]
        chosen = token_ids[targets]

        def scores(states: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
            logits = self._logits(states, decoded, token_ids)
            scored: tuple[Tensor, Tensor] = _Scores.apply(  # type: ignore[no-untyped-call]
                logits, tokens, self.temperature, entropy_gradient
            )
            return scored

        parts = []
        size = self.logits_chunk_tokens
        # Without a loss token there is still one chunk, so that every parameter gets a gradient.
        num_chunks = max(-(-len(targets) // size), 1)
        if self.most is not None:
            # Chunks beyond this rank's tokens are empty, and run forwards and backwards as others.
            num_chunks = self.most(num_chunks)
        for i in range(num_chunks):
            part = slice(i * size, (i + 1) * size)
            chunk = hidden[:, part], chosen[part]
            if i == num_chunks - 1 or not torch.is_grad_enabled():
                parts.append(scores(*chunk))
            else:
                parts.append(
                    checkpoint(scores, *chunk, use_reentrant=False, preserve_rng_state=False)
                )
        logprobs, entropies = (
            torch.zeros_like(token_ids, dtype=torch.float32).index_put((targets,), torch.cat(score))
            for score in zip(*parts, strict=True)
        )
        return logprobs, entropies

    def _decoder(self) -> nn.Module:
        decoder = self.model.get_decoder()  # type: ignore[operator]
        if decoder is self.model or not isinstance(decoder, nn.Module):
            raise ValueError(
                f"model.path: {type(self.model).__name__} must have a decoder apart from its head; "
                "choose another architecture"
            )
        return decoder

    def _logits(self, hidden: Tensor, decoded: Any, token_ids: Tensor) -> Tensor:
        """Compute the logits [n, V] of hidden states [1, n, H]."""
        answer = copy.copy(decoded)
        answer["last_hidden_state"] = hidden
        with _answering(self._decoder(), answer) as asked:
            logits: Tensor = self.model(input_ids=token_ids[None, :1], use_cache=False).logits
        if asked != [True] or logits.shape[1] != hidden.shape[1]:
            raise ValueError(
                f"model.path: {type(self.model).__name__} must compute its logits from its "
                "decoder's last hidden states; choose another architecture"
            )
        return logits[0]


@contextmanager
def _answering(module: nn.Module, answer: Any) -> Iterator[list[bool]]:
    """Let a module answer with something it did not compute; its hooks run as ever."""
    asked: list[bool] = []

    def forward(*_: Any, **__: Any) -> Any:
        asked.append(True)
        return answer

    replaced = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield asked
    finally:
        if replaced is None:
            del module.forward
        else:
            module.forward = replaced


def predictors(position_ids: Tensor) -> Tensor:
    """Where each token of a packed row is predicted from: [T] int64 -> [T] int64.

    That is the token before; for the first token of a further response to a shared prompt the
    prompt's last token. Of no meaning at position 0.
    """
    places = torch.arange(len(position_ids), device=position_ids.device)
    starts = torch.where(position_ids == 0, places, 0).cummax(0).values
    goes_on = torch.ones_like(position_ids, dtype=torch.bool)
    goes_on[1:] = position_ids[1:] == position_ids[:-1] + 1
    return torch.where(goes_on, places, starts + position_ids) - 1


class _Scores(torch.autograd.Function):
    """Log-probability of a token and entropy of its distribution, from one row of logits each.

    With z the logits over the temperature T, p their softmax and H its entropy

        d logprob / d logits = (one-hot - p) / T,    d H / d logits = -p (log p + H) / T

    Nothing of the vocabulary's size is kept but the logits themselves, in their own precision.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, chosen: Tensor, temperature: float, entropy_gradient: bool
    ) -> tuple[Tensor, Tensor]:
        """Map logits [n, V] and tokens [n] int64 to two times [n] float32."""
        logprobs = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
        normaliser, entropies = torch.empty_like(logprobs), torch.empty_like(logprobs)
        for rows in _row_slices(len(logits)):
            z = logits[rows].float() / temperature
            norm = z.logsumexp(dim=-1)
            logprobs[rows] = z.gather(1, chosen[rows, None]).squeeze(1) - norm
            weighted = (z - norm[:, None]).exp_().mul_(z)
            normaliser[rows], entropies[rows] = norm, norm - weighted.sum(dim=-1)
        ctx.save_for_backward(logits, chosen, normaliser, entropies)
        ctx.temperature, ctx.entropy_gradient = temperature, entropy_gradient
        if not entropy_gradient:
            ctx.mark_non_differentiable(entropies)
        return logprobs, entropies

    @staticmethod
    def backward(
        ctx: Any, of_logprobs: Tensor, of_entropies: Tensor
    ) -> tuple[Tensor, None, None, None]:
        """Map two gradients [n] to that of the logits, [n, V]."""
        logits, chosen, normaliser, entropies = ctx.saved_tensors
        gradient = torch.empty_like(logits)
        for rows in _row_slices(len(logits)):
            log_p = (logits[rows].float() / ctx.temperature).sub_(normaliser[rows, None])
            p = log_p.exp()
            if ctx.entropy_gradient:
                inner = log_p.add_(entropies[rows, None]).mul_(of_entropies[rows, None])
                p.mul_(inner.add_(of_logprobs[rows, None]))
            else:
                p.mul_(of_logprobs[rows, None])
            p.neg_().scatter_add_(1, chosen[rows, None], of_logprobs[rows, None])
            gradient[rows] = p.div_(ctx.temperature)
        return gradient, None, None, None


def _row_slices(num_rows: int) -> Iterator[slice]:
    for start in range(0, num_rows, _SOFTMAX_ROWS):
        yield slice(start, start + _SOFTMAX_ROWS)
