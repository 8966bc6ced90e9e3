"""Two steps of a real run for every kind of model: `pytest -m models`, or `-k mistral` with it."""

import asyncio
import json
import time
from pathlib import Path

import pytest

from rollout.stopping import stopping_of
from tests.model_folders import KINDS, make_folder, make_tokenizer

pytestmark = pytest.mark.models

GENERATION = {"eos_token_id": [1, 4, 300], "stop_strings": ["aa"]}


@pytest.mark.parametrize(
    ("kind", "dtype"), [*((kind, "float32") for kind in KINDS), ("llama", "bfloat16")]
)
def test_engine_and_learner_agree_on_a_model_that_is_trained(
    prepared, on_cluster, tmp_path, capsys, kind, dtype
):
    """Shards, padded vocabulary, no pad token, windows that responses exceed, many ways to stop."""
    from launch.record.startup import Startup
    from launch.run.system import System
    from launch.run.training import TrainingRun

    folder = make_folder(
        tmp_path / "model", kind, dtype=dtype, num_shards=2, generation=GENERATION,
        tokenizer=make_tokenizer("ends_with_turn", pad=False, begins=True),
    )  # fmt: skip
    inputs = prepared(
        f"model.path={folder}",
        f"model.dtype={dtype}",
        f"learner.zero_stage={0 if dtype == 'float32' else 1}",
        "learner.lr=1e-3",
        "loop.num_steps=2",
        # Random responses are never right, but some are shorter.
        "rollout.overlong.buffer_share=1.0",
        "thinning@scheduler.thinning=keep_all",
        "evaluation.before=false",
        "evaluation.after=false",
    )

    async def main():
        system = await System.create(inputs.config, inputs.prompts, Startup())
        try:
            await TrainingRun(inputs, system, began=time.monotonic()).run(Startup())
        finally:
            await system.close()

    on_cluster(inputs.config.resources, lambda: asyncio.wait_for(main(), 240))
    run_dir = Path(inputs.config.run_dir)
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    metrics = [json.loads(line) for line in lines]
    assert len(metrics) == 2
    assert sum(m["learner/optimizer_steps"] for m in metrics) >= 1
    assert min(m["rollout/truncated_share"] for m in metrics) < 1
    largest = max(m["parity/max_logprob_difference"] for m in metrics)
    with capsys.disabled():
        print(f"\n{kind} in {dtype}: {largest:.1e} nats")
    assert largest < (1e-4 if dtype == "float32" else 0.5)
    # vLLM and the learner load what was saved, by the same rules.
    assert stopping_of(str(run_dir / "policy"), inputs.tokenizer).strings == ("aa",)
