"""One vLLM engine behind the few calls that rollout needs.

The engine is vLLM's `AsyncLLM` on CPU and GPU alike. Log-probabilities are those of the
distribution really sampled (`processed_logprobs`: after the temperature), and the model's own
generation config is not applied, so nothing but `Sampling` shapes that distribution.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from rollout.engines import files, fork_server
from rollout.engines.arguments import stop_arguments
from rollout.engines.errors import EngineLog
from rollout.engines.importing import begin_importing, threads_chosen_by_vllm
from rollout.engines.sleeping import Sleep
from rollout.loading import loading, without_unused
from rollout.progress import Watch
from rollout.stopping import Stopping
from rollout.types import Completion, LogprobArray, Sampling, TokenArray, VersionSpan


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
        forked = begin_importing(arguments, num_threads)
        with loading(), without_unused():
            if forked and arguments["enforce_eager"]:
                # Here, too, nothing is compiled.
                import rollout.engines.without_compiling  # noqa: F401
            from vllm.config import WeightTransferConfig
            from vllm.engine.arg_utils import AsyncEngineArgs
            from vllm.v1.engine.async_llm import AsyncLLM

        if (asked := arguments.get("weight_transfer_config")) is not None:
            arguments = arguments | {"weight_transfer_config": WeightTransferConfig(**asked)}
        begun = fork_server.used_by_vllm() if forked else threads_chosen_by_vllm()
        self._log = EngineLog()
        with files.in_folder(), self._log.explained(), begun:
            self._llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
        self._sleep = Sleep(self._llm, keeps_weights=asked is None)
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
        with self._log.explained():
            await asyncio.gather(
                *(
                    self.generate(token_ids, max_tokens=4, sampling=Sampling(1.0), seed=i)
                    for i in range(4)
                )
            )
        self._watch.paused = False

    async def generate(
        self, token_ids: TokenArray, *, max_tokens: int, sampling: Sampling, seed: int | None
    ) -> Completion:
        """Complete one prompt, and return the tokens with their log-probabilities and versions.

        Args:
            token_ids: [T_prompt] int32.
            max_tokens: Largest number of new tokens, at least 1.
            sampling: How tokens are drawn.
            seed: Seed of this request; None takes the engine's stream.

        Raises:
            ValueError: If vLLM refuses it, such as a prompt that is longer than the context.
            StalledError: If it gets no token for too long; see `rollout.progress.Silence`.
            EngineDiedError: If the engine is dead.
        """
        from vllm import SamplingParams, TokensPrompt
        from vllm.logprobs import FlatLogprobs
        from vllm.sampling_params import RequestOutputKind

        with _refusals():
            parameters = SamplingParams(
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                top_k=sampling.top_k,
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
            final = await self._answer(prompt, parameters)
        assert final.finished
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

        # One token more is sampled, which nobody needs but for its version.
        parameters = SamplingParams(
            temperature=0,
            max_tokens=1,
            prompt_logprobs=0,
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        final = await self._answer(TokensPrompt(prompt_token_ids=token_ids.tolist()), parameters)
        found = final.prompt_logprobs
        assert isinstance(found, FlatLogprobs)
        scores = [found.logprobs[start] for start in found.start_indices[-num_scored:]]
        (span,) = _version_spans(final.outputs[0].weight_versions, 1)
        return np.asarray(scores, dtype=np.float32), span.version

    async def _answer(self, prompt: Any, parameters: Any) -> Any:
        """Return the last output of a request of its own."""
        from vllm.v1.engine.exceptions import EngineDeadError

        self._num_requests += 1
        name, final = str(self._num_requests), None
        try:
            async with self._watch.request(name):
                async for output in self._llm.generate(
                    prompt, parameters, name, lora_request=self._adapter
                ):
                    final = output
        except EngineDeadError as error:
            raise self._log.death() from error
        assert final is not None
        return final

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

    async def sleep(self) -> None:
        """Give memory back until the next weights come; see `rollout.engines.sleeping`."""
        self._watch.paused = True
        await self._sleep.begin()

    async def _pause(self, mode: str) -> None:
        self._watch.paused = True
        if await self._sleep.wake_for_weights():
            return
        how = "wait" if mode == "drain" else "keep"
        # What AsyncLLM.pause_generation does, which then sleeps for 20 ms that it need not.
        await self._llm.engine_core.pause_scheduler_async(how, clear_cache=mode != "keep_kv")

    async def _resume(self, version: int, mode: str) -> None:
        if mode == "keep_kv":
            # Blocks cached under older weights must not serve new prompts.
            self._cache_salt = str(version)
        await self._sleep.end()
        await self._llm.resume_generation()
        self._watch.paused = False

    async def check(self) -> None:
        """Raise if the engine's processes are dead."""
        await self._llm.check_health()

    async def close(self) -> None:
        """End the engine's processes."""
        # Killed at once: in order it would look for garbage for seconds.
        self._llm.shutdown(timeout=0.0)
        files.remove()
        if self._adapter_folder is not None:
            self._adapter_folder.cleanup()


@contextmanager
def _refusals() -> Iterator[None]:
    """Raise a ValueError for what vLLM refuses, of whatever kind its own error is."""
    from vllm.exceptions import VLLMValidationError

    try:
        yield
    except VLLMValidationError as error:
        raise ValueError(str(error)) from error


def _version_spans(spans: Sequence[Any] | None, num_tokens: int) -> tuple[VersionSpan, ...]:
    """VLLM's spans with integer versions; an engine that never received weights is version 0."""
    if not spans:
        return (VersionSpan(0, num_tokens, 0),)
    return tuple(
        VersionSpan(s.start, s.end, 0 if s.version == "default" else int(s.version)) for s in spans
    )
