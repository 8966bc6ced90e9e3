"""The Ray actor that turns tickets into scored groups with one vLLM engine.

    ticket, prompt -> environment x n (engine) -> reward processes -> shaping -> Group
                                                                              -> LengthReport
                                                                                 -> scheduler

The report reaches the scheduler before the group reaches the driver, so that when the driver holds
a whole batch the scheduler can fold all of it. Ray, the engine and the tokenizer are imported on
start.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from cost.types import LengthReport, RewardStatus, Ticket
from rollout.chat_template import set_variables
from rollout.clocks import between_calls
from rollout.config import RolloutConfig
from rollout.cores import OwnCores
from rollout.engines.arguments import on_cpu
from rollout.environments import checked_play, for_policy
from rollout.environments.branching import play_branching
from rollout.environments.guarded import play_guarded
from rollout.environments.turns import TurnPlayer
from rollout.heartbeat import EngineProcesses
from rollout.loading import loading, without_unused
from rollout.progress import Attempts, Key
from rollout.reporting import make_report
from rollout.rewards.failures import failure_text
from rollout.rewards.pool import RewardPool, ScoredResponse
from rollout.rewards.types import Score
from rollout.shaping import shape_rewards
from rollout.stopping import stopping_of
from rollout.types import (
    Completion,
    Group,
    LogprobArray,
    Prompt,
    Sampling,
    TokenArray,
    Trajectory,
)

LEAVE_SECONDS = 60.0
"""Longest wait for an engine to leave a transfer group. Over NCCL an engine that waits for weights
from a process that is gone would wait forever."""


def permute_rewards(group: Group, seed: int) -> Group:
    """Shuffle rewards, each with its status, among the responses of one group.

    A control (`rollout.permute_rewards`): a policy that still improves does not learn from rewards.
    """
    stream = np.random.default_rng([seed, group.ticket.ticket_id, len(group.rewards)])
    order = stream.permutation(len(group.rewards))
    return replace(group, rewards=group.rewards[order], reward_status=group.reward_status[order])


def scored_by_environment(trajectory: Trajectory) -> ScoredResponse:
    """Return the environment's own reward as a score, or that it failed."""
    if trajectory.failure:
        return ScoredResponse(None, RewardStatus.CRASHED, trajectory.failure)
    assert trajectory.reward is not None
    return ScoredResponse(Score(trajectory.reward), RewardStatus.OK, "")


def request_seed(run_seed: int, ticket_id: int, position: int, turn: int) -> int:
    """Return the seed of one call of the engine, in [0, 2^32).

    It depends on nothing else: a retried attempt repeats what was lost.

    Args:
        run_seed: Of the run.
        ticket_id: Whose response it is.
        position: Of the response in its group, in [0, n).
        turn: Calls of the engine before it in the same play.
    """
    # A spawn key keeps turns apart whatever the number of words of an id; the first turn has none.
    key = (turn,) if turn else ()
    stream = np.random.SeedSequence([run_seed, ticket_id, position], spawn_key=key)
    return int(stream.generate_state(1, np.uint32)[0])


class RolloutActor:
    """One engine, its environment and its reward processes; wrap it with `ray.remote`.

    Args:
        config: Rollout settings.
        engine_arguments: From `rollout.engines.arguments.engine_arguments`.
        environment: Plug that plays one trajectory.
        reward: Plug that scores one response.
        scheduler: Handle of the SchedulerActor, or None when only evaluating.
        seed: Run seed; requests derive theirs from it: see `request_seed`.
        chat_template_kwargs: Variables of the chat template by name; None for none.
        stop_strings: Texts that end a response, besides those of the model.
    """

    def __init__(
        self,
        config: RolloutConfig,
        engine_arguments: dict[str, Any],
        environment: Any,
        reward: Any,
        scheduler: Any,
        seed: int,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        stop_strings: Sequence[str] = (),
    ) -> None:
        self._config = config
        self._engine_arguments = engine_arguments
        self._environment = environment
        self._reward = reward
        self._scheduler = scheduler
        self._seed = seed
        self._chat_template_kwargs = chat_template_kwargs or {}
        self._stop_strings = stop_strings
        self._attempts = Attempts()
        self._processes = EngineProcesses()
        self._cores = OwnCores(config.engine.num_threads)
        self._useless = ""

    async def node(self) -> str:
        """Return the id of the node that it is on; it answers as soon as it has room."""
        import ray

        return str(ray.get_runtime_context().get_node_id())

    async def start(self) -> dict[str, float]:
        """Start engine, tokenizer and reward processes, and warm them up.

        Returns:
            Seconds by part: `engine`, `warm_up`, `total`.
        """
        began = time.monotonic()
        self._rewards = RewardPool(
            self._reward,
            num_processes=self._config.reward_processes,
            timeout_seconds=self._config.reward_timeout_seconds,
            concurrency=self._config.reward_concurrency,
            max_late_in_a_row=self._config.reward_max_late_in_a_row,
            max_dead_in_a_row=self._config.reward_max_dead_in_a_row,
        )
        # Building blocks for tens of seconds; in a thread, calls to this actor stay answerable.
        await asyncio.gather(asyncio.to_thread(self._build), self._rewards.start())
        built = time.monotonic()
        await self._engine.warm_up()
        self._processes.complete()
        if on_cpu(self._engine_arguments):
            # Not sooner: threads beside the main one would begin there, too.
            for pid in self._processes.pids[:1]:
                self._cores.keep(pid)
        done = time.monotonic()
        return {"engine": built - began, "warm_up": done - built, "total": done - began}

    def _build(self) -> None:
        from rollout.engines.importing import begin_importing
        from rollout.engines.vllm_engine import VLLMEngine

        num_threads = self._config.engine.num_threads
        begin_importing(self._engine_arguments, num_threads)
        with loading(), without_unused():
            from transformers import AutoTokenizer

        path = self._engine_arguments["model"]
        self._tokenizer = AutoTokenizer.from_pretrained(
            path, local_files_only=True, trust_remote_code=False
        )
        set_variables(self._tokenizer, self._chat_template_kwargs)
        self._stopping = stopping_of(path, self._tokenizer, self._stop_strings)
        self._environment = for_policy(self._environment, self._tokenizer, self._stopping)
        self._engine = VLLMEngine(
            self._engine_arguments,
            num_threads=num_threads,
            stopping=self._stopping,
            deadline_seconds=self._config.ticket_deadline_seconds,
        )

    def attach(self, config: RolloutConfig, scheduler: Any, seed: int) -> None:
        """Begin with the tickets of another run: report to its scheduler, and use its seed.

        Args:
            config: Of that run; it may differ in `branching` and `overlong`.
            scheduler: As in the constructor.
            seed: As in the constructor.
        """
        self._config, self._scheduler, self._seed = config, scheduler, seed

    async def run(self, ticket: Ticket, prompt: Prompt) -> tuple[LengthReport, Group]:
        """Make the group of one ticket and report it to the scheduler that asked for it."""
        # `attach` may come meanwhile, and tickets of the other run have the same numbers.
        config, scheduler, seed = self._config, self._scheduler, self._seed
        sampling = Sampling(config.temperature * ticket.temperature_factor)
        group = await self._sample(ticket, prompt, sampling, config.branching)
        group = shape_rewards(group, config.overlong)
        if config.permute_rewards:
            group = permute_rewards(group, seed)
        report = make_report(ticket, prompt, group)
        await scheduler.observe.remote(report)
        return report, group

    async def evaluate(self, ticket: Ticket, prompt: Prompt, sampling: Sampling) -> LengthReport:
        """Make and score a group that nobody learns from, and return its report."""
        report, _ = await self.evaluate_group(ticket, prompt, sampling)
        return report

    async def evaluate_group(
        self, ticket: Ticket, prompt: Prompt, sampling: Sampling
    ) -> tuple[LengthReport, Group]:
        """Make and score a group that nobody learns from.

        Rewards are not shaped: an evaluation measures what the reward plug says.
        """
        group = await self._sample(ticket, prompt, sampling)
        return make_report(ticket, prompt, group), group

    async def progress(self, known: int, patience_seconds: float) -> tuple[int, dict[Key, int]]:
        """Return which attempts this actor has, and how many responses of each are generated.

        See `rollout.progress.Attempts.changed`, which waits for news.
        """
        return await self._attempts.changed(known, patience_seconds)

    async def generate_probe(
        self, token_ids: list[TokenArray], max_tokens: int, seed: int
    ) -> list[tuple[TokenArray, TokenArray, Any]]:
        """Sample one short response per prompt for the parity guard, anew for every seed.

        Returns:
            (prompt token ids, response token ids, rollout log-probabilities) per prompt.
        """
        completions = await asyncio.gather(
            *(
                self._engine.generate(
                    ids,
                    max_tokens=max_tokens,
                    sampling=Sampling(self._config.temperature),
                    seed=seed * len(token_ids) + i,
                )
                for i, ids in enumerate(token_ids)
            )
        )
        return [
            (ids, c.token_ids, c.rollout_logprobs)
            for ids, c in zip(token_ids, completions, strict=True)
        ]

    async def score(
        self, pairs: Sequence[tuple[TokenArray, TokenArray]]
    ) -> list[tuple[LogprobArray, int]]:
        """Score responses to prompts for the parity guard; see `VLLMEngine.score`."""
        return await asyncio.gather(
            *(
                self._engine.score(np.concatenate([prompt, response]), len(response))
                for prompt, response in pairs
            )
        )

    async def _sample(
        self, ticket: Ticket, prompt: Prompt, sampling: Sampling, branching: Any = None
    ) -> Group:
        began = time.monotonic()
        with self._attempts.attempt((ticket.ticket_id, ticket.attempt)) as done:
            if branching is not None and isinstance(self._environment, TurnPlayer):
                trajectories = await self._branch(branching, ticket, prompt, sampling, done)
            else:
                trajectories = await self._play_all(ticket, prompt, sampling, done)
            return await self._scored(ticket, prompt, trajectories, began)

    async def _play_all(
        self, ticket: Ticket, prompt: Prompt, sampling: Sampling, done: Callable[[], None]
    ) -> list[Trajectory]:
        plays = [
            asyncio.ensure_future(self._play(ticket, prompt, sampling, j))
            for j in range(ticket.num_samples)
        ]
        for play in plays:
            play.add_done_callback(lambda _: done())
        try:
            return [checked_play(played) for played in await asyncio.gather(*plays)]
        finally:
            # Where one failed, nobody wants the others.
            for play in plays:
                play.cancel()

    async def _branch(
        self,
        rule: Any,
        ticket: Ticket,
        prompt: Prompt,
        sampling: Sampling,
        done: Callable[[], None],
    ) -> list[Trajectory]:
        async def play(position: int, start: Any, nodes: list[Any]) -> Trajectory:
            try:
                return checked_play(
                    await self._play(ticket, prompt, sampling, position, start, nodes)
                )
            finally:
                done()

        return await play_branching(rule, play, ticket.num_samples)

    async def _scored(
        self, ticket: Ticket, prompt: Prompt, trajectories: Sequence[Trajectory], began: float
    ) -> Group:
        generated = time.monotonic()
        texts = [self._stopping.text(self._tokenizer, t.last_turn.tolist()) for t in trajectories]
        open_ = [j for j, t in enumerate(trajectories) if t.reward is None and not t.failure]
        items = [(prompt.text, texts[j], prompt.answer, prompt.columns) for j in open_]
        by_plug = dict(zip(open_, await self._rewards.score(items) if items else (), strict=True))
        scored = [by_plug.get(j) or scored_by_environment(t) for j, t in enumerate(trajectories)]
        names = sorted({name for s in scored if s.score for name in s.score.components})
        return Group(
            ticket=ticket,
            prompt=prompt,
            trajectories=tuple(trajectories),
            rewards=np.asarray([s.score.reward if s.score else np.nan for s in scored]),
            reward_components={
                name: np.asarray(
                    [s.score.components.get(name, np.nan) if s.score else np.nan for s in scored]
                )
                for name in names
            },
            reward_status=np.asarray([int(s.status) for s in scored], dtype=np.int64),
            answers=tuple(s.score.extracted if s.score else "" for s in scored),
            seconds=generated - began,
            reward_failure=failure_text(scored, texts, prompt.text, prompt.answer),
        )

    async def _play(
        self,
        ticket: Ticket,
        prompt: Prompt,
        sampling: Sampling,
        position: int,
        start: Any = None,
        nodes: list[Any] | None = None,
    ) -> Trajectory:
        turns = itertools.count()

        async def generate(token_ids: TokenArray, max_tokens: int) -> Completion:
            seed = None
            if self._config.seeded:
                seed = request_seed(self._seed, ticket.ticket_id, position, next(turns))
            with at_engine():
                return await self._engine.generate(
                    token_ids, max_tokens=max_tokens, sampling=sampling, seed=seed
                )

        async with between_calls(self._config.environment_timeout_seconds) as at_engine:
            given = (generate, prompt, ticket.max_tokens)
            if nodes is None:
                played = await play_guarded(self._environment, *given)
            else:
                played = await self._environment.play_on(*given, start, nodes)
        return played

    async def leave_weight_transfer(self) -> None:
        """Let the engine's workers leave the transfer group that they are in, if any.

        Raises:
            RuntimeError: If they cannot; this actor is of no use then.
        """
        try:
            async with asyncio.timeout(LEAVE_SECONDS):
                await self._engine.leave_weight_transfer()
        except Exception as error:
            reason = str(error) or f"after {LEAVE_SECONDS:g} s it still waits for some"
            self._useless = f"is of no use: its engine cannot take other weights: {reason}"
            raise RuntimeError(self._useless) from error

    async def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Let the engine's workers, which are in none, join a transfer group."""
        await self._engine.init_weight_transfer(init_info)

    async def start_weight_update(self) -> None:
        """Pause generation as `rollout.update_mode` asks and open an update."""
        await self._engine.start_weight_update(self._config.update_mode)

    async def update_weights(self, update_info: Any) -> None:
        """Receive and load new weights."""
        await self._engine.update_weights(update_info)

    async def finish_weight_update(self, version: int) -> None:
        """Label tokens from now on with `version` and resume generation."""
        await self._engine.finish_weight_update(version, self._config.update_mode)

    async def load_adapter(self, version: int, files: Mapping[str, bytes]) -> None:
        """Take the policy's adapters, as peft's files by name, in place of those before."""
        await self._engine.load_adapter(version, files, self._config.update_mode)

    async def sleep(self) -> None:
        """Let the engine give its memory back until it is sent weights."""
        await self._engine.sleep()

    async def check(self) -> None:
        """Raise if the engine is dead."""
        await self._engine.check()
        if gone := self.fault(math.inf):
            raise RuntimeError(gone)

    def fault(self, silence_seconds: float) -> str:
        """Return why this actor is of no use, "" if it is; see `EngineProcesses.fault`."""
        # Heartbeats ask for this all the time, also while the engine works.
        self._cores.look()
        return self._useless or self._processes.fault(silence_seconds, time.monotonic())

    async def close(self) -> None:
        """End the engine and the reward processes."""
        await self._engine.close()
        self._rewards.close()
