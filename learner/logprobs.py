"""Log-probabilities of a packed row's tokens under the policy that is being trained.

    token_ids, position_ids [T] --decoder--> hidden [T, H] --head, loss tokens only--> logits [K, V]
                                --log-softmax at the next token--> logprobs [T]

No attention mask is passed: attention sees from the restarts of `position_ids` where segments begin
and lets none look into another (`learner.attention`, as also `sdpa` and `eager` of transformers 5).
Logits are float32 and
divided by the sampling temperature, as the engine's are. They exist only for positions that
predict a loss token, so prompts cost no vocabulary-sized memory.
"""

import torch
from torch import Tensor, nn

_ENTROPY_ROWS = 256
"""Rows of the softmax that the entropy holds at a time."""


class PackedPolicy(nn.Module):
    """A causal language model seen as a function from a packed row to log-probabilities.

    It is a module of its own because ZeRO-3 gathers weights in the hooks of the outermost module.
    """

    def __init__(self, model: nn.Module, temperature: float) -> None:
        """Wrap a Hugging Face causal language model.

        Args:
            model: Its forward takes `input_ids`, `position_ids`, `use_cache` and `logits_to_keep`.
            temperature: Sampling temperature of the rollouts, positive.

        Raises:
            ValueError: If the temperature is not positive.
        """
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature!r}")
        self.model = model
        self.temperature = temperature

    def forward(
        self, token_ids: Tensor, position_ids: Tensor, loss_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Score the loss tokens of a packed row.

        Args:
            token_ids: [T] int64.
            position_ids: [T] int64, restarting at 0 in every segment.
            loss_mask: [T] bool, False on every segment's first token.

        Returns:
            Log-probabilities [T] float32 with gradient, and the entropies of the distributions
            they were taken from [T] float32 without; both 0 outside the loss mask.
        """
        targets = loss_mask.nonzero().squeeze(1)
        logits = self.model(
            input_ids=token_ids[None],
            position_ids=position_ids[None],
            use_cache=False,
            logits_to_keep=targets - 1,
        ).logits[0]
        logits = logits.float()
        if self.temperature != 1.0:
            logits = logits / self.temperature
        normaliser = logits.logsumexp(dim=-1)
        chosen = logits.gather(1, token_ids[targets, None]).squeeze(1)
        logprobs = torch.zeros_like(token_ids, dtype=torch.float32)
        logprobs = logprobs.index_put((targets,), chosen - normaliser)
        entropies = torch.zeros_like(token_ids, dtype=torch.float32)
        entropies[targets] = _entropies(logits.detach(), normaliser.detach())
        return logprobs, entropies


@torch.no_grad()
def _entropies(logits: Tensor, normaliser: Tensor) -> Tensor:
    """Entropy of each row of logits in nats: [K, V], [K] -> [K]."""
    entropies = torch.empty_like(normaliser)
    for start in range(0, len(logits), _ENTROPY_ROWS):
        part = slice(start, start + _ENTROPY_ROWS)
        rows, norm = logits[part], normaliser[part]
        entropies[part] = norm - ((rows - norm[:, None]).exp() * rows).sum(dim=-1)
    return entropies
