"""Rewards that fail: refused before anything starts, told of and stopped for during a run.

before: first prompt, a response without an answer -> reward process -> a number, or a refusal
during: reports of a batch or an evaluation -> RewardWatch -> a warning, or the run's end
"""

import asyncio
import logging
import pickle
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np

from conf.evaluation import HELD_OUT
from conf.schema import EvaluateConfig, RunConfig
from cost.types import LengthReport, PlayEnd, RewardStatus
from launch.cli.refusals import UserError
from launch.record.evaluation import Evaluation
from rollout.config import RolloutConfig
from rollout.rewards.pool import RewardPool, ScoredResponse
from rollout.types import Prompt

RESPONSE = "I do not know."
"""What every policy may answer: no answer at all, which is worth a number like any other."""
ONCE = "what takes longer once belongs at the top of its file or in a method load()"
log = logging.getLogger(__name__)


def try_rewards(
    config: RunConfig | EvaluateConfig, first: Prompt, sets: Mapping[str, Sequence[Prompt]]
) -> None:
    """Score a made-up response to the first prompt of the task and of every set.

    Sets that the run's reward scores may lack a column of the task's rows that it takes.

    Args:
        config: The run or evaluation.
        first: A prompt that the run's reward will score.
        sets: The prompts by set, as engines will get them.

    Raises:
        UserError: If a reward fails, with its file, line and exception.
    """
    tried = [("reward", "", first)]
    for name, prompts in sets.items():
        place = name if name == HELD_OUT else f"evaluation.sets.{name}"
        if name != HELD_OUT and config.evaluation.sets[name].reward is not None:
            tried.append((f"{place}.reward", "", prompts[0]))
        elif prompts[0] is not first:
            tried.append(("reward", f" of {place}", prompts[0]))
    timeout = config.rollout.reward_timeout_seconds
    found = score_responses(config, [(prompt, RESPONSE) for *_, prompt in tried])
    for (key, place, prompt), one in zip(tried, found, strict=True):
        if one.status != RewardStatus.OK:
            late = one.status == RewardStatus.TIMED_OUT
            hint = f" ({ONCE})" if late else ""
            raise UserError(
                f"{key} must give every response a number, 0.0 where it finds no answer, within "
                f"rollout.reward_timeout_seconds = {timeout:g}{hint}; for the response "
                f"{RESPONSE!r} to the prompt {prompt.text[:80]!r}{place} got "
                f"{' '.join(one.summary.split())}"
            )


def score_responses(
    config: RunConfig | EvaluateConfig, responses: Sequence[tuple[Prompt, str]]
) -> list[ScoredResponse]:
    """Score texts as if they were responses, in a reward process as in a run.

    Args:
        config: The run or evaluation.
        responses: Prompts, and the text of a response to each.

    Raises:
        UserError: If the reward cannot be sent to a process, or does not load there.
        KeyboardInterrupt: If one came meanwhile; the process is ended.
    """
    reward = config.evaluation.engine_reward(config.reward)
    timeout = config.rollout.reward_timeout_seconds
    try:
        pickle.dumps(reward)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise UserError(
            f"reward must be picklable, to reach its processes ({error}), got {config.reward!r}"
        ) from error
    items = [(prompt.text, text, prompt.answer, prompt.columns) for prompt, text in responses]
    loop = asyncio.new_event_loop()

    async def score() -> list[ScoredResponse]:
        pool = RewardPool(reward, timeout_seconds=timeout)
        try:
            return await pool.score(items)
        finally:
            pool.close()

    def run() -> list[ScoredResponse]:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            return runner.run(score())

    # A thread of its own: comparisons come here from within their event loop.
    with ThreadPoolExecutor(1) as thread:
        scoring = thread.submit(run)
        try:
            return scoring.result()
        except KeyboardInterrupt:
            # Or the thread, which is waited for, would wait for the reward.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(_cancel_all, loop)
            raise
        except RuntimeError as error:
            lines = str(error).strip().splitlines()
            reason = lines[0] if len(lines) == 1 else f"{lines[0]} {lines[-1]}"
            raise UserError(f"reward must load in a process of its own, got: {reason}") from error


def _cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    for task in asyncio.all_tasks(loop):
        task.cancel()


class RewardWatch:
    """Tells of the first scoring that failed, and stops a run in which too many do.

    Args:
        config: Says which shares of a batch may fail.
    """

    def __init__(self, config: RolloutConfig) -> None:
        self._seconds = config.reward_timeout_seconds
        self._most = {
            RewardStatus.CRASHED: config.reward_max_crashed_share,
            RewardStatus.TIMED_OUT: config.reward_max_timed_out_share,
        }
        self._told: set[RewardStatus] = set()
        self.first = ""
        """What is known of the first scoring that failed; "" while none did."""

    def look(self, where: str, reports: Sequence[LengthReport], *, stop: bool = True) -> None:
        """Take in reports that belong together.

        Args:
            where: What they belong to, such as "step 3".
            reports: Those of all tickets of a batch, or of all prompts of a set.
            stop: Whether too many failures are an error; they are told in any case.

        Raises:
            UserError: If a larger share than allowed failed, with the first failure.
        """
        statuses = np.concatenate([np.zeros(0, np.int64), *(report.status for report in reports)])
        total = len(statuses)
        for status, most in self._most.items():
            count = int(np.sum(statuses == int(status)))
            if not count:
                continue
            texts = (r.reward_failure for r in reports if np.any(r.status == int(status)))
            first = next(filter(None, texts), "")
            self.first = self.first or first
            told = f"{_outcome(status)} for {count} of {total} responses of {where}"
            culprit = _culprit(status, reports)
            if stop and count / total > most:
                refusal = self._refusal(culprit, status, most, told)
                raise UserError(f"{refusal}; the first:\n{first}")
            if status not in self._told:
                self._told.add(status)
                log.warning("%s %s, which are left out; the first:\n%s", culprit, told, first)

    def look_at(self, found: Evaluation, *, stop: bool) -> None:
        """Take in an evaluation, set by set; see `look`."""
        for results in (found.sampled, found.greedy or {}):
            for name, result in results.items():
                self.look(f"the evaluation of {name}", result.reports, stop=stop)

    def _refusal(self, culprit: str, status: RewardStatus, most: float, told: str) -> str:
        if status == RewardStatus.CRASHED:
            return (
                f"{culprit} must not crash for a larger share than "
                f"rollout.reward_max_crashed_share = {most:g}: correct it, or raise the share; "
                f"it {told}"
            )
        return (
            "the reward must not be too slow for a larger share than "
            f"rollout.reward_max_timed_out_share = {most:g}: make it faster, raise "
            f"rollout.reward_timeout_seconds = {self._seconds:g}, or the share; it {told}"
        )


def _culprit(status: RewardStatus, reports: Sequence[LengthReport]) -> str:
    """What failed where responses have a status: a play that fails is not scored, and crashed."""
    ends = np.concatenate([r.ends[r.status == int(status)] for r in reports])
    num_plays = int(np.sum(ends == int(PlayEnd.FAILURE)))
    if not num_plays:
        return "the reward"
    return "the environment" if num_plays == len(ends) else "environment or reward"


def _outcome(status: RewardStatus) -> str:
    return "crashed" if status == RewardStatus.CRASHED else "ran out of time"
