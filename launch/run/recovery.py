"""How a run goes on from its newest checkpoint: when it begins again, or after a part died.

    checkpoint -> run folder cut back -> recorder, scheduler, learners, engines -> Position

The engines stay up: they only get the checkpoint's weights, under its version.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray

from launch.cli.refusals import RunError
from launch.record.checkpoint import Checkpoint, newest_checkpoint, set_aside_later
from launch.record.restarts import cut_back, note_restart
from launch.run.checkpoints import read_groups, read_run
from launch.run.cluster_watch import CLUSTER
from launch.run.deaths import PartDied
from launch.run.inputs import Inputs
from launch.run.parts import Plan
from launch.run.position import Position
from launch.run.recorder import Recorder
from launch.run.system import System

log = logging.getLogger(__name__)


class Recovery:
    """Brings a run to where a checkpoint left it.

    Args:
        inputs: What the run starts from.
        system: Its running parts.
        recorder: What is written down of it.
        plan: The loop's numbers.
    """

    def __init__(self, inputs: Inputs, system: System, recorder: Recorder, plan: Plan) -> None:
        self._inputs = inputs
        self._run_dir = Path(inputs.config.run_dir)
        self._system = system
        self._recorder = recorder
        self._plan = plan
        self._in_a_row = 0
        self._start: dict[str, Any] = {}
        # Whether the restart that is under way is in the run folder.
        self._noted = False
        self.step = -1
        """Of the checkpoint that the run went on from last; -1 for its start."""
        self.blank = False
        """Whether the system holds nothing of the run: a recovery has not come to its end."""

    async def begin(self, saved: Checkpoint) -> Position:
        """Go on from a checkpoint with a system that has just started."""
        # From here on a death leads back to a checkpoint, never to the start of the run.
        self.step = saved.step
        position = await self._load(saved, "started again", self._inputs.changed)
        self._noted = False
        return position

    def remember_start(self) -> None:
        """Remember what is written down before the first step, to begin there once more."""
        self._start = self._recorder.state_dict()

    def progress(self) -> None:
        """Take in that a step was made."""
        self._in_a_row = 0

    def accept(self, death: PartDied) -> None:
        """Take in that the scheduler or a learner died, before anything is awaited.

        Raises:
            PartDied: The same, if that happened too often without a step in between.
        """
        self._in_a_row += 1
        most = self._inputs.config.checkpoint.max_recoveries
        if self._in_a_row > most or death.part == CLUSTER:
            raise death
        self._system.give_up(death)

    async def recover(self, death: PartDied) -> Position:
        """Start what died anew, and go on from the newest checkpoint.

        A part that dies meanwhile ends this, which may then be done again.

        Raises:
            RunError: If there were checkpoints, of which none can be read.
        """
        saved, faults = await asyncio.to_thread(newest_checkpoint, self._run_dir)
        for fault in faults:
            log.warning("a checkpoint is passed over: %s", fault)
        if saved is None and (faults or self.step >= 0):
            # To begin anew would be to lose what may be read later.
            raise RunError(f"{death}; {faults[0] if faults else 'its checkpoints are gone'}")
        step = saved.step if saved is not None else 0
        log.warning(
            "%s; going on from %s, %d steps are learned again",
            death,
            f"the checkpoint of step {step}" if saved is not None else "the start",
            self._recorder.step - step,
        )
        self._recorder.stop()
        self.blank = True
        await self._system.reset(self._inputs.config, self._inputs.prompts)
        if saved is not None:
            position = await self._load(saved, str(death))
        else:
            self._cut_back(0, str(death))
            self._recorder.load_state_dict(self._start)
            position = Position(self._plan)
        self.blank = self._noted = False
        return position

    async def _load(
        self, saved: Checkpoint, reason: str, changed: Mapping[str, Sequence[Any]] | None = None
    ) -> Position:
        state: Mapping[str, Any] = await asyncio.to_thread(read_run, saved)
        held = await asyncio.to_thread(read_groups, saved, ray.put)
        # What came later is learned anew, and must not be taken for what comes of that.
        for aside in set_aside_later(self._run_dir, saved.step):
            log.warning("a checkpoint that was passed over lies in %s now", aside)
        going_on = state["recorder"]["evaluations"]["going_on"]
        self._cut_back(saved.step, reason, changed, going_on=going_on)
        self._recorder.load_state_dict(state["recorder"])
        undone = await self._system.load(
            saved.path, saved.step, [group.report for group in held.values()], state["system"]
        )
        self.step = saved.step
        return Position.at(self._plan, state["position"], undone, held)

    def _cut_back(
        self,
        step: int,
        reason: str,
        changed: Mapping[str, Sequence[Any]] | None = None,
        *,
        going_on: bool = False,
    ) -> None:
        """Note a restart, once where a part dies in a recovery, and cut the run folder back.

        One right after the other, so that lost steps are counted once, however often a run that
        is ended meanwhile tries to go on.
        """
        if not self._noted:
            note_restart(self._run_dir, step=step, reason=reason, changed=changed)
            self._noted = True
        cut_back(self._run_dir, step, going_on=going_on)
