"""The scheduler alone: seconds and bytes over the number of prompts, on one core.

    for each N:   draw ten batches -> report -> select -> fold, refresh, draw      again and again
    at the end:   thinning by itself

No model, no engine, no Ray: reports are made up, and the time for making them does not count. The
plugs are those of the configuration. Targets are for the largest N; each says whether it is met.

Everything runs in one thread but for linear algebra, which OMP_NUM_THREADS=1 keeps in it too. CPU
seconds, of all threads, stand beside the seconds: where other processes want the same cores they
are what an idle machine would have taken. Targets are held against seconds.
"""

from __future__ import annotations

import gc
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cost.scheduler.config import PROTOCOLS, SchedulerConfig
from cost.scheduler.scheduler import Scheduler
from cost.state_file import load_state, save_state
from cost.thinning.thinning import Candidates
from cost.types import FloatArray, LengthReport, Ticket
from launch.run.rehearsal import made_up_report

NUM_PROMPTS = (10_000, 100_000, 1_000_000)
NUM_TICKETS = 1024
NUM_BATCHES = 10
"""Batches folded at once for the time of 10,240 reports."""
NUM_CANDIDATES = 65_536
MAX_TOKENS = 1024
NUM_FEATURES = 16
"""Of each prompt, with scheduler.prompt_features."""
SOURCES = ("arithmetic", "algebra", "geometry", "logic")
TARGETS = {
    "draw_seconds": 0.010,
    "refresh_seconds": 0.200,
    "reports_seconds": 1.0,
    "save_and_restore_seconds": 2.0,
    "bytes_per_prompt": 200.0,
    "thinning_seconds": 0.050,
}
"""The largest value that meets each target."""


class Run:
    """A scheduler at work; its methods return what the scheduler took: [2] seconds, CPU seconds."""

    def __init__(self, config: SchedulerConfig, num_prompts: int, seed: int) -> None:
        """Make prompts up, between 20 and 400 tokens long, and a scheduler for them."""
        self._config = config
        self._seed = seed
        self._rng = np.random.default_rng(seed)
        self._drawn: list[list[LengthReport]] = []
        self._num_observed = self._num_selected = self._num_folded = 0
        codes = self._rng.integers(0, len(SOURCES), num_prompts).tolist()
        self.prompt_tokens = self._rng.integers(20, 401, num_prompts)
        self._sources = [SOURCES[code] for code in codes]
        self._features = None
        if config.prompt_features:
            made = self._rng.standard_normal((num_prompts, NUM_FEATURES), dtype=np.float32)
            self._features = made.astype(np.float16)
        self.scheduler = self.new_scheduler()

    def new_scheduler(self) -> Scheduler:
        """Build a scheduler that has seen nothing."""
        task = (self.prompt_tokens, self._sources, MAX_TOKENS)
        return Scheduler(self._config, *task, self._seed, features=self._features)

    def draw(self) -> FloatArray:
        """Draw the next batch, nothing folded."""
        batch, seconds = len(self._drawn), np.zeros(2)
        reports: list[LengthReport] = []
        members = None
        norms: dict[int, FloatArray] = {}
        while members is None:
            took, draw = timed(partial(self.scheduler.draw, batch, self._num_folded, norms))
            seconds += took
            reports += [self._report(ticket) for ticket in draw.tickets]
            members = draw.members
            if members is None:
                # Pilots, of which the next round wants to know.
                for report in reports[-len(draw.tickets) :]:
                    self.scheduler.observe(report)
            if draw.gradient_norms:
                norms = {t.ticket_id: self._rng.random(t.num_samples) for t in draw.tickets}
        known = {report.ticket_id: report for report in reports}
        self._drawn.append([known[ticket_id] for ticket_id in members])
        return seconds

    def observe(self) -> FloatArray:
        """Report every batch that was not reported yet."""
        reports = [report for batch in self._drawn[self._num_observed :] for report in batch]
        self._num_observed = len(self._drawn)
        began = clocks()
        for report in reports:
            self.scheduler.observe(report)
        return clocks() - began

    def select(self) -> FloatArray:
        """Select from every batch that was reported."""
        seconds = np.zeros(2)
        for batch in range(self._num_selected, self._num_observed):
            reports, self._drawn[batch] = self._drawn[batch], []
            attempts = [report.attempt for report in reports]
            seconds += timed(partial(self.scheduler.select, batch, attempts))[0]
        self._num_selected = self._num_observed
        return seconds

    def fold_and_draw(self) -> FloatArray:
        """Draw the next batch from what all batches before it taught."""
        self._num_folded = len(self._drawn)
        return self.draw()

    def step(self) -> FloatArray:
        """Do all of one training step: report, select, fold, refresh, draw."""
        return self.observe() + self.select() + self.fold_and_draw()

    def refresh(self) -> FloatArray:
        """Make the snapshot anew; a restored scheduler has none."""
        self.scheduler.load_state_dict(self.scheduler.state_dict())
        return timed(self.scheduler.distribution)[0]

    def save_and_restore(self) -> FloatArray:
        """Write the state to a file and continue from it with another scheduler."""
        self.scheduler, old = self.new_scheduler(), self.scheduler
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "state.npz"
            saving, _ = timed(lambda: save_state(path, old.state_dict()))
            restoring, _ = timed(lambda: self.scheduler.load_state_dict(load_state(path)))
        return saving + restoring

    def _report(self, ticket: Ticket) -> LengthReport:
        """Play a ticket: longer prompts get longer responses, half of which are right."""
        size, tokens = ticket.num_samples, int(self.prompt_tokens[ticket.prompt_index])
        lengths = np.minimum(1 + self._rng.poisson(tokens, size), MAX_TOKENS)
        right = self._rng.random(size) < 0.5
        return made_up_report(ticket, tokens, lengths, right, self._rng)


def clocks() -> FloatArray:
    """Read the clocks: [2] seconds, and CPU seconds of this process."""
    return np.array([time.perf_counter(), time.process_time()])


def timed(function: Callable[[], Any]) -> tuple[FloatArray, Any]:
    """Call a function: [2] seconds and CPU seconds that it took, and what it returned."""
    began = clocks()
    result = function()
    return clocks() - began, result


def bench_cost(
    config: SchedulerConfig,
    *,
    repetitions: int,
    warm_ups: int,
    seed: int = 0,
    num_prompts: Sequence[int] = NUM_PROMPTS,
    num_tickets: int = NUM_TICKETS,
    num_candidates: int = NUM_CANDIDATES,
) -> dict[str, Any]:
    """Measure one scheduler per number of prompts, and thinning.

    Args:
        config: The plugs; batches get `num_tickets` tickets whatever it says.
        repetitions: Measured turns, of which medians are reported.
        warm_ups: Turns that do not count.
        seed: Of prompts, reports and schedulers.
        num_prompts: Sizes of the task, at least two, ascending.
        num_tickets: Tickets of a batch.
        num_candidates: Responses to thin.

    Returns:
        Targets with what was measured; by N medians of seconds and CPU seconds; and bytes held
        between steps and the most needed within one, as traced by tracemalloc, with
        `bytes_per_prompt` of the latter over the last increase of N.
    """
    counts = {"repetitions": repetitions, "warm_ups": warm_ups}
    sized = replace(config, tickets_per_step=num_tickets)
    by_size = {size: _measure_size(sized, size, seed, **counts) for size in num_prompts}
    memory = {size: _memory(sized, size, seed) for size in num_prompts}
    thinning = _thinning(config, num_candidates, seed, **counts)
    before, largest = num_prompts[-2:]
    more = memory[largest]["peak_bytes"] - memory[before]["peak_bytes"]
    found = by_size[largest] | thinning
    measured = {name: found[name]["wall"] for name in TARGETS if name in found}
    measured["bytes_per_prompt"] = more / (largest - before)
    return {
        "plugs": {name: type(getattr(config, name)).__name__ for name in PROTOCOLS},
        "tickets": num_tickets,
        "group_size": config.group_size,
        "reports": NUM_BATCHES * num_tickets,
        "candidates": num_candidates,
        "targets": {
            name: {"target": target, "measured": measured[name], "met": measured[name] <= target}
            for name, target in TARGETS.items()
        },
        "median": {str(size): taken for size, taken in by_size.items()},
        "memory": {str(size): taken for size, taken in memory.items()},
        "thinning": thinning,
    }


def _medians(taken: Sequence[dict[str, FloatArray]]) -> dict[str, dict[str, float]]:
    """Return by name the medians of seconds and of CPU seconds."""
    found = {name: np.median([turn[name] for turn in taken], axis=0) for name in taken[0]}
    return {name: {"wall": float(wall), "cpu": float(cpu)} for name, (wall, cpu) in found.items()}


def _measure_size(
    config: SchedulerConfig, num_prompts: int, seed: int, *, repetitions: int, warm_ups: int
) -> dict[str, dict[str, float]]:
    """Measure one number of prompts and return medians."""
    run = Run(config, num_prompts, seed)
    run.draw()
    taken: list[dict[str, FloatArray]] = []
    for _ in range(warm_ups + repetitions):
        # The last turn left one batch.
        draws = [run.draw() for _ in range(NUM_BATCHES - 1)]
        observing = run.observe()
        selecting = run.select() / NUM_BATCHES
        # One refresh and one draw are part of it, though targets of their own.
        folding = run.fold_and_draw()
        taken.append(
            {
                "draw_seconds": np.median(draws, axis=0),
                "refresh_seconds": run.refresh(),
                "observe_reports_seconds": observing,
                "reports_seconds": observing + folding,
                "select_seconds": selecting,
                "step_seconds": run.step(),
                "save_and_restore_seconds": run.save_and_restore(),
            }
        )
        # The restored scheduler has no snapshot.
        run.scheduler.distribution()
    return _medians(taken[warm_ups:])


def _memory(config: SchedulerConfig, num_prompts: int, seed: int) -> dict[str, int]:
    """Return the bytes that a scheduler holds between steps, and the most it needs within one."""
    run = Run(config, num_prompts, seed)
    run.scheduler = None  # type: ignore[assignment]
    gc.collect()
    tracemalloc.start()
    try:
        run.scheduler = run.new_scheduler()
        run.draw()
        run.step()
        gc.collect()
        tracemalloc.reset_peak()
        run.step()
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return {"held_bytes": held, "peak_bytes": peak}


def _thinning(
    config: SchedulerConfig, num_candidates: int, seed: int, *, repetitions: int, warm_ups: int
) -> dict[str, dict[str, float]]:
    """Thin many responses by the rule alone and return medians."""
    rng = np.random.default_rng(seed)
    rewards = (rng.random(num_candidates) < 0.5).astype(np.float64)
    advantages = np.where(rng.random(num_candidates) < 0.2, 0.0, 2 * rewards - 1)
    num_groups = num_candidates // config.group_size
    candidates = Candidates(
        scores=np.abs(advantages) * rng.lognormal(0, 1, num_candidates),
        costs=rng.uniform(20, MAX_TOKENS, num_candidates),
        advantages=advantages,
        rewards=rewards,
        usable=np.ones(num_candidates, dtype=bool),
        groups=np.repeat(np.arange(num_groups), config.group_size),
    )
    thin = partial(config.thinning.thin, candidates, rng)
    taken = [{"thinning_seconds": timed(thin)[0]} for _ in range(warm_ups + repetitions)]
    return _medians(taken[warm_ups:])
