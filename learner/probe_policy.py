"""Per-response gradients over all parameters, exact: one backward pass a response.

For measurements, not for training: what a thinning rule adds to the variance follows from the norms
of these gradients (`launch.variance`), and what a draw is worth from their products
(`launch.predict`). A policy of its own in float32, on one process.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from learner.batch import MicroBatch
from learner.gradient_norms import gradient_norms
from learner.logprobs import PackedPolicy
from learner.token_masks import top_tokens

Tokens = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TokenScores:
    """Holds what the policy says of a response's tokens."""

    logprobs: npt.NDArray[np.float64]
    """[T] the sampled tokens' log-probabilities."""
    entropies: npt.NDArray[np.float64]
    """[T] entropies of the distributions they were sampled from, nats."""


class ProbePolicy:
    """Lets one sample from a policy and differentiate it."""

    def __init__(
        self, model_path: str, *, temperature: float, stop_token_ids: Sequence[int]
    ) -> None:
        """Load the weights in float32.

        Args:
            model_path: Local folder with a Hugging Face checkpoint.
            temperature: Sampling temperature, positive.
            stop_token_ids: Tokens that end a response.
        """
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        logging.disable_progress_bar()
        # Any: its stubs let no caller generate.
        self._model: Any = AutoModelForCausalLM.from_pretrained(
            model_path,
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
        )
        # No dropout.
        self._model.train(False)
        self._policy = PackedPolicy(self._model, temperature)
        self._temperature = temperature
        self._stop_token_ids = sorted(stop_token_ids)

    @property
    def num_parameters(self) -> int:
        """Return the length of a gradient; tied weights count once."""
        return sum(parameter.numel() for parameter in self._model.parameters())

    @torch.no_grad()
    def sample(
        self, prompts: Sequence[npt.ArrayLike], *, num_samples: int, max_tokens: int, seed: int
    ) -> list[list[Tokens]]:
        """Sample responses to each prompt, the stop token included.

        Args:
            prompts: [T_prompt] token ids of each.
            num_samples: Responses to each.
            max_tokens: Longest response.
            seed: Decides all of them.

        Returns:
            Per prompt `num_samples` arrays [T].
        """
        from transformers import GenerationConfig

        rows = [torch.as_tensor(np.asarray(prompt, dtype=np.int64)) for prompt in prompts]
        width = max(len(row) for row in rows)
        token_ids = torch.zeros(len(rows), width, dtype=torch.int64)
        attention = torch.zeros(len(rows), width, dtype=torch.int64)
        for index, row in enumerate(rows):
            token_ids[index, width - len(row) :] = row
            attention[index, width - len(row) :] = 1
        torch.manual_seed(seed)
        # Nothing but the temperature: the model's own generation settings may cut the distribution.
        settings = GenerationConfig(
            do_sample=True,
            temperature=self._temperature,
            top_k=0,
            top_p=1.0,
            num_return_sequences=num_samples,
            max_new_tokens=max_tokens,
            eos_token_id=self._stop_token_ids or None,
            pad_token_id=0,
        )
        generated = self._model.generate(
            token_ids, attention_mask=attention, generation_config=settings
        )
        responses = [self._cut(row) for row in generated[:, width:].numpy()]
        return [
            responses[start : start + num_samples]
            for start in range(0, len(responses), num_samples)
        ]

    def _cut(self, row: Tokens) -> Tokens:
        """Leave out what follows the first stop token."""
        stops = np.flatnonzero(np.isin(row, self._stop_token_ids))
        return row[: stops[0] + 1] if len(stops) else row

    @torch.no_grad()
    def token_scores(self, prompt: npt.ArrayLike, response: Tokens) -> TokenScores:
        """Score a response's tokens."""
        logprobs, entropies = self._forward(prompt, response)
        return TokenScores(logprobs.double().numpy(), entropies.double().numpy())

    @torch.no_grad()
    def prompt_state(self, prompt: npt.ArrayLike) -> tuple[npt.NDArray[np.float32], float]:
        """Read a prompt without answering it.

        Args:
            prompt: [T_prompt] token ids.

        Returns:
            [H] float32 sum over its tokens of the last hidden state, and the entropy of the first
            token of a response, nats.
        """
        token_ids = torch.as_tensor(np.asarray(prompt, dtype=np.int64))[None]
        answer = self._model(token_ids, output_hidden_states=True)
        logprobs = torch.log_softmax(answer.logits[0, -1].double() / self._temperature, dim=-1)
        entropy = float(-(logprobs.exp() * logprobs.clamp_min(-1e9)).sum())
        return answer.hidden_states[-1][0].sum(dim=0).numpy(), entropy

    def gradient(
        self, prompt: npt.ArrayLike, response: Tokens, token_weights: npt.ArrayLike | None = None
    ) -> Tensor:
        """Differentiate a response's log-probability.

        Args:
            prompt: [T_prompt]
            response: [T]
            token_weights: [T] factors of the tokens' log-probabilities; None for ones.

        Returns:
            [num_parameters] float32.
        """
        logprobs, _ = self._forward(prompt, response)
        weights = (
            torch.ones_like(logprobs)
            if token_weights is None
            else torch.as_tensor(np.asarray(token_weights, dtype=np.float32))
        )
        parameters = [p for p in self._model.parameters() if p.requires_grad]
        parts = torch.autograd.grad((weights * logprobs).sum(), parameters, allow_unused=True)
        return torch.cat(
            [
                torch.zeros(parameter.numel()) if part is None else part.flatten()
                for parameter, part in zip(parameters, parts, strict=True)
            ]
        )

    def head_norm(self, prompt: npt.ArrayLike, response: Tokens) -> float:
        """Return the norm of the same gradient by the output head alone, without a backward pass.

        Args:
            prompt: [T_prompt]
            response: [T]

        Raises:
            ValueError: If the model changes its head's logits, such as by a cap.
        """
        token_ids, positions, loss_mask = _row(prompt, response)
        unused = torch.zeros(len(token_ids))
        row = MicroBatch(
            token_ids=token_ids,
            position_ids=positions,
            segment_ids=torch.zeros_like(token_ids),
            loss_mask=loss_mask,
            rollout_logprobs=unused,
            advantages=unused,
            loss_weights=unused,
        )
        return float(gradient_norms(self._policy, row, "lm_head")[0])

    def zeros(self) -> Tensor:
        """Make a gradient of zero, to add others to."""
        return torch.zeros(self.num_parameters)

    def _forward(self, prompt: npt.ArrayLike, response: Tokens) -> tuple[Tensor, Tensor]:
        """Return log-probabilities and entropies [T] of a response's tokens."""
        token_ids, positions, loss_mask = _row(prompt, response)
        logprobs, entropies = self._policy(token_ids, positions, loss_mask)
        return logprobs[loss_mask], entropies[loss_mask]


def _row(prompt: npt.ArrayLike, response: Tokens) -> tuple[Tensor, Tensor, Tensor]:
    """Return token ids, positions and loss mask [T] of a prompt and a response to it."""
    prompt = np.asarray(prompt)
    token_ids = torch.as_tensor(np.concatenate([prompt, response]).astype(np.int64))
    positions = torch.arange(len(token_ids))
    return token_ids, positions, positions >= len(prompt)


def top_token_factors(
    scores: npt.NDArray[np.float64], loss_weights: npt.NDArray[np.float64], share: float
) -> npt.NDArray[np.float64]:
    """What token-level thinning multiplies each token's loss weight with (`learner.token_masks`).

    Args:
        scores: [T] |advantage| x entropy of all loss tokens of an optimiser step.
        loss_weights: [T]
        share: Tokens to keep, in (0, 1].

    Returns:
        [T] 0 where left out, one common factor elsewhere.
    """
    threshold, factor = top_tokens(torch.from_numpy(scores), torch.from_numpy(loss_weights), share)
    return np.where(scores >= threshold, factor, 0.0)
