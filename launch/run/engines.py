"""Rollout actors for a run or an evaluation, and sampling from them outside any training."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import ray

from conf.resources import ResourcesConfig
from conf.schema import EvaluateConfig, RunConfig
from cost.types import LengthReport, Ticket
from launch.cli.refusals import refusing
from launch.run.placement import Placement
from rollout.actor import RolloutActor
from rollout.config import RolloutConfig
from rollout.engines.arguments import check_heads, engine_arguments
from rollout.engines.versions import check_vllm_on_cpus
from rollout.joining import Room
from rollout.pool import RolloutPool
from rollout.types import Prompt, Sampling


def make_pool(
    *,
    config: RolloutConfig,
    run: RunConfig | EvaluateConfig,
    placement: Placement,
    scheduler: Any,
    receives_weights: bool,
    adapter_rank: int = 0,
    look_at: Callable[[str], Awaitable[None]] | None = None,
) -> RolloutPool:
    """Create the rollout actors of a run or an evaluation.

    Args:
        config: How tickets become groups.
        run: What the actors are for: model, plugs, resources and seed are read.
        placement: What is reserved for the run.
        scheduler: The actor that reports go to; None to evaluate only.
        receives_weights: True when a learner will publish its weights to the engines.
        adapter_rank: Rank of the adapters that it will publish instead; 0 for none.
        look_at: Looks at the node of an actor that comes while others are in use.

    Raises:
        UserError: If the model cannot run on the hardware that the run got.
    """
    layout = placement.layout
    on_gpu = layout.engine_gpus > 0
    if not on_gpu:
        with refusing():
            check_vllm_on_cpus()
            check_heads(run.model.path)

    def make_actor(index: int, config: RolloutConfig, scheduler: Any, seed: int) -> Any:
        engine = config.engine
        if index < layout.num_shared:
            engine = replace(engine, gpu_memory_utilization=run.resources.engine_memory_share)
        with refusing():
            arguments = engine_arguments(
                engine,
                model_path=run.model.path,
                dtype=run.model.dtype,
                float32_head=run.model.float32_head,
                max_model_len=run.model.max_model_len,
                tensor_parallel_size=run.resources.tensor_parallel_size,
                on_gpu=on_gpu,
                weight_backend=layout.weight_backend if receives_weights else None,
                adapter_rank=adapter_rank,
                sleeps=run.resources.engines_sleep and layout.num_learners > 0,
                seed=seed + index,
            )
        options = placement.engine_options(index, run.resources.engine_cpus)
        # The engine runs hundreds of requests at once, each waiting in a coroutine of its own.
        actor = ray.remote(RolloutActor).options(
            name=f"rollout-{index}-{run.name}", max_concurrency=10_000, **options
        )
        reward = run.evaluation.engine_reward(run.reward)
        texts = (run.model.chat_template_kwargs, run.model.stop_strings)
        return actor.remote(config, arguments, run.environment, reward, scheduler, seed, *texts)

    room = _room(run.resources, placement, look_at)
    return RolloutPool(make_actor, run.resources.num_engines, config, scheduler, run.seed, room)


def _room(
    resources: ResourcesConfig,
    placement: Placement,
    look_at: Callable[[str], Awaitable[None]] | None,
) -> Room:
    return Room(
        most=resources.max_engines or 0,
        deadline_seconds=resources.placement_deadline_seconds,
        look_at=look_at,
        give_back=placement.give_back,
    )


class Engines(Protocol):
    """What answers prompts outside any training; see `rollout.pool.RolloutPool.evaluate`."""

    async def evaluate(self, ticket: Ticket, prompt: Prompt, sampling: Sampling) -> LengthReport:
        """Return the report of one ticket."""


async def ask(
    rollouts: Engines,
    prompts: Sequence[Prompt],
    *,
    num_samples: int,
    sampling: Sampling,
    max_tokens: int,
) -> list[LengthReport]:
    """Sample and score prompts outside any training, and return one report per prompt, in order.

    Args:
        rollouts: Started engines.
        prompts: [N] the prompts to ask.
        num_samples: How often each prompt is asked.
        sampling: How their tokens are drawn.
        max_tokens: Tokens of the longest response.
    """
    # Ids from the top of the range keep evaluation seeds apart from those of training tickets.
    first = 2**62 + (2**61 if sampling.temperature == 0 else 0)
    tickets = [
        Ticket(first + i, prompt.index, num_samples, 1.0, 1.0, max_tokens)
        for i, prompt in enumerate(prompts)
    ]
    return await asyncio.gather(
        *(
            rollouts.evaluate(ticket, prompt, sampling)
            for ticket, prompt in zip(tickets, prompts, strict=True)
        )
    )
