"""Learning a second time from groups: those of earlier batches, or a batch's own.

earlier batches:   hold, after a batch's first pass -> join, beside a later batch in its step
the batch's own:   again -> selections for a second step -> stepped, with that step's metrics

See `cost.thinning.reuse`. Only groups with an advantage are held, of at most `max_age` batches.
Checkpoints hold none of them, nor does the scheduler's: a run that continues starts with none.
"""

import math
from collections.abc import Sequence

from cost.thinning.reuse import Reuse, joined
from cost.types import Selection
from launch.run.parts import Metrics, Scheduler
from rollout.types import GroupRef


class Reusing:
    """Says what is learned from once more, and holds what that takes.

    Args:
        reuse: When that is; None for never, and nothing is held.
        scheduler: Chooses from the batches that are held.
    """

    def __init__(self, reuse: Reuse | None, scheduler: Scheduler) -> None:
        self._reuse = reuse
        self._scheduler = scheduler
        # By batch, then by ticket id.
        self._held: dict[int, dict[int, GroupRef]] = {}
        self._effective_share = math.nan

    async def join(
        self, batch: int, groups: list[GroupRef], selections: list[Selection]
    ) -> tuple[list[GroupRef], list[Selection]]:
        """Put groups of earlier batches behind a batch's own, if it is to be joined by any.

        Args:
            batch: Its number.
            groups: Its members.
            selections: One a member.

        Returns:
            Groups and selections for the learners, in the same order.
        """
        if self._reuse is None or not self._held:
            return groups, selections
        if not self._reuse.opens(batch, self._effective_share):
            return groups, selections
        own, again = joined(selections, await self._scheduler.reuse(batch))
        held = {key: group for earlier in self._held.values() for key, group in earlier.items()}
        return [*groups, *(held[one.ticket_id] for one in again)], [*own, *again]

    async def again(self, batch: int) -> list[Selection] | None:
        """Choose what a second step from a batch learns from.

        Returns:
            One a plain member; None if there is to be no such step.
        """
        if self._reuse is None or self._reuse.max_age:
            return None
        opens = self._reuse.opens(batch, self._effective_share)
        # None of a batch without members, as where a filter accepted no group.
        own = await self._scheduler.reuse(batch) if opens else []
        if not own:
            # Nothing new is known of second steps: the next batch may have one.
            self._effective_share = math.nan
            return None
        return own[0]

    def stepped(self, metrics: Metrics) -> None:
        """Take note of the learners' metrics of a second step."""
        self._effective_share = metrics.get("learner/rollout_effective_share", math.nan)

    def hold(
        self,
        batch: int,
        groups: Sequence[GroupRef],
        selections: Sequence[Selection],
        metrics: Metrics,
    ) -> None:
        """Hold a batch, and let go of what the next one is too late for.

        Args:
            batch: Its number.
            groups: Its members; exploring ones are left out.
            selections: One a member.
            metrics: Of the learners, of the pass over it.
        """
        if self._reuse is None or not self._reuse.max_age:
            return
        self._effective_share = metrics.get("learner/rollout_effective_share", math.nan)
        self._held[batch] = {
            one.ticket_id: group
            for group, one in zip(groups, selections, strict=True)
            if not one.exploring and one.advantages.any()
        }
        self._held.pop(batch - self._reuse.max_age, None)
