"""Builders of the records that cost tests pass around."""

from collections.abc import Callable

import numpy as np
import pytest

from cost.advantages import GroupStandardised
from cost.aggregations import SequenceMean
from cost.allocators.square_root import SquareRoot
from cost.config import SchedulerConfig
from cost.lengths import PoolShrunkLength
from cost.prices import TokenPrice
from cost.prompts import PromptPool, Visit, prompt_pool
from cost.proxies import SurpriseProxy
from cost.reports import usable
from cost.scheduler import Scheduler
from cost.thinning import CostAware
from cost.types import LengthReport, Ticket
from cost.utilities import GroupSurprise


@pytest.fixture
def make_config() -> Callable[..., SchedulerConfig]:
    def build(**changes: object) -> SchedulerConfig:
        plugs: dict[str, object] = {
            "length": PoolShrunkLength(),
            "price": TokenPrice(),
            "utility": GroupSurprise(),
            "allocator": SquareRoot(),
            "thinning": CostAware(),
            "proxy": SurpriseProxy(),
            "advantage": GroupStandardised(),
            "aggregation": SequenceMean(),
            "tickets_per_step": 8,
            "group_size": 4,
        }
        return SchedulerConfig(**(plugs | changes))  # type: ignore[arg-type]

    return build


@pytest.fixture
def make_scheduler(make_config: Callable[..., SchedulerConfig]) -> Callable[..., Scheduler]:
    def build(
        num_prompts: int = 20,
        seed: int = 0,
        *,
        max_staleness: int = 0,
        num_batches: int = 1,
        max_generated_tokens: int | None = None,
        **changes: object,
    ) -> Scheduler:
        return Scheduler(
            make_config(**changes),
            10 + np.arange(num_prompts) % 7,
            [f"source{index % 3}" for index in range(num_prompts)],
            max_tokens=128,
            seed=seed,
            max_staleness=max_staleness,
            num_batches=num_batches,
            max_generated_tokens=max_generated_tokens,
        )

    return build


@pytest.fixture
def make_report() -> Callable[..., LengthReport]:
    """Play a ticket: a prompt's lengths and rewards are a function of seed and ticket."""

    def build(ticket: Ticket, seed: int = 0, **changes: object) -> LengthReport:
        rng = np.random.default_rng([seed, ticket.ticket_id])
        size = ticket.num_samples
        lengths = np.minimum(rng.poisson(10 + 4 * ticket.prompt_index, size) + 1, 128)
        fields: dict[str, object] = {
            "ticket_id": ticket.ticket_id,
            "prompt_index": ticket.prompt_index,
            "prompt_tokens": 10 + ticket.prompt_index % 7,
            "prefill_tokens": 10 + ticket.prompt_index % 7,
            "lengths": lengths,
            "truncated": lengths >= 128,
            "rewards": (rng.random(size) < 0.5).astype(float),
            "status": np.zeros(size, dtype=np.int64),
            "surprise": lengths * rng.uniform(0.1, 0.4, size),
            "engine_seconds": 1.0,
            "version": 0,
        }
        return LengthReport(**(fields | changes))  # type: ignore[arg-type]

    return build


@pytest.fixture
def empty_report() -> Callable[[Ticket], LengthReport]:
    """The report of a ticket that failed all its retries."""

    def build(ticket: Ticket) -> LengthReport:
        nothing = np.zeros(0)
        return LengthReport(
            ticket_id=ticket.ticket_id, prompt_index=ticket.prompt_index, prompt_tokens=10,
            prefill_tokens=0, lengths=nothing.astype(int), truncated=nothing.astype(bool),
            rewards=nothing, status=nothing.astype(int), surprise=nothing,
            engine_seconds=0.0, version=0,
        )  # fmt: skip

    return build


@pytest.fixture
def pool() -> PromptPool:
    return prompt_pool(np.array([10, 20, 30, 40]), ["a", "b", "a", "b"], max_tokens=100)


@pytest.fixture
def make_visit() -> Callable[..., Visit]:
    def build(
        prompt_index: int,
        lengths: list[int],
        rewards: list[float] | None = None,
        weight: float = 1.0,
        surprise: list[float] | None = None,
        length_exponent: float = 0.0,
    ) -> Visit:
        size = len(lengths)
        scores = np.array(rewards if rewards is not None else [0.0] * size)
        report = LengthReport(
            ticket_id=0, prompt_index=prompt_index, prompt_tokens=10, prefill_tokens=10,
            lengths=np.array(lengths), truncated=np.zeros(size, dtype=bool), rewards=scores,
            status=np.where(np.isnan(scores), 2, 0),
            surprise=np.array(surprise if surprise is not None else [1.0] * size),
            engine_seconds=1.0, version=0,
        )  # fmt: skip
        ok = usable(report)
        advantages = GroupStandardised(epsilon=0.0).advantages(report.rewards, ok)
        return Visit(report, weight, ok, advantages, length_exponent)

    return build
