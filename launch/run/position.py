"""Where a run is between two steps: what the loop keeps, and goes on from after a stop.

    loop -> Position.state_dict, held -> checkpoint -> Position.at -> loop

The learners have learned all batches before `batch`, and nothing of `batch` itself. This one and
later ones may be drawn already, and some of their groups finished. A run that continues uses each
of their tickets once: with the finished group, or in a new attempt
(`cost.scheduler.scheduler.Scheduler.resume`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from cost.types import Undone
from launch.run.budget import Budget
from launch.run.clocks import GenerationClock
from launch.run.learning import HandOver
from launch.run.parts import Plan
from launch.run.scoring import ScoredBatches
from rollout.buffer import OrderedBuffer
from rollout.types import GroupRef


class Position:
    """What the loop keeps between steps; made in the event loop that runs it.

    Args:
        plan: The loop's numbers.
        batch: The first batch that was not learned, which is the version too.
        next_ticket: Its first ticket.
        undone: Batches from it on that were drawn; those beyond the plan's steps, as of a run that
            was made shorter, are left as they are.
        held: By ticket id, groups of theirs that are there.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        batch: int = 0,
        next_ticket: int = 0,
        undone: Sequence[Undone] = (),
        held: Mapping[int, GroupRef] | None = None,
    ) -> None:
        self.batch = batch
        self.undone = tuple(each for each in undone if each.batch < plan.num_steps)
        self.next_batch = batch + len(self.undone)
        """The first batch that is not drawn."""
        carried = {key: group for key, group in (held or {}).items() if key < next_ticket}
        # Others may be there too, of tickets that are drawn or run again and get new ones.
        needed = {t.ticket_id for u in self.undone for t in u.draw.tickets} - {
            ticket_id for u in self.undone for ticket_id in u.again
        }
        self.given = {key: group for key, group in (held or {}).items() if key in needed}
        """Groups that are on their way into the buffer."""
        self.learning = False
        """Whether a batch is being learned or published, and there is no position to go on from."""
        self.buffer: OrderedBuffer[GroupRef] = OrderedBuffer(
            plan.max_staleness, version=batch, next_ticket=next_ticket
        )
        self.budget, self.generation = Budget(plan), GenerationClock()
        self.scored = ScoredBatches()
        self.hand_over = HandOver(self.buffer, plan.batch_deadline_seconds)
        self.hand_over.hold(carried)

    @classmethod
    def at(
        cls,
        plan: Plan,
        state: Mapping[str, Any],
        undone: Sequence[Undone],
        held: Mapping[int, GroupRef],
    ) -> "Position":
        """Return the position of a state of `state_dict`; the rest as for `Position`."""
        position = cls(
            plan,
            batch=state["batch"],
            next_ticket=state["next_ticket"],
            undone=undone,
            held=held,
        )
        position.budget.load_state_dict(state["spent"])
        position.budget.reached = state.get("reached", position.budget.reached)
        # What engines took for groups that are there, and for the rest of their batches.
        if "generation" in state:
            position.generation.load_state_dict(state["generation"])
        position.scored.load_state_dict(state.get("scored", {}))
        return position

    def held(self) -> dict[int, GroupRef]:
        """Return the groups that are there and not learned, by ticket id."""
        return self.given | self.hand_over.held | self.buffer.items

    def state_dict(self) -> dict[str, Any]:
        """Return the rest as dicts of numbers."""
        assert not self.learning, "a batch is half learned"
        return {
            "batch": self.batch,
            "next_ticket": self.buffer.next_ticket,
            "spent": self.budget.state_dict(),
            "reached": self.budget.reached,
            "generation": self.generation.state_dict(),
            "scored": self.scored.state_dict(),
        }
