"""When a run is saved, and how: a short pause for a snapshot, then written beside the training.

    pause:   scheduler.snapshot -> position, groups that are held -> learners.snapshot
    beside:  scheduler.write, groups, run.npz, learners.written -> seal -> older ones go

A checkpoint that cannot be written is told of, and the run goes on without.
"""

from __future__ import annotations

import asyncio
import logging
import shlex
import shutil
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conf.checkpoint import CheckpointConfig
from cost.state_file import load_state, save_state
from cost.types import LengthReport
from launch.record.atomic_files import to_disk
from launch.record.checkpoint import (
    GROUPS,
    LEARNER,
    RUN,
    SCHEDULER,
    Checkpoint,
    partial_folder,
    remove_older,
    seal,
)
from launch.record.notices import why
from launch.record.restarts import LINES
from launch.run.deaths import actor_death
from launch.run.position import Position
from rollout.group_file import load_group, save_group
from rollout.types import GroupRef

if TYPE_CHECKING:
    from launch.run.system import System

log = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one run.

    Args:
        config: When to save, and how many to keep.
        run_dir: The run folder.
        system: What is saved.
        about: What the run is, for whoever goes on from it; JSON-able.
    """

    def __init__(
        self,
        config: CheckpointConfig,
        run_dir: Path,
        system: System,
        about: Mapping[str, Any],
    ) -> None:
        self._config = config
        self._run_dir = run_dir
        self._system = system
        self._about = about
        self._last_seconds = time.monotonic()
        self.last_step = -1
        """Step of the newest checkpoint, written or gone on from; -1 without one."""
        self._writing: asyncio.Task[None] | None = None
        self._told: set[str] = set()
        self._metrics: dict[str, float] = {}

    def due(self, step: int) -> bool:
        """Whether to save after a step; not while the last one is still being written."""
        if self._writing is not None and not self._writing.done():
            return False
        every, seconds = self._config.every_steps, self._config.every_seconds
        by_step = bool(every) and step % every == 0
        return by_step or (seconds is not None and time.monotonic() - self._last_seconds >= seconds)

    async def save(self, position: Position, state: Mapping[str, Any]) -> None:
        """Take a snapshot of a run between two steps, and begin to write it.

        Whoever is cancelled while it waits for this does not cancel it.

        Args:
            position: Where the loop is.
            state: Of all else on the driver, as `save_state` takes it.
        """
        await self.finish()
        taken = asyncio.Event()
        self._writing = asyncio.create_task(self._save(position, state, taken))
        await taken.wait()

    async def _save(
        self, position: Position, state: Mapping[str, Any], taken: asyncio.Event
    ) -> None:
        step, began, partial = position.batch, time.monotonic(), None
        try:
            async with asyncio.timeout(self._config.deadline_seconds):
                partial = await asyncio.to_thread(partial_folder, self._run_dir, step)
                await self._system.scheduler.call("snapshot")
                # After the scheduler's: a group that is held is then of a ticket that it knows, or
                # of one that will be drawn again.
                held = position.held()
                content = {"position": position.state_dict(), **state}
                await self._system.learners.snapshot(str(partial / LEARNER))
                taken.set()
                self._metrics = {"checkpoint/pause_seconds": time.monotonic() - began}
                await self._write(partial, step, held, content)
            self.last_step = step
            self._metrics["checkpoint/seconds"] = time.monotonic() - began
        except Exception as error:
            # A part that died is found by whoever needs it next.
            self._tell(error)
            if partial is not None:
                await asyncio.to_thread(shutil.rmtree, partial, True)
        finally:
            self._last_seconds = time.monotonic()
            taken.set()

    async def finish(self) -> None:
        """Wait until what is being written is there, or was given up."""
        if self._writing is not None:
            # Whoever is cancelled while it waits does not cancel the writing.
            await asyncio.wait({self._writing})
            self._writing = None

    async def last(self, save: Callable[[], Awaitable[None]] | None) -> None:
        """Save what there is when a run ends too early; whatever comes of it, the run ends.

        Args:
            save: Calls `save`; None where there is only what is being written to wait for.
        """
        try:
            async with asyncio.timeout(self._config.grace_seconds):
                if save is not None:
                    await save()
                await self.finish()
        except Exception as error:
            log.warning("no checkpoint could be written at the end: %s", error or "it took long")

    @property
    def way_on(self) -> str:
        """A clause that says how to go on from the newest checkpoint."""
        if self.last_step < 0:
            return "there is no checkpoint to go on from"
        resume = f"`python -m launch.train {shlex.quote(f'resume={self._run_dir}')}`"
        return f"go on from step {self.last_step} with {resume}"

    def metrics(self) -> dict[str, float]:
        """Return what the last checkpoint took, once."""
        found, self._metrics = self._metrics, {}
        return found

    async def _write(
        self,
        partial: Path,
        step: int,
        held: Mapping[int, GroupRef],
        content: Mapping[str, Any],
    ) -> None:
        await asyncio.gather(
            self._system.scheduler.call("write", str(partial / SCHEDULER)),
            self._system.learners.written(),
            _save_groups(partial / GROUPS, held),
        )
        await asyncio.to_thread(save_state, partial / RUN, content)
        await asyncio.to_thread(_lines_to_disk, self._run_dir)
        sealed = await asyncio.to_thread(seal, partial, step, self._about)
        await asyncio.to_thread(remove_older, self._run_dir, self._config.keep_last)
        files = [file for file in sealed.path.rglob("*") if file.is_file()]
        self._metrics["checkpoint/bytes"] = float(sum(file.stat().st_size for file in files))

    def _tell(self, error: Exception) -> None:
        """Say once of each reason that there is no checkpoint."""
        if actor_death(error) is not None:
            # Said by whoever finds out what died. Of what was only late here nobody else may hear.
            return
        cause = getattr(error, "cause", None) or error
        reason = why(cause)
        if reason not in self._told:
            self._told.add(reason)
            log.warning(
                "no checkpoint could be written in %s: %s; the run goes on, and tries again when "
                "the next one is due",
                self._run_dir,
                reason,
            )


def _lines_to_disk(run_dir: Path) -> None:
    """See that a machine that loses power has no checkpoint of steps that are not written down."""
    for path in (*(run_dir / name for name in LINES), run_dir):
        # What cannot be written is told by those who write it, and costs no checkpoint.
        with suppress(OSError):
            to_disk(path)


async def _save_groups(folder: Path, held: Mapping[int, GroupRef]) -> None:
    """Write the groups one after the other, so that one is in memory at a time."""
    for ticket_id, group in held.items():
        report = asdict(group.report)
        await asyncio.to_thread(save_state, folder / f"{ticket_id}.report.npz", report)
        if group.data is not None:
            await asyncio.to_thread(save_group, folder / f"{ticket_id}.npz", await group.data)


def read_run(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the driver's part of a checkpoint; ValueError if it is not one."""
    return load_state(checkpoint.path / RUN)


def read_groups(checkpoint: Checkpoint, put: Callable[[Any], Any]) -> dict[int, GroupRef]:
    """Return the groups of a checkpoint by ticket id.

    Args:
        checkpoint: A whole one.
        put: Makes a reference of a `Group`, such as `ray.put`.
    """
    held = {}
    for file in (checkpoint.path / GROUPS).glob("*.report.npz"):
        report = LengthReport(**load_state(file))
        data = file.with_name(f"{report.ticket_id}.npz")
        reference = put(load_group(data)) if data.exists() else None
        held[report.ticket_id] = GroupRef(report, reference)
    return held
