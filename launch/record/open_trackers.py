"""All trackers of a run as one: what fails in them is told and never ends the run.

    {name: Tracker}, RunInfo, states -> open_all -> OpenTrackers: log, samples, cells, close

A run is worth more than its metrics. A tracker that fails while the run goes on is told of once;
it is called again at every step, and whether it kept what it could not take is its own affair.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from conf.targets import ROOMS
from cost.draws.distribution import DrawCells
from launch.cli.refusals import UserError
from launch.record.notices import tell, why
from launch.record.tracking import OpenTracker, RunInfo, Sample, Tracker
from rollout.own_code import PROJECT
from rollout.raised import told


def open_all(
    trackers: Mapping[str, Tracker],
    run: RunInfo,
    states: Mapping[str, Any] | None = None,
    *,
    again: bool = False,
) -> "OpenTrackers":
    """Open every tracker, to hand each call to all of them in order.

    If one fails to open, those before it are closed.

    Args:
        trackers: By name.
        run: What they may know; each gets its own state.
        states: From `OpenTrackers.state_dict` as of the step that the run goes on from.
        again: Whether the run goes on after a death, which one that cannot be opened now does not
            end: it is told of and left out, and keeps its state for the next start.

    Raises:
        UserError: If a tracker cannot be opened.
    """
    opened: dict[str, OpenTracker] = {}
    with ExitStack() as stack:
        for name, tracker in trackers.items():
            state = (states or {}).get(name) or {}
            try:
                opened[name] = _open(name, tracker, replace(run, state=state))
            except UserError as error:
                if not again:
                    raise
                tell(f"{error}; the run goes on without it")
                opened[name] = _LeftOut(state)
            stack.callback(_Supervised(name, opened[name]).close, {})
        stack.pop_all()
    return OpenTrackers(opened)


def _open(name: str, tracker: Tracker, run: RunInfo) -> OpenTracker:
    try:
        return tracker.open(run)
    except OSError as error:
        raise UserError(f"tracker.{name} cannot be opened ({why(error)})") from error
    except ValueError as error:
        said = str(error)
        if not said.startswith("tracker."):
            said = f"tracker.{name} cannot be opened ({said})"
        raise UserError(said) from error
    # Clients of servers raise kinds of their own where nobody answers.
    except Exception as error:
        ours = (str(PROJECT / room) for room in ROOMS)
        raise UserError(
            f"tracker.{name} cannot be opened, it {told(error, *ours)}; leave it out with "
            f"~tracker.{name}"
        ) from error


class _LeftOut:
    """In the place of a tracker that could not be opened: holds its state, and nothing else."""

    def __init__(self, state: Mapping[str, Any]) -> None:
        self._state = state

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def samples(self, step: int, rows: Sequence[Sample]) -> None: ...

    def cells(self, step: int, cells: DrawCells) -> None: ...

    def state_dict(self) -> Mapping[str, Any]:
        return self._state

    def close(self, summary: Mapping[str, object]) -> None: ...


class OpenTrackers:
    """Open trackers; itself one that never fails.

    Args:
        trackers: By name.
    """

    def __init__(self, trackers: Mapping[str, OpenTracker]) -> None:
        self._trackers = [_Supervised(name, tracker) for name, tracker in trackers.items()]

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Hand on the metrics of one step."""
        for tracker in self._trackers:
            tracker.call("log", step, metrics)

    def samples(self, step: int, rows: Sequence[Sample]) -> None:
        """Hand on some responses of one step."""
        for tracker in self._trackers:
            tracker.call("samples", step, rows)

    def cells(self, step: int, cells: DrawCells) -> None:
        """Hand on where the draws go after one step."""
        for tracker in self._trackers:
            tracker.call("cells", step, cells)

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the trackers that have one, by name, in strict JSON's types."""
        states = {tracker.name: tracker.state() for tracker in self._trackers}
        return {name: state for name, state in states.items() if state}

    def close(self, summary: Mapping[str, object]) -> None:
        """Close all, the last one first."""
        with ExitStack() as stack:
            for tracker in self._trackers:
                stack.callback(tracker.close, summary)


class _Supervised:
    """A tracker whose failures are told and counted."""

    def __init__(self, name: str, tracker: OpenTracker) -> None:
        self.name = name
        self._tracker = tracker
        self._num_failed = 0
        self._first = 0

    def call(self, method: str, step: int, content: object) -> None:
        try:
            getattr(self._tracker, method)(step, content)
        except Exception as error:
            self._num_failed += 1
            if self._num_failed == 1:
                self._first = step
                tell(
                    f"tracker.{self.name} failed in {method} at step {step} ({why(error)}); the "
                    "run goes on, and the tracker is called again at every step"
                )

    def state(self) -> dict[str, Any]:
        # A tracker that users wrote need not have one.
        give = getattr(self._tracker, "state_dict", dict)
        try:
            state: dict[str, Any] = json.loads(json.dumps(give(), allow_nan=False))
        except Exception as error:
            tell(
                f"tracker.{self.name} gave no state of strict JSON ({why(error)}); a run that "
                "goes on from here opens it without one"
            )
            return {}
        return state

    def close(self, summary: Mapping[str, object]) -> None:
        try:
            self._tracker.close(summary)
        except Exception as error:
            tell(f"tracker.{self.name} failed at its end ({why(error)}); the run is not affected")
        if self._num_failed > 1:
            tell(f"tracker.{self.name} failed {self._num_failed} times from step {self._first} on")
