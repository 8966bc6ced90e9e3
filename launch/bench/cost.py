"""The scheduler alone: seconds and bytes over the number of prompts, on one core.

    for each N:   draw ten batches -> report -> select -> fold, refresh, draw      again and again
    at the end:   thinning by itself, allocators that act on a pool of candidates

No model, no engine, no Ray: reports are made up, and the time for making them does not count. The
plugs are those of the configuration. Targets are for the largest N; each says whether it is met.

Everything runs in one thread but for linear algebra, which OMP_NUM_THREADS=1 keeps in it too; the
CPU seconds per second of a measurement are part of the result.
"""

from __future__ import annotations

import gc
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cost.checkpoint import load_state, save_state
from cost.config import SchedulerConfig
from cost.scheduler import PLUGS, Scheduler
from cost.thinning import Candidates
from cost.types import LengthReport, Ticket

NUM_PROMPTS = (10_000, 100_000, 1_000_000)
NUM_TICKETS = 1024
NUM_BATCHES = 10
"""Batches folded at once for the time of 10,240 reports."""
NUM_CANDIDATES = 65_536
NUM_ADDED = 100_000
POOL_ALLOCATORS = ("knapsack", "gvm", "vip")
"""Members of conf/allocator that optimise over a pool of candidates."""
NUM_POOL = 256
"""Candidates in that pool, which are the groups of a batch."""
MAX_TOKENS = 1024
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
    """A scheduler at work; every method returns the seconds that the scheduler took."""

    def __init__(self, config: SchedulerConfig, num_prompts: int, seed: int) -> None:
        """Make prompts up, between 20 and 400 tokens long, and a scheduler for them."""
        self._config = config
        self._seed = seed
        self._rng = np.random.default_rng(seed)
        self._drawn: list[list[LengthReport]] = []
        self._num_observed = self._num_selected = self._num_folded = 0
        self.prompt_tokens, self._sources = self._prompts(num_prompts)
        self.scheduler = self._new_scheduler()

    def draw(self) -> float:
        """Draw the next batch, nothing folded."""
        batch, seconds = len(self._drawn), 0.0
        reports: list[LengthReport] = []
        members = None
        while members is None:
            took, draw = timed(lambda: self.scheduler.draw(batch, self._num_folded))
            seconds += took
            reports += [self._report(ticket) for ticket in draw.tickets]
            members = draw.members
            if members is None:
                # Pilots, of which the next round wants to know.
                for report in reports[-len(draw.tickets) :]:
                    self.scheduler.observe(report)
            if draw.gradient_norms:
                self.scheduler.observe_gradient_norms(
                    {t.ticket_id: self._rng.random(t.num_samples) for t in draw.tickets}
                )
        known = {report.ticket_id: report for report in reports}
        self._drawn.append([known[ticket_id] for ticket_id in members])
        return seconds

    def observe(self) -> float:
        """Report every batch that was not reported yet."""
        reports = [report for batch in self._drawn[self._num_observed :] for report in batch]
        self._num_observed = len(self._drawn)
        began = time.perf_counter()
        for report in reports:
            self.scheduler.observe(report)
        return time.perf_counter() - began

    def select(self) -> float:
        """Select from every batch that was reported."""
        seconds = 0.0
        for batch in range(self._num_selected, self._num_observed):
            seconds += timed(lambda: self.scheduler.select(batch, self._drawn[batch]))[0]  # noqa: B023
            self._drawn[batch] = []
        self._num_selected = self._num_observed
        return seconds

    def fold_and_draw(self) -> float:
        """Draw the next batch from what all batches before it taught."""
        self._num_folded = len(self._drawn)
        return self.draw()

    def step(self) -> float:
        """Do all of one training step: report, select, fold, refresh, draw."""
        return self.observe() + self.select() + self.fold_and_draw()

    def refresh(self) -> float:
        """Make the snapshot anew; a restored scheduler has none."""
        self.scheduler.load_state_dict(self.scheduler.state_dict())
        return timed(self.scheduler.distribution)[0]

    def save_and_restore(self) -> float:
        """Write the state to a file and continue from it with another scheduler."""
        self.scheduler, old = self._new_scheduler(), self.scheduler
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "state.npz"
            saving, _ = timed(lambda: save_state(path, old.state_dict()))
            restoring, _ = timed(lambda: self.scheduler.load_state_dict(load_state(path)))
        return saving + restoring

    def add_prompts(self, num_added: int) -> float:
        """Append prompts."""
        tokens, sources = self._prompts(num_added)
        self.prompt_tokens = np.concatenate([self.prompt_tokens, tokens])
        self._sources += sources
        return timed(lambda: self.scheduler.add_prompts(tokens, sources))[0]

    def _prompts(self, count: int) -> tuple[Any, list[str]]:
        codes = self._rng.integers(0, len(SOURCES), count).tolist()
        return self._rng.integers(20, 401, count), [SOURCES[code] for code in codes]

    def _new_scheduler(self) -> Scheduler:
        return Scheduler(
            self._config, self.prompt_tokens, self._sources, MAX_TOKENS, self._seed,
            num_batches=1_000_000,
        )  # fmt: skip

    def _report(self, ticket: Ticket) -> LengthReport:
        """Play a ticket: longer prompts get longer responses, half of which are right."""
        size, tokens = ticket.num_samples, int(self.prompt_tokens[ticket.prompt_index])
        lengths = np.minimum(1 + self._rng.poisson(tokens, size), MAX_TOKENS)
        return LengthReport(
            ticket_id=ticket.ticket_id,
            prompt_index=ticket.prompt_index,
            prompt_tokens=tokens,
            prefill_tokens=tokens,
            lengths=lengths,
            truncated=lengths >= MAX_TOKENS,
            rewards=(self._rng.random(size) < 0.5).astype(np.float64),
            status=np.zeros(size, dtype=np.int64),
            surprise=lengths * self._rng.uniform(0.1, 0.4, size),
            engine_seconds=1.0,
            version=0,
        )


def bench_cost(
    config: SchedulerConfig,
    pool_configs: Mapping[str, SchedulerConfig],
    *,
    repetitions: int,
    warm_ups: int,
    seed: int = 0,
    num_prompts: Sequence[int] = NUM_PROMPTS,
    num_tickets: int = NUM_TICKETS,
    num_candidates: int = NUM_CANDIDATES,
    num_added: int = NUM_ADDED,
    num_pool: int = NUM_POOL,
) -> dict[str, Any]:
    """Measure the scheduler.

    Args:
        config: The plugs; batches get `num_tickets` tickets whatever it says. Its allocator must
            draw in one round.
        pool_configs: By the name of the allocator, those that act on a pool of candidates.
        repetitions: Measured turns, of which medians are reported.
        warm_ups: Turns that do not count.
        seed: Of prompts, reports and schedulers.
        num_prompts: Sizes of the task, ascending.
        num_tickets: Tickets of a batch.
        num_candidates: Responses to thin.
        num_added: Prompts appended while the run goes on.
        num_pool: Groups of a batch for `pool_configs`.

    Returns:
        By N medians in seconds, held and peak bytes; the factor by which each grows from one N to
        the next; targets with what was measured.
    """
    counts = {"repetitions": repetitions, "warm_ups": warm_ups}
    sized = replace(config, tickets_per_step=num_tickets)
    cpu, wall = time.process_time(), time.perf_counter()
    by_size = {size: _measure_size(sized, size, num_added, seed, **counts) for size in num_prompts}
    memory = {size: _memory(sized, size, seed) for size in num_prompts}
    for before, size in zip(num_prompts[:-1], num_prompts[1:], strict=True):
        for kind in ("held", "peak"):
            more = memory[size][f"{kind}_bytes"] - memory[before][f"{kind}_bytes"]
            memory[size][f"{kind}_bytes_per_prompt"] = more / (size - before)
    thinning = _thinning(config, num_candidates, seed, **counts)
    pools = {
        name: _pool(replace(pool, tickets_per_step=num_pool), num_prompts[0], seed, **counts)
        for name, pool in pool_configs.items()
    }
    cores = (time.process_time() - cpu) / (time.perf_counter() - wall)
    largest = by_size[num_prompts[-1]] | {
        "bytes_per_prompt": memory[num_prompts[-1]].get("peak_bytes_per_prompt", float("nan")),
        "thinning_seconds": thinning["thinning_seconds"],
    }
    return {
        "plugs": {name: type(getattr(config, name)).__name__ for name in PLUGS},
        "tickets": num_tickets,
        "group_size": config.group_size,
        "reports": NUM_BATCHES * num_tickets,
        "median_seconds": {str(size): found for size, found in by_size.items()},
        "growth": {
            f"{before} to {size}": {
                name: by_size[size][name] / by_size[before][name] for name in by_size[size]
            }
            for before, size in zip(num_prompts[:-1], num_prompts[1:], strict=True)
        },
        "memory": {str(size): found for size, found in memory.items()},
        "thinning": thinning,
        "pool_allocators": pools,
        "added_prompts": num_added,
        "cpu_seconds_per_second": cores,
        "targets": {
            name: {"target": target, "measured": largest[name], "met": largest[name] <= target}
            for name, target in TARGETS.items()
        },
    }


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Call a function: the seconds it took, and what it returned."""
    began = time.perf_counter()
    result = function()
    return time.perf_counter() - began, result


def _measure_size(
    config: SchedulerConfig,
    num_prompts: int,
    num_added: int,
    seed: int,
    *,
    repetitions: int,
    warm_ups: int,
) -> dict[str, float]:
    """Medians for one number of prompts."""
    run = Run(config, num_prompts, seed)
    run.draw()
    seconds: dict[str, list[float]] = {}
    for repetition in range(warm_ups + repetitions):
        # The last turn left one batch.
        draws = [run.draw() for _ in range(NUM_BATCHES - 1)]
        observing = run.observe()
        selecting = run.select() / NUM_BATCHES
        # One refresh and one draw are part of it, though targets of their own.
        folding = run.fold_and_draw()
        found = {
            "draw_seconds": statistics.median(draws),
            "refresh_seconds": run.refresh(),
            "observe_reports_seconds": observing,
            "reports_seconds": observing + folding,
            "select_seconds": selecting,
            "step_seconds": run.step(),
            "save_and_restore_seconds": run.save_and_restore(),
        }
        # The restored scheduler has no snapshot.
        run.scheduler.distribution()
        if repetition >= warm_ups:
            for name, value in found.items():
                seconds.setdefault(name, []).append(value)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    # Once, since the number of prompts is another one afterwards.
    medians["add_prompts_seconds"] = run.add_prompts(num_added)
    medians["step_with_added_prompts_seconds"] = run.step()
    return medians


def _memory(config: SchedulerConfig, num_prompts: int, seed: int) -> dict[str, float]:
    """Bytes that a scheduler holds between steps, and the most it ever needs within one."""
    run = Run(config, num_prompts, seed)
    run.scheduler = None  # type: ignore[assignment]
    gc.collect()
    tracemalloc.start()
    try:
        run.scheduler = run._new_scheduler()
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
) -> dict[str, float]:
    """Medians of thinning many responses, by the rule alone and within a selection."""
    rng = np.random.default_rng(seed)
    num_groups = num_candidates // config.group_size
    rewards = (rng.random(num_candidates) < 0.5).astype(np.float64)
    advantages = np.where(rng.random(num_candidates) < 0.2, 0.0, 2 * rewards - 1)
    candidates = Candidates(
        scores=np.abs(advantages) * rng.lognormal(0, 1, num_candidates),
        costs=rng.uniform(20, MAX_TOKENS, num_candidates),
        advantages=advantages,
        rewards=rewards,
        usable=np.ones(num_candidates, dtype=bool),
        groups=np.repeat(np.arange(num_groups), config.group_size),
    )
    run = Run(replace(config, tickets_per_step=num_groups), num_candidates, seed)
    alone, selecting = [], []
    for _ in range(warm_ups + repetitions):
        alone.append(timed(lambda: config.thinning.thin(candidates, rng))[0])
        run.draw()
        run.observe()
        selecting.append(run.select())
    return {
        "candidates": num_candidates,
        "thinning_seconds": statistics.median(alone[warm_ups:]),
        "select_seconds": statistics.median(selecting[warm_ups:]),
        "select_seconds_per_response": statistics.median(selecting[warm_ups:]) / num_candidates,
    }


def _pool(
    config: SchedulerConfig, num_prompts: int, seed: int, *, repetitions: int, warm_ups: int
) -> dict[str, float]:
    """Median of all rounds of one batch's draw, for an allocator that acts on a pool."""
    run = Run(config, num_prompts, seed)
    run.draw()
    run.step()
    seconds = [run.draw() for _ in range(warm_ups + repetitions)][warm_ups:]
    return {
        "candidates": config.tickets_per_step,
        "prompts": num_prompts,
        "draw_seconds": statistics.median(seconds),
    }
