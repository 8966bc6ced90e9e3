"""One real engine."""

import asyncio

import numpy as np
import pytest

from rollout.config import EngineConfig
from rollout.engines.arguments import engine_arguments
from rollout.engines.vllm_engine import VLLMEngine
from rollout.progress import StalledError
from rollout.stopping import Stopping
from rollout.types import Sampling
from tests.places import PROJECT


@pytest.mark.system
def test_an_engine_scores_and_tells_tokens_that_arrive_from_tokens_that_do_not() -> None:
    model = str(PROJECT / "rollout/tasks/chain_model")
    settings = EngineConfig(max_num_seqs=8, kv_cache_gib=1.0, enforce_eager=True)
    asked = engine_arguments(
        settings, model_path=model, dtype="float32", float32_head=False, max_model_len=512,
        tensor_parallel_size=1, on_gpu=False, seed=0,
    )  # fmt: skip
    prompt = np.arange(1, 9, dtype=np.int32)

    async def scenario() -> None:
        engine = VLLMEngine(asked, num_threads=1, stopping=Stopping(()), deadline_seconds=8.0)

        async def generate(seed: int) -> int:
            found = await engine.generate(prompt, max_tokens=400, sampling=Sampling(1.0), seed=seed)
            return len(found.token_ids)

        async def seen_during(work: asyncio.Future[list[int]]) -> list[dict[str, int]]:
            seen = []
            while not work.done():
                seen.append(engine._num_tokens())
                await asyncio.sleep(0.01)
            return seen

        try:
            await engine.warm_up()
            found = await engine.generate(prompt, max_tokens=20, sampling=Sampling(1.0), seed=0)
            text = np.concatenate([prompt, found.token_ids])
            scored, version = await engine.score(text, len(found.token_ids))
            assert np.abs(scored - found.rollout_logprobs).max() < 1e-5
            for text, most, said in ((prompt, 0, "max_tokens"), (np.tile(prompt, 64), 1, "512")):
                with pytest.raises(ValueError, match=said):
                    await engine.generate(text, max_tokens=most, sampling=Sampling(1.0), seed=0)
            # Of the likeliest token alone is drawn what is likeliest.
            alike = [Sampling(0.0), Sampling(1.0, top_k=1), Sampling(1.0, top_p=1e-6)]
            drawn = [
                await engine.generate(prompt, max_tokens=20, sampling=sampling, seed=0)
                for sampling in alike
            ]
            assert len({tuple(each.token_ids.tolist()) for each in drawn}) == 1
            assert version == 0
            several = asyncio.gather(*(generate(seed) for seed in range(24)))
            seen = await seen_during(several)
            # Those that wait for a slot are there too, and what arrives is seen before the end.
            assert max(map(len, seen)) > settings.max_num_seqs
            assert 0 < min(max(found.values()) for found in seen if any(found.values())) < 400
            assert min(await several) > 0
            # It stops behind our back.
            await engine._llm.pause_generation(mode="keep")
            with pytest.raises(StalledError, match="no token for 8 s"):
                await generate(1)
            await engine._llm.resume_generation()
            assert await generate(2) > 0
            assert engine._num_tokens() == {}
            # Asleep, what it is asked waits, longer than any silence may be, until it is awake.
            await engine.sleep()
            assert await engine._llm.is_sleeping()
            waiting = asyncio.ensure_future(generate(3))
            await asyncio.sleep(9.0)
            await engine._pause("recompute")
            assert await engine._llm.is_sleeping() and not waiting.done()
            await engine._resume(5, "recompute")
            assert not await engine._llm.is_sleeping()
            assert await waiting == await generate(3)
        finally:
            await engine.close()

    asyncio.run(scenario())
