"""Builders of the records that cost tests pass around."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from cost.advantages.types import GroupBatch, group_batch
from cost.advantages.within_group import GroupStandardised
from cost.aggregations import SequenceMean
from cost.draws.allocators.square_root import SquareRoot
from cost.prices.tokens import TokenPrice
from cost.prompts import PromptPool, Visit, prompt_pool
from cost.scheduler.config import SchedulerConfig
from cost.scheduler.scheduler import Scheduler
from cost.thinning.proxies import SurpriseProxy
from cost.thinning.thinning import CostAware
from cost.types import LengthReport, Ticket
from cost.worth.lengths import PoolShrunkLength
from cost.worth.utilities import GroupSurprise


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
        **changes: object,
    ) -> Scheduler:
        return Scheduler(
            make_config(**changes),
            10 + np.arange(num_prompts) % 7,
            [f"source{index % 3}" for index in range(num_prompts)],
            max_tokens=128,
            seed=seed,
            max_staleness=max_staleness,
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
            "answer_codes": np.arange(size),
            "engine_seconds": 1.0,
            "version": 0,
            "attempt": ticket.attempt,
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
            answer_codes=nothing.astype(int), engine_seconds=0.0, version=0,
            attempt=ticket.attempt,
        )  # fmt: skip

    return build


@pytest.fixture
def make_groups() -> Callable[..., GroupBatch]:
    """Lay groups of rewards end to end; NaN is not usable."""

    def build(
        *rewards: Sequence[float],
        lengths: Sequence[int] | None = None,
        answers: Sequence[int] | None = None,
        prompts: Sequence[int] | None = None,
        folded: Sequence[bool] | None = None,
        max_tokens: int = 100,
        entropy_changes: Sequence[float] | None = None,
    ) -> GroupBatch:
        flat = np.concatenate([np.zeros(0), *rewards])
        codes = np.concatenate([np.zeros(0, int), *(np.arange(len(group)) for group in rewards)])
        return GroupBatch(
            rewards=flat,
            usable=~np.isnan(flat),
            lengths=np.ones(len(flat), int) if lengths is None else np.array(lengths),
            answer_codes=codes if answers is None else np.array(answers),
            sizes=np.array([len(group) for group in rewards], dtype=int),
            prompt_indices=np.arange(len(rewards)) if prompts is None else np.array(prompts),
            folded=np.zeros(len(rewards), bool) if folded is None else np.array(folded),
            max_tokens=max_tokens,
            entropy_changes=None if entropy_changes is None else np.array(entropy_changes),
        )

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
        factors: list[float] | None = None,
    ) -> Visit:
        size = len(lengths)
        scores = np.array(rewards if rewards is not None else [0.0] * size)
        report = LengthReport(
            ticket_id=0, prompt_index=prompt_index, prompt_tokens=10, prefill_tokens=10,
            lengths=np.array(lengths), truncated=np.zeros(size, dtype=bool), rewards=scores,
            status=np.where(np.isnan(scores), 2, 0),
            surprise=np.array(surprise if surprise is not None else [1.0] * size),
            answer_codes=np.arange(size), engine_seconds=1.0, version=0,
        )  # fmt: skip
        advantages = GroupStandardised(epsilon=0.0).advantages(group_batch([report], 100))
        return Visit(report, weight, report.usable, advantages, np.array(factors or [1.0] * size))

    return build
