"""Where a run goes on, whatever is learned meanwhile, and that it holds no group for longer."""

import asyncio
import json

import numpy as np

from cost.types import Draw, LengthReport, Ticket, Undone
from launch.run.drawing import Rounds
from launch.run.parts import Parts, Plan
from launch.run.position import Position
from launch.run.scoring import ScoringCost
from rollout.types import GroupRef

PLAN = Plan(num_steps=9, num_epochs=1, max_staleness=1, batch_deadline_seconds=60.0)


def group(ticket_id):
    none = np.zeros(0)
    report = LengthReport(ticket_id, 0, 3, 0, none, none, none, none, none, none, 0.0, 0)
    return GroupRef(report, f"data of {ticket_id}")


def undone(batch, ids, again=()):
    tickets = [Ticket(key, 0, 2, 1.0, 1.0, 8) for key in ids]
    return Undone(batch, Draw(tickets, tuple(ids), (), False), tuple(again))


def test_the_next_batch_stays_what_it_is_while_batches_are_learned():
    async def main():
        position = Position(PLAN, batch=3, undone=[undone(3, [6, 7]), undone(4, [8, 9])])
        assert position.next_batch == 5
        # The first of them may be learned before the rounds of the second are over.
        position.batch = 4
        return position.next_batch

    assert asyncio.run(main()) == 5


def test_groups_leave_a_position_with_the_batches_that_they_are_for():
    async def main():
        # Ticket 9 is run again, and 10 was drawn after the scheduler's state, and is drawn again.
        held = {key: group(key) for key in (4, 6, 7, 8, 9, 10)}
        batches = [undone(3, [6, 7]), undone(4, [8, 9], again=[9])]
        position = Position(PLAN, batch=3, next_ticket=6, undone=batches, held=held)
        # Ticket 4 is carried: it went through the buffer before.
        assert set(position.hand_over.held) == {4} and set(position.given) == {6, 7, 8}

        async def run(ticket, prompt):
            return group(ticket.ticket_id)

        rollouts = type("Rollouts", (), {"run": staticmethod(run)})
        parts = Parts([None], None, rollouts, None, None)
        rounds = Rounds(PLAN, parts, position.buffer, position.generation, None)
        async with asyncio.TaskGroup() as tasks:
            for batch in batches:
                await rounds.go_on(batch, position.given, tasks)
        assert position.given == {}
        taken = [await position.buffer.take(2) for _ in batches]
        return [[one.report.ticket_id for one in groups] for groups in taken]

    assert asyncio.run(main()) == [[6, 7], [8, 9]]


def test_what_was_scored_before_a_stop_stays_with_its_batch():
    async def main():
        position = Position(PLAN, batch=3)
        position.scored.add(3, 2e9, 0.25)
        position.scored.add(3, 1e9, 0.5)
        position.scored.add(4, 5e9, 1.0)
        state = json.loads(json.dumps(position.state_dict()))
        again = Position.at(PLAN, state, [], {})
        older = Position.at(PLAN, {k: v for k, v in state.items() if k != "scored"}, [], {})
        return [[one.scored.take(batch) for batch in (3, 4, 3)] for one in (again, older)]

    again, older = asyncio.run(main())
    assert again == [ScoringCost(3e9, 0.75), ScoringCost(5e9, 1.0), ScoringCost()]
    assert older == [ScoringCost()] * 3


def test_seconds_of_engines_before_a_stop_stay_with_the_groups_that_they_were_for():
    async def main():
        position = Position(PLAN, batch=3)
        position.generation.begin(3, 1)
        await asyncio.sleep(0.02)
        state = position.state_dict()
        again = Position.at(PLAN, state, [], {})
        # A checkpoint of a version without these seconds.
        older = Position.at(PLAN, {k: v for k, v in state.items() if k != "generation"}, [], {})
        return state, again.generation.take(3), older.generation.take(3)

    state, seconds, unknown = asyncio.run(main())
    assert seconds == state["generation"]["seconds"]["3"] >= 0.02 and unknown == 0
