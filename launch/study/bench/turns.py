"""Several turns with a slow tool against single turns of the same tokens, on one engine.

    turns:    128 plays at once: [generate -> the tool sleeps -> its tokens] x 1 to 6
    single:   128 responses at once, each of as many tokens as a play samples

Once with short and once with longer turns: the shorter they are, the more counts what the engine
reads anew after each. Both contestants go through the environments that runs use. Every turn has
its length from the plan: no token ends one. There are fewer slots than plays, so that while a play
waits for its tool another can be in its slot.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from conf.schema import RunConfig
from launch.run.model_folder import load_tokenizer
from launch.study.bench.timing import ratio_of_medians, turns
from launch.study.bench.workload import best_device
from rollout.actor import request_seed
from rollout.environments import SingleTurn
from rollout.environments.bridge import Bridge
from rollout.environments.turns import End, Reply, TurnEnvironment, TurnPlayer
from rollout.stopping import Stopping
from rollout.types import Completion, Prompt, Sampling, TokenArray

CONTESTANTS = ("turns", "single")
NUM_PLAYS = 128
SLOTS_SHARE = 0.5
"""Requests that the engine works on at once, over plays."""
MOST_TURNS = 6
TURN_TOKENS = {"short": (8, 32), "longer": (16, 64)}
"""Fewest and most tokens of a turn."""
PROMPT_TOKENS = (8, 32)
TOOL_TOKENS = 8
MOST_WAIT_SECONDS = 0.2
NO_STOP = Stopping(())


@dataclass(frozen=True, slots=True)
class Plan:
    """What happens in one play.

    Example: Plan(prompt=array([5, 9, 2], int32), tokens=(12, 30), waits=(0.15,))
    """

    prompt: TokenArray
    """[T_prompt]"""
    tokens: tuple[int, ...]
    """Tokens that are sampled in each turn."""
    waits: tuple[float, ...]
    """Seconds that the tool sleeps after each turn but the last."""


def plans(num_plays: int, vocabulary: int, turn_tokens: tuple[int, int], seed: int) -> list[Plan]:
    """Draw plays of 1 to `MOST_TURNS` turns.

    Args:
        num_plays: How many.
        vocabulary: Prompts are of tokens in [1, vocabulary).
        turn_tokens: Fewest and most tokens of a turn.
        seed: The same gives the same plays.
    """
    stream = random.Random(seed)
    found = []
    for _ in range(num_plays):
        num_turns = stream.randint(1, MOST_TURNS)
        prompt = [stream.randrange(1, vocabulary) for _ in range(stream.randint(*PROMPT_TOKENS))]
        tokens = tuple(stream.randint(*turn_tokens) for _ in range(num_turns))
        waits = tuple(stream.uniform(0, MOST_WAIT_SECONDS) for _ in range(num_turns - 1))
        found.append(Plan(np.asarray(prompt, dtype=np.int32), tokens, waits))
    return found


class SleepingTool:
    """A game whose answers are the plan's: a sleep and some tokens, or the end."""

    def __init__(self, plan: Plan) -> None:
        self._waits = iter(plan.waits)
        self._says = plan.prompt[:1].repeat(TOOL_TOKENS).tolist()

    async def reset(self, prompt: Prompt) -> None:
        """Begin."""

    async def step(self, response: str) -> Reply | End:
        """Sleep and answer."""
        wait = next(self._waits, None)
        if wait is None:
            return End(reward=0.0)
        await asyncio.sleep(wait)
        return Reply(token_ids=self._says, calls=1)


class Slots:
    """Counts how many slots of an engine could be filled, and how many are.

    Args:
        num_slots: Requests that the engine works on at once.
        num_plays: Plays that begin together.
        clock: Returns seconds.
    """

    def __init__(
        self, num_slots: int, num_plays: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._num_slots, self._clock = num_slots, clock
        self._unfinished, self._requests = num_plays, 0
        self._at = clock()
        self._fillable = self._filled = 0.0

    @contextlib.contextmanager
    def request(self) -> Iterator[None]:
        """Be at the engine, at work or in its queue."""
        self._count(requests=1)
        try:
            yield
        finally:
            self._count(requests=-1)

    def finished(self) -> None:
        """Count a play less."""
        self._count(unfinished=-1)

    @property
    def idle_share(self) -> float:
        """Share of the slots' time in which only plays that wait for tools could have filled them.

        A slot could be filled while as many plays are unfinished; single turns leave none idle.
        """
        return 1 - self._filled / self._fillable if self._fillable else 0.0

    def _count(self, *, requests: int = 0, unfinished: int = 0) -> None:
        seconds = self._clock() - self._at
        self._at += seconds
        self._fillable += seconds * min(self._unfinished, self._num_slots)
        self._filled += seconds * min(self._requests, self._num_slots)
        self._requests += requests
        self._unfinished += unfinished


async def play_all(
    contestant: str, engine: Any, tokenizer: Any, plays: Sequence[Plan], num_slots: int
) -> dict[str, float]:
    """Play all at once.

    Args:
        contestant: One of `CONTESTANTS`.
        engine: With the method `generate` of `rollout.engines.vllm_engine.VLLMEngine`.
        tokenizer: The policy's.
        plays: What happens in each.
        num_slots: Requests that the engine works on at once.

    Returns:
        Sampled tokens, prefill_tokens, requests, seconds, tokens_per_second, idle_slots_share.
    """
    slots = Slots(num_slots, len(plays))

    async def play(number: int, plan: Plan) -> tuple[int, int, int]:
        sizes = iter(plan.tokens if contestant == "turns" else (sum(plan.tokens),))
        calls = 0

        async def generate(token_ids: TokenArray, max_tokens: int) -> Completion:
            nonlocal calls
            seed, calls = request_seed(0, number, 0, calls), calls + 1
            with slots.request():
                completion: Completion = await engine.generate(
                    token_ids, max_tokens=next(sizes), sampling=Sampling(1.0), seed=seed
                )
            # The length is the plan's, which is no limit that was hit.
            return replace(completion, finish_reason="stop")

        environment: Any = SingleTurn()
        if contestant == "turns":
            game = TurnEnvironment(SleepingTool(plan), max_turns=MOST_TURNS)
            environment = TurnPlayer(game, Bridge(tokenizer), NO_STOP)
        prompt = Prompt(number, plan.prompt, "", "bench", "")
        played = await environment.play(generate, prompt, max_tokens=2**20)
        slots.finished()
        return int(played.loss_mask.sum()), played.prefill_tokens, calls

    began = time.monotonic()
    done = await asyncio.gather(*(play(k, plan) for k, plan in enumerate(plays)))
    seconds = time.monotonic() - began
    tokens, prefilled, requests = map(sum, zip(*done, strict=True))
    return {
        "tokens": tokens,
        "prefill_tokens": prefilled,
        "requests": requests,
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "idle_slots_share": slots.idle_share,
    }


def bench_turns(config: RunConfig, *, repetitions: int, warm_ups: int) -> dict[str, Any]:
    """Measure both in turns on an engine in this process."""
    from rollout.engines.arguments import engine_arguments
    from rollout.engines.vllm_engine import VLLMEngine

    tokenizer = load_tokenizer(config.model.path, config.model.chat_template_kwargs)
    plays = {
        name: plans(NUM_PLAYS, len(tokenizer), turn_tokens, config.seed)
        for name, turn_tokens in TURN_TOKENS.items()
    }
    num_slots = min(config.rollout.engine.max_num_seqs, int(SLOTS_SHARE * NUM_PLAYS))
    arguments = engine_arguments(
        replace(config.rollout.engine, max_num_seqs=num_slots),
        model_path=config.model.path,
        dtype=config.model.dtype,
        float32_head=config.model.float32_head,
        max_model_len=config.model.max_model_len,
        tensor_parallel_size=config.resources.tensor_parallel_size,
        on_gpu=best_device().type == "cuda",
        seed=config.seed,
    )

    async def measure() -> dict[str, dict[str, list[dict[str, float]]]]:
        engine = VLLMEngine(
            arguments,
            num_threads=config.rollout.engine.num_threads,
            stopping=NO_STOP,
            deadline_seconds=config.rollout.ticket_deadline_seconds,
        )
        measured: dict[str, dict[str, list[dict[str, float]]]] = {
            size: {name: [] for name in CONTESTANTS} for size in plays
        }
        try:
            await engine.warm_up()
            for size, of_size in plays.items():
                for turn in turns(CONTESTANTS, repetitions=repetitions, warm_ups=warm_ups):
                    found = await play_all(turn.contestant, engine, tokenizer, of_size, num_slots)
                    if turn.measured:
                        measured[size][turn.contestant].append(found)
        finally:
            await engine.close()
        return measured

    return {
        size: summed_up(rows)
        | {
            "turn_tokens": list(TURN_TOKENS[size]),
            "mean_turns": statistics.mean(len(plan.tokens) for plan in plays[size]),
            "mean_wait_seconds": statistics.mean(sum(plan.waits) for plan in plays[size]),
        }
        for size, rows in asyncio.run(measure()).items()
    } | {
        "plays": NUM_PLAYS,
        "slots": num_slots,
        "prefix_caching": config.rollout.engine.prefix_caching,
    }


def summed_up(measured: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Return medians and the ratio of the contestants' speeds, with all repetitions."""
    speeds = {name: [row["tokens_per_second"] for row in rows] for name, rows in measured.items()}
    return {
        "median_tokens_per_second": {
            name: statistics.median(rows) for name, rows in speeds.items()
        },
        **ratio_of_medians(speeds["turns"], speeds["single"]),
        "idle_slots_share": statistics.median(row["idle_slots_share"] for row in measured["turns"]),
        "repetitions": measured,
    }
