"""What learners and engines need in memory, from the shapes of the model: arithmetic only.

    config.json -> Shape -> learner_need, engine_need -> Need (bytes by what they are for)

Weights, gradients, optimiser, keys and values are counted. Activations, in values that a layer
keeps for its backward pass, and what a process takes by itself are estimates, from a few counts on
CPUs with small models of Llama's kind. `python -m launch.bench memory` compares a learner's
prediction with its process.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conf.schema import RunConfig
from cost.prices.shape import UNGATED, ModelShape
from launch.run.packing_memory import sent_bytes
from launch.run.zero_memory import (
    buffer_bytes,
    gradient_bytes,
    offloaded_bytes,
    optimizer_bytes,
)
from learner.gpu_share import CONTEXT_BYTES

GIB = 2.0**30
PROCESS_BYTES = {"learner": int(0.57 * GIB), "engine": int(1.6 * GIB)}
"""Of a process on a CPU before it holds a model: Python, torch, DeepSpeed; vLLM and its workers."""
LOGIT_BYTES = 16
"""Of a loss token and entry of the vocabulary: logits in float32, their gradient, two between."""
CPU_KV_CACHE_GIB = 4.0


@dataclass(frozen=True, slots=True)
class Shape(ModelShape):
    """The sizes of a decoder that decide about memory; the width of experts is that of those used.

    Example: Shape(896, 24, 14, 2, 64, 4864, 151936, tied=True) is Qwen2.5-0.5B.
    """

    tied: bool = False
    """Whether the head has the embeddings' weights."""
    mlp_parameters: int | None = None
    """Of one layer's MLPs with all experts; None without experts."""

    @classmethod
    def of_settings(cls, model: Mapping[str, Any]) -> Shape | None:
        """Read a config.json; None if it does not say the sizes by their usual names."""
        try:
            hidden, heads = int(model["hidden_size"]), int(model["num_attention_heads"])
            width = int(model["intermediate_size"])
            experts = int(model.get("num_experts") or model.get("num_local_experts") or 0)
            of_one = int(model.get("moe_intermediate_size") or width)
            used = int(model.get("num_experts_per_tok") or 0)
            return cls(
                hidden_size=hidden,
                num_layers=int(model["num_hidden_layers"]),
                num_heads=heads,
                num_kv_heads=int(model.get("num_key_value_heads") or heads),
                head_dim=int(model.get("head_dim") or hidden // heads),
                intermediate_size=used * of_one if experts else width,
                vocab_size=int(model["vocab_size"]),
                mlp_matrices=2 if model.get("model_type") in UNGATED else 3,
                tied=bool(model.get("tie_word_embeddings", False)),
                mlp_parameters=3 * hidden * of_one * experts if experts else None,
            )
        except (KeyError, TypeError, ValueError):
            return None

    @classmethod
    def of_folder(cls, folder: str) -> Shape | None:
        """Read the config.json of a model folder; see `of_settings`."""
        path = Path(folder) / "config.json"
        return cls.of_settings(json.loads(path.read_text("utf-8"))) if path.is_file() else None

    @property
    def query_width(self) -> int:
        """Of all heads together."""
        return self.num_heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Of the keys of all heads together, and of the values."""
        return self.num_kv_heads * self.head_dim

    @property
    def num_parameters(self) -> int:
        """Of the model; biases are left out."""
        attention = 2 * self.hidden_size * (self.query_width + self.kv_width)
        mlp = self.mlp_parameters or self.mlp_matrices * self.hidden_size * self.intermediate_size
        layer = attention + mlp + 2 * self.hidden_size
        embeddings = (1 if self.tied else 2) * self.vocab_size * self.hidden_size
        return self.num_layers * layer + embeddings + self.hidden_size

    def adapter_parameters(self, rank: int) -> int:
        """Of adapters of a rank on all linear layers but the head; experts have none."""
        h, q, kv, wide = self.hidden_size, self.query_width, self.kv_width, self.intermediate_size
        ends = (h + q) + 2 * (h + kv) + (q + h)
        if self.mlp_parameters is None:
            ends += self.mlp_matrices * (h + wide)
        return self.num_layers * rank * ends


@dataclass(frozen=True, slots=True)
class Need:
    """What one process needs.

    Example: Need("learner", {"weights": 16 * GIB, "gradients": 16 * GIB}, host=0)
    """

    of: str
    """"learner" or "engine"."""
    parts: Mapping[str, float]
    """Bytes on its device, by what they are for."""
    host: float = 0.0
    """Bytes that were offloaded to the machine's own memory."""

    @property
    def total(self) -> float:
        """Bytes on its device."""
        return float(sum(self.parts.values()))

    @property
    def counted(self) -> float:
        """Bytes of what is counted; activations and what a process itself takes are estimates."""
        estimates = ("activations", "process")
        return float(sum(each for name, each in self.parts.items() if name not in estimates))

    @property
    def held(self) -> float:
        """Bytes that stay while it does nothing: a learner holds all but activations."""
        return self.total - self.parts.get("activations", 0.0)

    def text(self) -> str:
        """Say it in GiB, part by part."""
        parts = ", ".join(f"{name} {size(part)}" for name, part in self.parts.items() if part)
        host = f", offloaded {size(self.host)}" if self.host else ""
        return f"{size(self.total)} ({parts}{host})"


def size(number: float) -> str:
    """Bytes in words, such as "1.5 GiB"."""
    return f"{number / GIB:,.1f} GiB" if number >= GIB / 10 else f"{number / 2**20:,.0f} MiB"


def learner_need(config: RunConfig, shape: Shape, *, on_gpu: bool) -> Need:
    """Return what one learner needs at its fullest moment.

    The part `start` is what that of its start needs beyond all others.
    """
    learner, ranks = config.learner, config.resources.num_learners
    value = 4 if config.model.dtype == "float32" else 2
    model = shape.num_parameters
    rank = learner.lora.rank
    trained = shape.adapter_parameters(rank) if rank else model
    stage = learner.zero_stage
    whole = value * (model + (trained if rank else 0))
    weights = whole / (ranks if stage == 3 else 1)
    # Beside 16-bit weights there are masters in float32; ZeRO keeps flat copies of them anyway.
    masters = 4.0 * trained / ranks if stage else 0.0
    moments = optimizer_bytes(learner) * trained / (ranks if stage else 1)
    host, gradients = 0.0, gradient_bytes(stage, value, ranks) * trained
    joined = 4.0 * trained / ranks
    if learner.offloads("offload_optimizer"):
        host, masters, moments = offloaded_bytes(learner, value) * trained / ranks, 0.0, 0.0
        if stage == 3:
            gradients = joined = 0.0
    if learner.offloads("offload_param"):
        host, weights = host + weights, 0.0
    parts = {
        "weights": weights,
        "gradients": gradients,
        "optimiser": masters + moments,
        "buffers": buffer_bytes(learner, value, whole, joined),
        "activations": activation_bytes(config, shape),
        "process": CONTEXT_BYTES if on_gpu else PROCESS_BYTES["learner"],
    }
    sent = sent_bytes(config, shape, on_gpu=on_gpu)
    # A row's room serves for it, too, but has been given back where an engine wakes meanwhile.
    row = 0.0 if config.resources.engines_sleep else parts["activations"]
    parts["sending"] = max(0.0, sent - row)
    if learner.reference.kl_coefficient and (not rank or learner.reference.path is not None):
        parts["reference"] = value * model
    if stage == 3:
        # At the start the whole model is on the device, and each rank's part of it is copied.
        start = whole * (1 + 1 / ranks) + parts["process"]
        parts["start"] = max(0.0, start - sum(parts.values()))
    return Need("learner", parts, host)


def activation_bytes(config: RunConfig, shape: Shape) -> float:
    """Bytes that a row keeps for its backward pass at the fullest moment."""
    learner = config.learner
    value = 4 if config.model.dtype == "float32" else 2
    h, wide = shape.hidden_size, shape.intermediate_size
    # Norms keep their inputs in float32 too.
    layer = value * (6 * h + 4 * wide + 2 * shape.query_width + 2 * shape.kv_width)
    layer += 6 * h if value == 2 else 0
    passing = value * (4 * h + 2 * wide)
    tokens, layers = learner.row_tokens, shape.num_layers
    logits = LOGIT_BYTES * shape.vocab_size * min(learner.logits_chunk_tokens, tokens)
    if learner.gradient_checkpointing:
        return tokens * layers * value * h + max(tokens * (layer + passing), logits)
    whole = tokens * layers * layer + max(tokens * passing, logits)
    if learner.chunk_tokens is None or learner.chunk_tokens >= config.model.max_model_len:
        return float(whole)
    chunk = min(learner.chunk_tokens, tokens)
    cache = 2.5 * 2 * shape.kv_width * value * layers * min(config.model.max_model_len, tokens)
    return float(cache + chunk * 1.3 * layers * layer + max(chunk * passing, logits))


def kv_bytes_per_token(config: RunConfig, shape: Shape) -> float:
    """Bytes of a token's keys and values in one worker of an engine."""
    value = 4 if config.model.dtype == "float32" else 2
    # Heads are shared out; where there are fewer than workers they are copied.
    workers = min(config.resources.tensor_parallel_size, shape.num_kv_heads)
    return 2.0 * shape.num_layers * shape.kv_width * value / workers


def engine_need(config: RunConfig, shape: Shape, *, on_gpu: bool, room: float) -> Need:
    """Return what one worker of an engine needs, and takes for keys and values.

    Args:
        config: The run.
        shape: The model's.
        on_gpu: Whether it runs on a GPU.
        room: Bytes that it may take of its device, of which keys and values get the rest.
    """
    engine = config.rollout.engine
    value = 4 if config.model.dtype == "float32" else 2
    workers = config.resources.tensor_parallel_size
    passing = engine.max_num_batched_tokens * value
    passing *= 4 * shape.hidden_size + 3 * shape.intermediate_size // workers
    weights = value * shape.num_parameters / workers
    if shape.tied and not config.learner.lora.published_rank:
        # Engines that are sent whole weights have an output head of their own.
        weights += value * shape.vocab_size * shape.hidden_size / workers
    parts = {
        "weights": weights,
        "forward pass": passing + 8.0 * engine.max_num_seqs * shape.vocab_size / workers,
        "process": CONTEXT_BYTES if on_gpu else PROCESS_BYTES["engine"],
    }
    if engine.kv_cache_gib is not None or not on_gpu:
        parts["KV cache"] = (engine.kv_cache_gib or CPU_KV_CACHE_GIB) * GIB
    else:
        parts["KV cache"] = max(0.0, room - sum(parts.values()))
    return Need("engine", parts)


def responses_at_once(config: RunConfig, shape: Shape, need: Need) -> int:
    """Return how many prompts with responses of the full length an engine's cache has room for."""
    each = kv_bytes_per_token(config, shape) * config.model.max_model_len
    return math.floor(need.parts["KV cache"] / each)
