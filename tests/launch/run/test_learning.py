"""A batch is handed over when it is whole, and nothing is held that nobody learns from."""

import asyncio
import math
from types import SimpleNamespace

import numpy as np
import pytest

from launch.run.clocks import LearnerClock, Phases
from launch.run.drawing import DrawnBatch
from launch.run.learning import HandOver, Learned, Steps
from launch.run.scoring import ScoringCost
from rollout.buffer import OrderedBuffer
from rollout.types import GroupRef


def group(ticket_id, version=0, lengths=(3, 4)):
    """A group of responses with so many tokens of the policy each."""
    own_lengths = np.array(lengths, dtype=np.int64)
    about = SimpleNamespace(ticket_id=ticket_id, version=version, own_lengths=own_lengths)
    return GroupRef(about, "there")


def drawn(batch, num_tickets, members, carried=(), num_exploring=0):
    return DrawnBatch(batch, num_tickets, frozenset(), members, num_exploring, carried)


def taken(steps, groups, deadline_seconds=1.0):
    async def scenario():
        buffer = OrderedBuffer(5)
        hand_over = HandOver(buffer, deadline_seconds)
        for one in groups:
            buffer.put(one.report.ticket_id, one)
        return [await hand_over.take(step, lambda: 0) for step in steps], hand_over

    return asyncio.run(scenario())


def test_carried_groups_come_with_the_batch_that_learns_them():
    steps = [drawn(0, 4, (0, 2), carried=(3,)), drawn(1, 2, (3, 5))]
    found, hand_over = taken(steps, [group(key) for key in (5, 4, 3, 2, 1, 0)])
    assert [[g.report.ticket_id for g in one.groups] for one in found] == [[0, 2], [3, 5]]
    assert [[r.ticket_id for r in one.reports] for one in found] == [[0, 1, 2, 3], [4, 5]]
    assert hand_over._held == {}


def test_staleness_is_that_of_the_oldest_group_with_a_token():
    """A ticket that failed has no response, and plays that failed at once have none with tokens."""
    step = drawn(3, 4, (0, 1, 2, 3), num_exploring=1)
    groups = [group(0, lengths=()), group(1, lengths=(0, 0)), group(2, 2), group(3, 3)]
    [found], _ = taken([step], groups)
    assert found.staleness == 1.0 and found.num_plain == 3
    [empty], _ = taken([drawn(3, 0, ())], [])
    assert empty.staleness == 0.0 and empty.groups == []


def test_a_batch_that_is_not_whole_misses_its_deadline():
    with pytest.raises(TimeoutError):
        taken([drawn(0, 2, (0, 1))], [group(0)], deadline_seconds=0.01)


def test_generated_tokens_of_a_step_are_of_all_tickets_drawn_for_it():
    def generated(ticket_id, tokens):
        found = group(ticket_id)
        found.report.generated_tokens = tokens
        return found

    # Of three tickets the first is a pilot and the second was filtered.
    [found], _ = taken([drawn(0, 3, (2,))], [generated(key, 10**key) for key in range(3)])
    step = Learned([], {}, 0, 0.0, 0.0, None, ScoringCost()).step(found, {}, Phases(0, 0, 0), 0.5)
    assert step.metrics["loop/generated_tokens"] == 111 and len(step.groups) == 1


class Learners:
    """Answers each pass with the next of some metrics."""

    def __init__(self, *answers):
        self._answers = list(answers)

    async def update(self, groups, selections, **_):
        return self._answers.pop(0)


def pass_of(loss, rows, optimizer_steps, skipped_steps, empty_steps, **others):
    named = {"loss": loss, "rows": rows, "optimizer_steps": optimizer_steps, **others}
    named |= {"skipped_steps": skipped_steps, "empty_steps": empty_steps}
    return {f"learner/{key}": float(value) for key, value in named.items()}


def after(*answers):
    async def scenario():
        known = {"learner/kl_reference_response": 0.1}
        steps = Steps(Learners(*answers), 3, 0.5, known, LearnerClock())
        for epoch in range(len(answers)):
            await steps.take([], [], epoch)
        return steps

    return asyncio.run(scenario())


def test_optimiser_steps_add_up_over_passes_and_the_rest_is_of_the_last():
    found = after(pass_of(0.5, 4, 1, 2, 1, flops=8), pass_of(0.25, 5, 3, 1, 0, flops=10))
    expected = pass_of(0.25, 5, 4, 3, 1, flops=10, kl_reference_response=0.1)
    assert found.metrics == expected and found.flops == 18


def test_a_pass_without_anything_to_learn_from_leaves_the_metrics_of_the_one_before():
    full = pass_of(0.5, 4, 2, 0, 0, flops=8, entropy=1.5)
    empty = pass_of(math.nan, 0, 0, 0, 2, flops=0)
    found = after(full, empty)
    assert found.metrics == full | {
        "learner/empty_steps": 2.0,
        "learner/kl_reference_response": 0.1,
    }
    assert found.flops == 8
    assert after(empty, full).metrics == found.metrics
    assert math.isnan(after(empty).metrics["learner/loss"])
