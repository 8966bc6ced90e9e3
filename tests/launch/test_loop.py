"""The real loop with hand-written fakes: order, staleness, errors."""

import asyncio

import numpy as np
import pytest

from cost.types import LengthReport, Selection, Ticket
from launch.loop import Plan, StepResult, train
from rollout.types import GroupRef, Prompt

P = 4


def make_prompt(index):
    return Prompt(index, np.zeros(3, np.int32), "1", "fake", "q")


class FakeScheduler:
    def __init__(self, events):
        self.events = events
        self.next_ticket = 0
        self.folded_until = []

    async def draw(self, num_tickets, folded_until):
        self.events.append(("draw", self.next_ticket // P))
        self.folded_until.append(folded_until)
        tickets = [Ticket(self.next_ticket + i, i, 2, 0.25, 1.0, 8) for i in range(num_tickets)]
        self.next_ticket += num_tickets
        return tickets

    async def select(self, reports, epoch):
        self.events.append(("select", [r.ticket_id for r in reports], epoch))
        one = np.ones(2)
        return [Selection(r.ticket_id, one > 0, one, one, one) for r in reports]


class FakeRollouts:
    """Finishes a batch's tickets in reverse order, at the version in force when they started."""

    def __init__(self, events, clock, failing_ticket=None):
        self.events, self.clock, self.failing_ticket = events, clock, failing_ticket

    async def run(self, ticket, prompt):
        assert prompt.index == ticket.prompt_index
        version = self.clock["version"]
        await asyncio.sleep(0.002 * (P - ticket.ticket_id % P))
        if ticket.ticket_id == self.failing_ticket:
            raise RuntimeError("engine on fire")
        self.events.append(("done", ticket.ticket_id))
        lengths = np.array([3, 4])
        report = LengthReport(
            ticket.ticket_id,
            ticket.prompt_index,
            3,
            6,
            lengths,
            lengths < 0,
            np.ones(2),
            np.zeros(2, np.int64),
            np.ones(2),
            0.1,
            version,
        )
        return GroupRef(report, 13, data="reference")


class FakeLearners:
    def __init__(self, events, failing_step=None):
        self.events, self.failing_step = events, failing_step

    async def update(self, groups, selections, *, step, epoch):
        if step == self.failing_step:
            raise RuntimeError("learner on fire")
        assert [g.report.ticket_id for g in groups] == [s.ticket_id for s in selections]
        self.events.append(("update", step, epoch))
        await asyncio.sleep(0.01)
        return {"learner/loss": 0.0}


def run(
    num_steps=4,
    num_epochs=1,
    max_staleness=0,
    failing_ticket=None,
    failing_step=None,
    batch_deadline_seconds=5.0,
):
    events, clock, steps = [], {"version": 0}, []
    scheduler = FakeScheduler(events)

    async def publish(version):
        events.append(("publish", version))
        clock["version"] = version
        return {}

    async def on_step(result: StepResult):
        steps.append(result)

    plan = Plan(
        num_steps=num_steps,
        tickets_per_step=P,
        num_epochs=num_epochs,
        max_staleness=max_staleness,
        batch_deadline_seconds=batch_deadline_seconds,
    )
    asyncio.run(
        train(
            plan,
            prompts=[make_prompt(i) for i in range(P)],
            scheduler=scheduler,
            rollouts=FakeRollouts(events, clock, failing_ticket),
            learners=FakeLearners(events, failing_step),
            publish=publish,
            on_step=on_step,
        )
    )
    return events, scheduler, steps


@pytest.mark.parametrize("max_staleness", [0, 1, 3])
def test_batches_are_selected_in_draw_order_whatever_finishes_first(max_staleness):
    events, _, steps = run(max_staleness=max_staleness)
    done = [e[1] for e in events if e[0] == "done"]
    assert done != sorted(done)
    selected = [ticket for e in events if e[0] == "select" for ticket in e[1]]
    assert selected == list(range(4 * P))
    assert [s.step for s in steps] == [1, 2, 3, 4]
    assert [e[1] for e in events if e[0] == "publish"] == [1, 2, 3, 4]


def test_without_staleness_generation_and_learning_take_turns():
    events, scheduler, steps = run(max_staleness=0)
    order = [e[:2] for e in events if e[0] in ("draw", "update", "publish")]
    expected = [e for b in range(4) for e in (("draw", b), ("update", b), ("publish", b + 1))]
    assert order == expected
    assert scheduler.folded_until == [0, P, 2 * P, 3 * P]
    assert all(s.metrics["loop/staleness"] == 0 for s in steps)


@pytest.mark.parametrize("max_staleness", [1, 2])
def test_staleness_reaches_but_never_passes_its_bound(max_staleness):
    events, scheduler, steps = run(num_steps=6, max_staleness=max_staleness)
    staleness = [s.metrics["loop/staleness"] for s in steps]
    assert max(staleness) == max_staleness
    drawn_before_publish = [e for e in events if e[0] in ("draw", "publish")]
    published = 0
    for kind, number in drawn_before_publish:
        if kind == "publish":
            published = number
        else:
            assert number - published <= max_staleness
    assert scheduler.folded_until == [P * max(0, b - max_staleness) for b in range(6)]


def test_every_epoch_selects_anew():
    events, _, _ = run(num_steps=1, num_epochs=3)
    assert [e[2] for e in events if e[0] == "select"] == [0, 1, 2]
    assert [e[1:] for e in events if e[0] == "update"] == [(0, 0), (0, 1), (0, 2)]


@pytest.mark.parametrize("failure", [{"failing_ticket": 5}, {"failing_step": 1}])
def test_an_error_in_either_coroutine_ends_both_with_that_error(failure):
    with pytest.raises(RuntimeError, match="on fire"):
        run(num_steps=50, max_staleness=1, **failure)


def test_a_batch_that_never_completes_misses_its_deadline():
    with pytest.raises(TimeoutError):
        run(batch_deadline_seconds=0.001)
