"""Log-probabilities and entropies of one row, over a large vocabulary.

chunked:  as the learner computes them
plain:    log-softmax of all its logits at once
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from launch.study.bench.contest import compete
from learner import attention
from learner.batch import Segment, collate
from learner.logprobs import PackedPolicy


@dataclass(frozen=True, slots=True)
class HeadLoad:
    """One row of a model that is nothing but a vocabulary: size decides."""

    vocabulary: int = 49152
    num_tokens: int = 1024
    hidden_size: int = 64
    chunk_tokens: int = 128


HEAD = HeadLoad()


class PeakMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of tensors that operators inside it make, and what is freed of them.

    What an operator uses for itself and gives up before it returns is not seen.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = 0
        self._now = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator and count what it made."""
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: Any) -> None:
        place, size = storage.data_ptr(), storage.nbytes()
        if place == 0 or place in self._known:
            return
        self._known.add(place)
        self._now += size
        self.most = max(self.most, self._now)
        weakref.finalize(storage, self._forget, place, size)

    def _forget(self, place: int, size: int) -> None:
        self._known.discard(place)
        self._now -= size


def bench_logprobs(load: HeadLoad, *, repetitions: int, warm_ups: int) -> dict[str, Any]:
    """Chunked log-probabilities against plain ones: time, and bytes at the peak.

    `ratio` is plain over chunked seconds; memory is of forward and backward, weights not included.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=load.hidden_size, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=1, vocab_size=load.vocabulary, max_position_embeddings=32,
        tie_word_embeddings=True, initializer_range=0.3,
    )  # fmt: skip
    model: Any = LlamaForCausalLM(config)  # type: ignore[no-untyped-call]
    model.set_attn_implementation(attention.register())
    policy = PackedPolicy(model, 0.9, logits_chunk_tokens=load.chunk_tokens)
    rng = np.random.default_rng(0)
    size = 16
    segments = [
        Segment(
            token_ids=rng.integers(0, load.vocabulary, size + 1),
            loss_mask=np.arange(size + 1) > 0,
            rollout_logprobs=np.zeros(size + 1, np.float32),
            advantage=1.0,
            loss_weight=float(rng.random()),
        )
        for _ in range(load.num_tokens // size)
    ]
    row = collate(segments)
    targets = row.loss_mask.nonzero().squeeze(1)

    def gradient(loss: Tensor) -> Tensor:
        torch.autograd.backward(loss)
        found = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        model.zero_grad(set_to_none=True)
        return found

    def chunked() -> Tensor:
        logprobs, _ = policy(row.token_ids, row.position_ids, row.loss_mask)
        return gradient((logprobs * row.loss_weights).sum())

    def plain() -> Tensor:
        logits = model(
            input_ids=row.token_ids[None],
            position_ids=row.position_ids[None],
            use_cache=False,
            logits_to_keep=targets - 1,
        ).logits[0]
        scored = (logits.float() / 0.9).log_softmax(-1)
        # Entropies too, as the learner reports them.
        (scored.detach().exp() * scored.detach()).sum(-1)
        chosen = scored.gather(1, row.token_ids[targets, None]).squeeze(1)
        return gradient((chosen * row.loss_weights[targets]).sum())

    run: dict[str, Callable[[], Tensor]] = {"chunked": chunked, "plain": plain}
    peaks = {}
    for name, function in run.items():
        with PeakMemory() as peak:
            function()
        peaks[name] = peak.most
    return {
        **compete(run, repetitions=repetitions, warm_ups=warm_ups),
        "vocabulary": load.vocabulary,
        "loss_tokens": len(targets),
        "chunk_tokens": load.chunk_tokens,
        "peak_bytes": peaks,
        "peak_bytes_plain_over_chunked": peaks["plain"] / peaks["chunked"],
    }
