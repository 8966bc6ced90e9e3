"""Learning from one batch: its members, and every pass over them.

buffer.take -> members -> (scheduler.select -> learners.update) each pass
                       -> (scheduler.reuse -> learners.update) if asked for -> Learned
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cost.types import Feedback, FloatArray, LengthReport, Selection
from launch.record.step import StepResult
from launch.run.budget import Spent
from launch.run.clocks import LearnerClock, Phases
from launch.run.compute import Flops, generated
from launch.run.deadlines import while_heard
from launch.run.drawing import DrawnBatch
from launch.run.parts import Learners, Metrics, Parts, Plan
from launch.run.reusing import Reusing
from launch.run.scoring import Scoring, ScoringCost
from rollout.buffer import OrderedBuffer
from rollout.types import GroupRef

STEPS = ("learner/optimizer_steps", "learner/skipped_steps", "learner/empty_steps")
"""What is counted over all passes; other metrics are of the last pass."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A batch whose groups are all there."""

    drawn: DrawnBatch
    groups: list[GroupRef]
    """The members, in draw order, exploring ones last."""
    reports: list[LengthReport]
    """Of all tickets drawn for the batch."""

    @property
    def num_plain(self) -> int:
        """Members that are not exploring, which come first."""
        return len(self.groups) - self.drawn.num_exploring

    @property
    def staleness(self) -> float:
        """Largest staleness at use: the learner's version minus a group's oldest one."""
        reports = [group.report for group in self.groups]
        # Without a token of the policy, as where every play failed at once, there is no version.
        stale = [self.drawn.batch - one.version for one in reports if one.own_lengths.any()]
        return float(max(stale, default=0))


class HandOver:
    """Hands batches over when they are whole, and holds the groups that are carried.

    Args:
        buffer: Where finished groups come from.
        deadline_seconds: Longest silence of all tickets while a batch is awaited.
    """

    def __init__(self, buffer: OrderedBuffer[GroupRef], deadline_seconds: float) -> None:
        self._buffer = buffer
        self._deadline_seconds = deadline_seconds
        self._held: dict[int, GroupRef] = {}

    def hold(self, groups: Mapping[int, GroupRef]) -> None:
        """Hold carried groups, by ticket id, of a run that goes on."""
        self._held |= groups

    @property
    def held(self) -> dict[int, GroupRef]:
        """The groups that are carried, by ticket id."""
        return dict(self._held)

    async def take(self, drawn: DrawnBatch, signs: Callable[[], object]) -> Taken:
        """Wait for all tickets of a batch; groups that were filtered are not held any longer.

        Args:
            drawn: The batch.
            signs: Returns something else whenever anything was heard of any ticket.

        Raises:
            TimeoutError: If nothing is heard of them for too long.
        """
        async with while_heard(drawn.batch, self._deadline_seconds, signs):
            fresh = await self._buffer.take(drawn.num_tickets)
        self._held |= {group.report.ticket_id: group for group in fresh}
        groups = [self._held[ticket_id] for ticket_id in drawn.members]
        self._held = {ticket_id: self._held[ticket_id] for ticket_id in drawn.carried}
        return Taken(drawn, groups, [group.report for group in fresh])


@dataclass(frozen=True, slots=True)
class Learned:
    """What all passes over a batch came to."""

    selections: list[Selection]
    """Of the last pass."""
    metrics: Metrics
    """From the learners."""
    trained_tokens: int
    """Of the kept responses, the prompt repeated with each, every pass counted."""
    learner_seconds: float
    """In all passes, of one learner."""
    learn_flops: float
    """Of the learners in all passes; 0 where nobody counts them."""
    gradient_norms: list[FloatArray] | None
    """[n] of every plain member, if this batch's were measured."""
    scored: ScoringCost
    """What that took, and what else the batch's responses were scored for."""

    def step(
        self, taken: Taken, published: Metrics, phases: Phases, generate_seconds: float
    ) -> StepResult:
        """Say what the step looked like, with what publishing and waiting came to."""
        loop = {
            "loop/wait_seconds": phases.wait,
            "loop/update_seconds": phases.update,
            "loop/publish_seconds": phases.publish,
            "loop/generate_seconds": generate_seconds,
            "loop/generated_tokens": float(sum(r.generated_tokens for r in taken.reports)),
            "loop/staleness": taken.staleness,
        }
        metrics = self.metrics | published | loop
        return StepResult(taken.drawn.batch + 1, taken.groups, self.selections, metrics)


class Steps:
    """Updates the policy by one batch, and adds up what that comes to.

    Args:
        learners: Who learns.
        batch: Its number.
        progress: Share of the run that is over before it, in [0, 1].
        metrics: What is known of it before.
        clock: Of the learners.
    """

    def __init__(
        self,
        learners: Learners,
        batch: int,
        progress: float,
        metrics: Metrics,
        clock: LearnerClock,
    ) -> None:
        self._learners, self._batch, self._progress = learners, batch, progress
        self.metrics, self._clock = metrics, clock
        self.seconds, self.trained_tokens, self.flops = 0.0, 0, 0.0

    async def take(
        self, groups: Sequence[GroupRef], selections: Sequence[Selection], epoch: int
    ) -> int:
        """Update the policy once; returns the tokens it is trained on, as the ledger counts."""
        tokens = _trained_tokens(groups, selections)
        update = self._learners.update(
            groups, selections, step=self._batch, epoch=epoch, progress=self._progress
        )
        found, seconds = await self._clock.of(update)
        self.seconds += seconds
        self.flops += found.get("learner/flops", 0.0)
        self.metrics = _with_pass(self.metrics, found)
        self.trained_tokens += tokens
        return tokens


class Passes:
    """Takes the passes over a batch.

    Args:
        plan: The loop's numbers.
        parts: What the loop drives.
        scoring: Scores responses.
    """

    def __init__(self, plan: Plan, parts: Parts, scoring: Scoring) -> None:
        self._plan = plan
        self._parts = parts
        self._scoring = scoring
        self._reusing = Reusing(plan.reuse, parts.scheduler)

    async def learn(self, taken: Taken, progress: float) -> Learned:
        """Select from a batch and update the policy, once a pass.

        Args:
            taken: The batch.
            progress: Share of the run that is over before it, in [0, 1].

        Raises:
            UserError: If the reward failed for more of the batch than it may.
        """
        if self._parts.watch is not None:
            self._parts.watch.look(f"step {taken.drawn.batch + 1}", taken.reports)
        await self._parts.sleep()
        batch, groups = taken.drawn.batch, taken.groups
        scheduler, learners = self._parts.scheduler, self._parts.learners
        attempts = [group.report.attempt for group in groups]
        # Penalties and calibrations compare the policy's own responses.
        plain = groups[: taken.num_plain]
        penalties, metrics = await self._penalties(batch, plain)
        steps = Steps(learners, batch, progress, metrics, self._scoring.clock)
        norms, reused_tokens = None, 0
        for epoch in range(self._plan.num_epochs):
            selections = await scheduler.select(batch, attempts, epoch, progress, penalties)
            if epoch == 0 and self._calibrates(batch):
                norms = await self._scoring.gradient_norms(batch, plain)
            given, chosen = groups, selections
            if epoch == 0:
                given, chosen = await self._reusing.join(batch, groups, selections)
            await steps.take(given, chosen, epoch)
            if epoch == 0:
                self._reusing.hold(batch, groups, selections, steps.metrics)
                joined = slice(len(groups), None)
                reused_tokens = _trained_tokens(given[joined], chosen[joined])
        if (again := await self._reusing.again(batch)) is not None:
            reused_tokens = await steps.take(plain, again, self._plan.num_epochs)
            self._reusing.stepped(steps.metrics)
        if self._plan.reuse is not None:
            steps.metrics["learner/reused_tokens"] = float(reused_tokens)
        return Learned(
            selections,
            steps.metrics,
            steps.trained_tokens,
            steps.seconds,
            steps.flops,
            norms,
            self._scoring.batches.take(batch),
        )

    def spent(self, taken: Taken, learned: Learned, published: Metrics, seconds: float) -> Spent:
        """Say what a batch took of the run's budget, of the seconds of its phases."""
        return Spent.on(
            taken.reports,
            taken.drawn.pilots,
            trained_tokens=learned.trained_tokens,
            flops=self._flops(taken, learned, published),
            seconds=seconds,
        )

    def _flops(self, taken: Taken, learned: Learned, published: Metrics) -> Flops:
        """Say what was computed for a batch; nothing where nobody counts it."""
        compute = self._plan.compute
        if compute is None:
            return Flops()
        learning = Flops(
            learn=learned.learn_flops,
            score=learned.scored.flops,
            probe=published.get("parity/flops", 0.0),
        )
        return generated(compute, taken.reports, taken.drawn.pilots) + learning

    def feedback(self, learned: Learned, generation_seconds: float) -> Feedback:
        """Say what a batch took of all machines, and what learning from it showed."""
        return Feedback(
            engine_seconds=generation_seconds
            * self._plan.num_engine_accelerators
            * self._parts.engine_share(),
            learner_seconds=learned.learner_seconds * self._plan.num_learners,
            score_seconds=learned.scored.seconds * self._plan.num_learners,
            entropy=learned.metrics.get("learner/entropy", math.nan),
            gradient_norms=learned.gradient_norms,
        )

    def _calibrates(self, batch: int) -> bool:
        every = self._plan.calibrate_every
        return bool(every) and batch % every == 0

    async def _penalties(
        self, batch: int, groups: Sequence[GroupRef]
    ) -> tuple[list[FloatArray] | None, Metrics]:
        """What a batch's responses lose of their rewards, once for all passes over it."""
        coefficient = self._plan.reward_kl_coefficient
        if not coefficient:
            return None, {}
        found = await self._scoring.reference_kl(batch, groups)
        mean = float(np.mean(np.concatenate(found))) if any(map(len, found)) else math.nan
        return [coefficient * kl for kl in found], {"learner/kl_reference_response": mean}


def _with_pass(before: Metrics, found: Metrics) -> Metrics:
    """Return a batch's metrics with those of one more pass, whose steps are added up."""
    steps = {key: before.get(key, 0.0) + found[key] for key in STEPS if key in found}
    # A pass that had nothing to learn from must not blot out one that had, or half of it.
    empty = found.get("learner/rows") == 0
    return (found | before if empty else before | found) | steps


def _trained_tokens(groups: Sequence[GroupRef], selections: Sequence[Selection]) -> int:
    """Tokens of the kept responses, the prompt repeated with each, as the ledger counts them."""
    return sum(
        int((group.report.lengths + group.report.prompt_tokens)[selection.keep].sum())
        for group, selection in zip(groups, selections, strict=True)
    )
