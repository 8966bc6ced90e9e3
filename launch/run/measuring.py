"""One evaluation: the engines answer every prompt of every held-out set, and rewards score them.

sets -> measure -> `launch.record.evaluation.Evaluation`

When a training run makes one, and who is told of it, is `launch.run.evaluations`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from conf.evaluation import EvaluationConfig
from conf.schema import EvaluateConfig
from cost.types import LengthReport, Ticket
from launch.record.counter import Counter
from launch.record.evaluation import Evaluation, SetResult
from launch.record.responses import Responses
from launch.record.run_folder import RESPONSES
from launch.record.startup import Startup
from launch.record.startup_times import StartupTimes
from launch.run.engines import ask, make_pool
from launch.run.inputs import Sets
from launch.run.model_folder import load_tokenizer
from launch.run.node_checks import NodeChecks
from launch.run.placement import reserve
from launch.run.remote import Watch
from rollout.pool import RolloutPool
from rollout.stopping import stopping_of
from rollout.types import Prompt, Sampling

GREEDY = Sampling(temperature=0.0)


async def evaluate(config: EvaluateConfig, sets: Sets) -> Evaluation:
    """Start engines on a connected cluster, measure the policy, and end them.

    Raises:
        PlacementError: If the cluster has too little.
    """
    async with AsyncExitStack() as started:
        placement = await reserve(config.resources, learners=False)
        started.callback(placement.release)
        checks = NodeChecks(config)
        await checks.check(placement.nodes())
        pool = make_pool(
            config=config.rollout,
            run=config,
            placement=placement,
            scheduler=None,
            receives_weights=False,
            look_at=checks.look_at,
        )
        started.push_async_callback(pool.close)
        watch = Watch(config)
        watch.rollouts(pool)
        watch.health.start()
        started.callback(watch.health.close)
        return await watch.health.guard(_start_and_measure(config, sets, pool))


async def _start_and_measure(config: EvaluateConfig, sets: Sets, pool: RolloutPool) -> Evaluation:
    startup = Startup(last=StartupTimes(config.model.path))
    with startup.part("engines", config.resources.num_engines) as ready:
        await pool.start(ready)
    pool.actors.join()

    def responses(_: int) -> Responses:
        model = config.model
        tokenizer = load_tokenizer(model.path, model.chat_template_kwargs)
        stopping = stopping_of(model.path, tokenizer, model.stop_strings)
        return Responses(Path(config.run_dir) / RESPONSES, tokenizer, stopping)

    return await measure(
        pool,
        sets,
        config.evaluation,
        max_tokens=config.rollout.max_tokens,
        greedy=config.evaluation.greedy,
        version=lambda: 0,
        responses=responses if config.evaluation.write_responses else None,
    )


async def measure(
    rollouts: RolloutPool,
    sets: Sets,
    settings: EvaluationConfig,
    *,
    max_tokens: int,
    greedy: bool,
    version: Callable[[], int],
    label: str = "",
    quiet: bool = False,
    responses: Callable[[int], Responses] | None = None,
) -> Evaluation:
    """Sample responses to every prompt of every set, and show how many are there.

    Args:
        rollouts: Started engines.
        sets: The prompts, by name of the set.
        settings: Says how many responses a prompt gets, how they are drawn, and each k.
        max_tokens: Tokens of the longest response.
        greedy: Whether to take a greedy response per prompt too.
        version: Returns the version that the engines hold when it is called.
        label: Of what it is, where that is not clear.
        quiet: Whether to show nothing.
        responses: Makes the file of responses for a version; None for none.
    """
    began, first = time.monotonic(), version()
    sampling = Sampling(settings.temperature, settings.top_p, settings.top_k)
    pass_at = sorted({1, *settings.pass_at, settings.num_samples})
    num_prompts = sum(map(len, sets.values()))
    total = num_prompts * (settings.num_samples + greedy)
    name = f"{label}: evaluation" if label else "evaluation"
    with Counter(name, total, "responses", quiet=quiet) as counter, ExitStack() as opened:
        file = responses(first) if responses is not None else None
        if file is not None:
            opened.callback(file.close)
        counted = _Counted(rollouts, counter, _places(sets), file)
        sampled = await _ask_all(counted, sets, settings.num_samples, sampling, max_tokens, pass_at)
        best = await _ask_all(counted, sets, 1, GREEDY, max_tokens, [1]) if greedy else None
    return Evaluation(
        first, version(), settings.num_samples, time.monotonic() - began, sampled, best
    )


def _places(sets: Sets) -> list[dict[str, object]]:
    """Return the set and the place in it of every prompt, in the order in which all are asked."""
    return [
        {"set": name, "index": index}
        for name, prompts in sets.items()
        for index in range(len(prompts))
    ]


@dataclass(slots=True)
class _Counted:
    """Engines; a counter and a file are told of every response that is finished."""

    rollouts: RolloutPool
    counter: Counter
    places: Sequence[Mapping[str, object]]
    """Where each prompt is from, by its index."""
    file: Responses | None
    done: int = 0

    async def evaluate(self, ticket: Ticket, prompt: Prompt, sampling: Sampling) -> LengthReport:
        if self.file is None:
            report = await self.rollouts.evaluate(ticket, prompt, sampling)
        else:
            found = await self.rollouts.evaluate_group(ticket, prompt, sampling)
            report = found.report
            place = {**self.places[prompt.index], "greedy": sampling == GREEDY}
            await self.file.add(place, found.data)
        self.done += ticket.num_samples
        self.counter.to(self.done)
        return report


async def _ask_all(
    rollouts: _Counted,
    sets: Sets,
    num_samples: int,
    sampling: Sampling,
    max_tokens: int,
    pass_at: Sequence[int],
) -> dict[str, SetResult]:
    # All sets at once, so that engines run empty once and not at the end of each set.
    every = [prompt for prompts in sets.values() for prompt in prompts]
    reports = iter(
        await ask(
            rollouts,
            [replace(prompt, index=index) for index, prompt in enumerate(every)],
            num_samples=num_samples,
            sampling=sampling,
            max_tokens=max_tokens,
        )
    )
    return {
        name: SetResult.of(prompts, [next(reports) for _ in prompts], pass_at)
        for name, prompts in sets.items()
    }
