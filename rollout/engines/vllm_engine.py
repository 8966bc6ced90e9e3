"""One vLLM engine behind the few calls that rollout needs.

The engine is vLLM's `AsyncLLM` on CPU and GPU alike. Log-probabilities are those of the
distribution really sampled (`processed_logprobs`: after the temperature), and the model's own
generation config is not applied, so nothing but the temperature shapes that distribution.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from rollout.config import ADAPTER_RANKS, EngineConfig
from rollout.progress import Watch
from rollout.stopping import Stopping
from rollout.types import Completion, LogprobArray, TokenArray, VersionSpan

CPU_KV_CACHE_GIB = 4.0
"""Keys and values on CPUs when nothing is set; vLLM would take nearly all of the memory."""


CPU_HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
"""Sizes of attention heads that vLLM's CPU kernels know."""


ONEDNN_CAPACITY = "64"
"""On CPUs oneDNN keeps what it made for every number of tokens that a step has had, up to 1,024 of
them by itself, and the process grows by a GB; so many are those of a dozen numbers."""


def engine_arguments(
    config: EngineConfig,
    *,
    model_path: str,
    dtype: str,
    float32_head: bool,
    max_model_len: int,
    tensor_parallel_size: int,
    on_gpu: bool,
    weight_backend: str | None = None,
    adapter_rank: int = 0,
    seed: int,
) -> dict[str, Any]:
    """Return the arguments of vLLM's `AsyncEngineArgs` for one engine.

    Args:
        config: Engine settings.
        model_path: Local Hugging Face folder.
        dtype: "float32", "bfloat16" or "float16".
        float32_head: Whether logits are computed in float32, whatever the dtype.
        max_model_len: Longest prompt plus response, tokens.
        tensor_parallel_size: GPUs that hold one copy of the model.
        on_gpu: False selects the CPU's threads and settings.
        weight_backend: "nccl" or "gloo" joins weight transfer over it; the head is then untied,
            and the engine's output means nothing before the first publish. None joins none.
        adapter_rank: Rank of the adapters that it receives instead, at most the last of
            `ADAPTER_RANKS`; 0 for none.
        seed: Seed of requests that carry none.
    """
    arguments: dict[str, Any] = {
        "model": model_path,
        "tokenizer": model_path,
        "dtype": dtype,
        "load_format": "safetensors",
        "trust_remote_code": False,
        "max_model_len": max_model_len,
        "max_num_seqs": config.max_num_seqs,
        "max_num_batched_tokens": max(config.max_num_batched_tokens, max_model_len),
        "tensor_parallel_size": tensor_parallel_size,
        "enforce_eager": config.enforce_eager,
        "enable_prefix_caching": config.prefix_caching,
        "logprobs_mode": "processed_logprobs",
        "generation_config": "vllm",
        "disable_log_stats": True,
        "seed": seed,
    }
    arguments |= _memory_arguments(config, on_gpu=on_gpu)
    overrides: dict[str, Any] = {}
    if float32_head:
        overrides["head_dtype"] = "float32"
    if weight_backend is not None:
        arguments["weight_transfer_config"] = {"backend": weight_backend}
        overrides["tie_word_embeddings"] = False
    if adapter_rank:
        largest = next(rank for rank in ADAPTER_RANKS if rank >= adapter_rank)
        arguments |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": largest}
    if overrides:
        arguments["hf_overrides"] = overrides
    return arguments


def stop_arguments(stopping: Stopping) -> dict[str, Any]:
    """Return what vLLM's `SamplingParams` are to say about stopping.

    Text is made only where a text can end a response, and then with special tokens in it, so that
    all of what was sampled is searched. vLLM keeps the token that completes a text, as it keeps a
    stop token.
    """
    return {
        "stop_token_ids": list(stopping.token_ids),
        "stop": list(stopping.strings),
        "detokenize": bool(stopping.strings),
        "skip_special_tokens": not stopping.strings,
    }


def check_heads(model_path: str) -> None:
    """Refuse a model with attention heads of a size that vLLM has no CPU kernel for.

    vLLM itself would only notice at the first request, and end.

    Args:
        model_path: Local Hugging Face folder.

    Raises:
        ValueError: In one sentence that begins with "model.path".
    """
    from transformers import AutoConfig

    config: Any = AutoConfig.from_pretrained(
        model_path, local_files_only=True, trust_remote_code=False
    ).get_text_config()
    size = getattr(config, "head_dim", None)
    if size is None and getattr(config, "num_attention_heads", None):
        size = config.hidden_size // config.num_attention_heads
    if size is not None and size not in CPU_HEAD_SIZES:
        raise ValueError(
            "model.path must hold a model with attention heads of "
            f"{', '.join(map(str, CPU_HEAD_SIZES))} dimensions when engines run on CPUs; choose "
            f"another model or run on GPUs, got {size}"
        )


def _memory_arguments(config: EngineConfig, *, on_gpu: bool) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    kv_cache_gib = config.kv_cache_gib or (None if on_gpu else CPU_KV_CACHE_GIB)
    if kv_cache_gib is not None:
        arguments["kv_cache_memory_bytes"] = int(kv_cache_gib * 2**30)
    if on_gpu:
        arguments["gpu_memory_utilization"] = config.gpu_memory_utilization
    else:
        # A partly computed prompt of a request with a seed kills the CPU worker: vLLM then rewinds
        # the request's random generator, which torch cannot do on CPU.
        arguments["enable_chunked_prefill"] = False
    return arguments


class VLLMEngine:
    """A running `AsyncLLM`; build it inside the actor that owns it."""

    def __init__(
        self,
        arguments: dict[str, Any],
        *,
        num_threads: int,
        stopping: Stopping,
        deadline_seconds: float,
    ) -> None:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        os.environ["OMP_NUM_THREADS"] = str(num_threads)
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", ONEDNN_CAPACITY)
        from vllm.config import WeightTransferConfig
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        arguments = dict(arguments)
        if "weight_transfer_config" in arguments:
            arguments["weight_transfer_config"] = WeightTransferConfig(
                **arguments["weight_transfer_config"]
            )
        self._llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
        self._stops = stop_arguments(stopping)
        self._num_requests = 0
        self._cache_salt: str | None = None
        self._watch = Watch(deadline_seconds, self._num_tokens)
        self._updating = False
        self._adapter: Any = None
        self._adapter_folder: tempfile.TemporaryDirectory[str] | None = None

    async def warm_up(self) -> None:
        """Generate a little, so that nobody waits for what first calls compile; no clock runs."""
        token_ids = np.arange(8, dtype=np.int32) % 8 + 1
        self._watch.paused = True
        await asyncio.gather(
            *(self.generate(token_ids, max_tokens=4, temperature=1.0, seed=i) for i in range(4))
        )
        self._watch.paused = False

    async def generate(
        self, token_ids: TokenArray, *, max_tokens: int, temperature: float, seed: int | None
    ) -> Completion:
        """Complete one prompt, and return the tokens with their log-probabilities and versions.

        Args:
            token_ids: [T_prompt] int32.
            max_tokens: Largest number of new tokens, at least 1.
            temperature: 0 is greedy.
            seed: Seed of this request; None takes the engine's stream.

        Raises:
            StalledError: If it gets no token for too long; see `rollout.progress.Silence`.
        """
        from vllm import SamplingParams, TokensPrompt
        from vllm.logprobs import FlatLogprobs
        from vllm.sampling_params import RequestOutputKind

        self._num_requests += 1
        parameters = SamplingParams(
            temperature=temperature,
            max_tokens=max_tokens,
            seed=seed,
            logprobs=0,
            flat_logprobs=True,
            **self._stops,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        prompt = TokensPrompt(prompt_token_ids=token_ids.tolist())
        if self._cache_salt is not None:
            prompt["cache_salt"] = self._cache_salt
        final, name = None, str(self._num_requests)
        async with self._watch.request(name):
            async for output in self._llm.generate(
                prompt, parameters, name, lora_request=self._adapter
            ):
                final = output
        assert final is not None and final.finished
        out = final.outputs[0]
        num_tokens = len(out.token_ids)
        assert isinstance(out.logprobs, FlatLogprobs)
        return Completion(
            token_ids=np.asarray(out.token_ids, dtype=np.int32),
            # Position-wise the sampled token comes first; with logprobs=0 it is the only one.
            rollout_logprobs=np.asarray(
                [out.logprobs.logprobs[start] for start in out.logprobs.start_indices],
                dtype=np.float32,
            ),
            finish_reason=out.finish_reason or "stop",
            version_spans=_version_spans(out.weight_versions, num_tokens),
            cached_tokens=final.num_cached_tokens or 0,
        )

    async def score(self, token_ids: TokenArray, num_scored: int) -> tuple[LogprobArray, int]:
        """Compute log-probabilities of the last tokens of a text, at temperature 1.

        Args:
            token_ids: [T] int32, of a prompt and what follows it.
            num_scored: Tokens to score, in [1, T).

        Returns:
            [num_scored] float32, and the version of the weights that scored them.
        """
        from vllm import SamplingParams, TokensPrompt
        from vllm.logprobs import FlatLogprobs
        from vllm.sampling_params import RequestOutputKind

        self._num_requests += 1
        # One token more is sampled, which nobody needs but for its version.
        parameters = SamplingParams(
            temperature=0,
            max_tokens=1,
            prompt_logprobs=0,
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        final, name = None, str(self._num_requests)
        async with self._watch.request(name):
            async for output in self._llm.generate(
                TokensPrompt(prompt_token_ids=token_ids.tolist()),
                parameters,
                name,
                lora_request=self._adapter,
            ):
                final = output
        assert final is not None
        found = final.prompt_logprobs
        assert isinstance(found, FlatLogprobs)
        scores = [found.logprobs[start] for start in found.start_indices[-num_scored:]]
        (span,) = _version_spans(final.outputs[0].weight_versions, 1)
        return np.asarray(scores, dtype=np.float32), span.version

    def _num_tokens(self) -> dict[str, int]:
        """Tokens of each running request so far; asking for them streamed would cost time."""
        states = self._llm.output_processor.request_states.values()
        return {
            state.external_req_id: state.detokenizer.num_output_tokens()
            for state in states
            if state.detokenizer is not None
        }

    async def start_weight_update(self, mode: str) -> None:
        """Stop scheduling as `mode` asks (see `RolloutConfig.update_mode`) and open an update."""
        await self._pause(mode)
        await self._llm.start_weight_update()
        self._updating = True

    async def leave_weight_transfer(self) -> None:
        """Leave the transfer group, if any, and close an update whose sender died."""
        if self._updating:
            # What has come of it is overwritten by the weights to come. Where receiving failed, it
            # is closed already, which vLLM counts as an error.
            with suppress(Exception):
                await self._llm.finish_weight_update()
            self._updating = False
        await self._llm.shutdown_weight_transfer_engine()

    async def init_weight_transfer(self, init_info: dict[str, Any]) -> None:
        """Join the transfer group."""
        from vllm.distributed.weight_transfer.base import WeightTransferInitRequest

        await self._llm.init_weight_transfer_engine(WeightTransferInitRequest(init_info))

    async def update_weights(self, update_info: Any) -> None:
        """Receive the weights that a learner sends, and load them."""
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        await self._llm.update_weights(WeightTransferUpdateRequest(update_info))

    async def finish_weight_update(self, version: int, mode: str) -> None:
        """Close the update, label tokens from now on with `version`, and resume."""
        await self._llm.finish_weight_update(str(version))
        self._updating = False
        await self._resume(version, mode)

    async def load_adapter(self, version: int, files: Mapping[str, bytes], mode: str) -> None:
        """Put the policy's adapters in the place of those before, as one weight update.

        Running requests go on with them, as they do with new weights.

        Args:
            version: What the tokens sampled after it are labelled with.
            files: Content of peft's `adapter_config.json` and `adapter_model.safetensors`.
            mode: See `RolloutConfig.update_mode`.
        """
        from vllm.lora.request import LoRARequest

        await self._pause(mode)
        if self._adapter_folder is None:
            self._adapter_folder = tempfile.TemporaryDirectory(prefix="adapter-")
        folder = Path(self._adapter_folder.name)
        for name, content in files.items():
            (folder / name).write_bytes(content)
        # One name and id for all versions: what is loaded in place serves running requests, too.
        if not await self._llm.add_lora(LoRARequest("policy", 1, str(folder), load_inplace=True)):
            raise RuntimeError(f"vLLM did not load the adapters of version {version}")
        self._adapter = LoRARequest("policy", 1, str(folder))
        await self._llm.update_weight_version(str(version))
        await self._resume(version, mode)

    async def _pause(self, mode: str) -> None:
        self._watch.paused = True
        await self._llm.pause_generation(
            mode="wait" if mode == "drain" else "keep", clear_cache=mode != "keep_kv"
        )

    async def _resume(self, version: int, mode: str) -> None:
        if mode == "keep_kv":
            # Blocks cached under older weights must not serve new prompts.
            self._cache_salt = str(version)
        await self._llm.resume_generation()
        self._watch.paused = False

    async def check(self) -> None:
        """Raise if the engine's processes are dead."""
        await self._llm.check_health()

    async def close(self) -> None:
        """End the engine's processes."""
        self._llm.shutdown()
        if self._adapter_folder is not None:
            self._adapter_folder.cleanup()


def _version_spans(spans: Sequence[Any] | None, num_tokens: int) -> tuple[VersionSpan, ...]:
    """VLLM's spans with integer versions; an engine that never received weights is version 0."""
    if not spans:
        return (VersionSpan(0, num_tokens, 0),)
    return tuple(
        VersionSpan(s.start, s.end, 0 if s.version == "default" else int(s.version)) for s in spans
    )
