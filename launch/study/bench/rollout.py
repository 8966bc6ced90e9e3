"""Tokens per second of the whole actor path against vLLM's own `LLM.generate`.

    actor path:  RolloutPool.run per ticket -> engine x n -> rewards -> report -> driver
                                                                           +-> scheduler
    LLM:         LLM.generate(prompts, parameters) in an actor of its own

Both engines are up all the time and only one is busy. They get the same requests, arguments and
threads, seeds included, so that they sample the same responses up to rounding; where
`rollout.seeded` is off they sample others, whose longest one decides more than the path does.
What differs is in the LLM's favour: it scores nothing, sends its responses nowhere, and its clock
starts inside its process. In ours: the actor path takes no text from the engine, LLM does as by
default. On CPUs both keep to cores: vLLM binds the LLM's worker, `rollout.cores` the engine.

Where the run takes all GPUs the actor path is measured alone.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray

from conf.schema import ModelConfig, RunConfig
from cost.types import Ticket
from launch.run.model_folder import load_tokenizer
from launch.run.placement import use_gpu
from launch.run.system import System
from launch.study.bench.timing import ratio_of_medians, turns
from rollout.actor import request_seed
from rollout.engines.arguments import engine_arguments, stop_arguments
from rollout.stopping import stopping_of
from rollout.types import GroupRef, Prompt, TokenArray

CONTESTANTS = ("actor_path", "llm")


class PlainLLM:
    """vLLM's blocking `LLM`, as its documentation shows it; wrap it with `ray.remote`."""

    def __init__(
        self, arguments: dict[str, Any], sampling: dict[str, Any], num_threads: int
    ) -> None:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        os.environ["OMP_NUM_THREADS"] = str(num_threads)
        from vllm import LLM

        self._llm = LLM(**arguments)
        self._sampling = sampling

    def generate(self, requests: Sequence[tuple[TokenArray, int | None]]) -> tuple[int, float]:
        """Sample a response to each (prompt, seed); returns their tokens and the call's seconds."""
        from vllm import SamplingParams

        inputs: Any = [{"prompt_token_ids": ids.tolist()} for ids, _ in requests]
        parameters = [SamplingParams(**self._sampling, seed=seed) for _, seed in requests]
        began = time.monotonic()
        outputs = self._llm.generate(inputs, parameters, use_tqdm=False)
        seconds = time.monotonic() - began
        return sum(len(o.token_ids) for output in outputs for o in output.outputs), seconds


@dataclass(frozen=True, slots=True)
class Generated:
    """A batch whose responses are there."""

    batch: int
    tickets: list[Ticket]
    prompts: list[Prompt]
    """Those drawn, in the order of the tickets."""
    groups: list[GroupRef]
    seconds: float
    """Of the rollout alone."""

    @property
    def num_tokens(self) -> int:
        """Tokens of all responses."""
        return sum(int(group.report.lengths.sum()) for group in self.groups)


class Batches:
    """Batches of tickets from the system's own scheduler, one after the other."""

    def __init__(self, system: System, prompts: Sequence[Prompt]) -> None:
        self._system = system
        self._prompts = prompts
        self._num_batches = 0
        self.num_done = 0
        """Batches that nothing more is asked of: later draws build on them."""

    async def generate(self) -> Generated:
        """Draw a batch and roll it out."""
        batch = self._num_batches
        self._num_batches += 1
        tickets = (await self._system.scheduler.draw(batch, self.num_done)).tickets
        prompts = [self._prompts[ticket.prompt_index] for ticket in tickets]
        return await self._roll_out(batch, list(tickets), prompts)

    async def again(self, found: Generated) -> Generated:
        """Roll the tickets of a batch out once more: the same requests, seeds included."""
        tickets = [
            replace(ticket, attempt=group.report.attempt + 1)
            for ticket, group in zip(found.tickets, found.groups, strict=True)
        ]
        return await self._roll_out(found.batch, tickets, found.prompts)

    async def _roll_out(
        self, batch: int, tickets: list[Ticket], prompts: list[Prompt]
    ) -> Generated:
        began = time.monotonic()
        groups = await asyncio.gather(
            *(
                self._system.rollouts.run(ticket, prompt)
                for ticket, prompt in zip(tickets, prompts, strict=True)
            )
        )
        return Generated(batch, tickets, prompts, groups, time.monotonic() - began)

    async def run(self) -> Generated:
        """Generate a batch and let the scheduler select from it."""
        found = await self.generate()
        attempts = [group.report.attempt for group in found.groups]
        await self._system.scheduler.select(found.batch, attempts)
        self.num_done = found.batch + 1
        return found


async def bench_rollout(
    config: RunConfig,
    batches: Batches,
    *,
    repetitions: int,
    warm_ups: int,
) -> dict[str, Any]:
    """Measure both in turns on the batches that the scheduler draws.

    Returns:
        Tokens per second of each, and their ratio; without a GPU for the LLM `llm` says so in place
        of its figures.
    """
    num_samples = config.scheduler.group_size
    sampling = {
        "temperature": config.rollout.temperature,
        "max_tokens": config.rollout.max_tokens,
        "logprobs": 0,
        **_stops(config.model),
    }
    alone = _no_gpu_left(config)
    arguments, llm = (None, None) if alone else await _start_llm(config, sampling)
    contestants = CONTESTANTS[:1] if alone else CONTESTANTS
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in contestants}
    requests: list[tuple[TokenArray, int | None]] = []
    try:
        # The actor path goes first: it draws the batch that both run.
        for turn in turns(contestants, repetitions=repetitions, warm_ups=warm_ups):
            if turn.contestant == "actor_path":
                found = await batches.run()
                requests, tokens, seconds = (
                    _requests(config, found),
                    found.num_tokens,
                    found.seconds,
                )
            else:
                assert llm is not None
                reference = llm.generate.remote(requests)
                tokens, seconds = await asyncio.wait_for(
                    reference, config.loop.batch_deadline_seconds
                )
            if turn.measured:
                measured[turn.contestant].append(
                    {"tokens": tokens, "seconds": seconds, "tokens_per_second": tokens / seconds}
                )
    finally:
        if llm is not None:
            ray.kill(llm)
    return _figures(measured, alone) | {
        "tickets": config.scheduler.tickets_per_step,
        "samples_per_ticket": num_samples,
        "num_engines": config.resources.num_engines,
        "threads_per_engine": config.rollout.engine.num_threads,
        "reward_processes": config.rollout.reward_processes,
        "requests_seeded": config.rollout.seeded,
        "llm_sampling": sampling,
        "llm_engine_arguments": arguments,
    }


def _requests(config: RunConfig, found: Generated) -> list[tuple[TokenArray, int | None]]:
    """Return a batch's prompts as the engine got them, one for each response, with their seeds."""
    return [
        (
            prompt.token_ids,
            request_seed(config.seed, group.report.ticket_id, position, 0)
            if config.rollout.seeded
            else None,
        )
        for prompt, group in zip(found.prompts, found.groups, strict=True)
        for position in range(config.scheduler.group_size)
    ]


def _figures(measured: dict[str, list[dict[str, float]]], alone: str | None) -> dict[str, Any]:
    """Take medians, and their ratio where both were measured."""
    speeds = {name: [row["tokens_per_second"] for row in rows] for name, rows in measured.items()}
    return {
        "median_tokens_per_second": {
            name: statistics.median(values) for name, values in speeds.items()
        },
        **({"llm": alone} if alone else ratio_of_medians(speeds["actor_path"], speeds["llm"])),
        "repetitions": measured,
    }


def _no_gpu_left(config: RunConfig) -> str | None:
    """Say why no LLM can stand beside the engines, None where one can."""
    free = ray.available_resources().get("GPU", 0.0)  # type: ignore[no-untyped-call]
    if use_gpu(config.resources) and free < config.resources.tensor_parallel_size:
        return "skipped: the run takes all GPUs"
    return None


def _stops(model: ModelConfig) -> dict[str, Any]:
    """End responses as the actor path does; the LLM takes text from its engine all the same."""
    stopping = stopping_of(model.path, load_tokenizer(model.path), model.stop_strings)
    return stop_arguments(stopping) | {"detokenize": True}


async def _start_llm(config: RunConfig, sampling: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """Start the LLM with the arguments of the actor path's engines, weight transfer left out."""
    on_gpu = use_gpu(config.resources)
    arguments = engine_arguments(
        config.rollout.engine,
        model_path=config.model.path,
        dtype=config.model.dtype,
        float32_head=config.model.float32_head,
        max_model_len=config.model.max_model_len,
        tensor_parallel_size=config.resources.tensor_parallel_size,
        on_gpu=on_gpu,
        seed=config.seed,
    )
    # It shares the cores that the run reserved for its engine, which is idle meanwhile.
    num_gpus = config.resources.tensor_parallel_size if on_gpu else 0
    actor: Any = ray.remote(PlainLLM).options(
        name=f"llm-{config.name}", num_cpus=0, num_gpus=num_gpus
    )
    llm = actor.remote(arguments, sampling, config.rollout.engine.num_threads)
    try:
        await asyncio.wait_for(llm.generate.remote([]), config.rollout.start_deadline_seconds)
    except BaseException:
        ray.kill(llm)
        raise
    return arguments, llm
