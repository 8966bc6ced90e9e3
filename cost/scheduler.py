"""The scheduler: decides which prompts to draw, and which finished responses to train on.

    draw -> tickets -> (rollout) -> observe            any order, any time
                                 -> select             per batch, in draw order
    draw(folded_until) folds observed reports, in ticket order, into every plug's state first

One owner of all statistics and random streams. Whatever order reports arrive in, the same calls of
`draw` and `select` give the same tickets and selections: reports wait until a batch boundary and
are folded by ticket id, and streams are derived from the seed and ticket ids.

The mean length that a constant divisor uses moves only when a new batch is selected, after that
batch's factors are fixed, so no batch's divisor depends on the batch itself.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from cost.allocators import Allocation
from cost.config import SchedulerConfig
from cost.distribution import DrawDistribution, allocate_draws
from cost.ledger import Ledger
from cost.pass_rates import PassRates
from cost.prompts import Visit, prompt_pool
from cost.reports import checked, usable
from cost.selection import group_advantages, select_batch
from cost.state import from_plain, initial_state, to_plain, updated
from cost.streams import generator_for
from cost.ticket_book import TicketBook
from cost.types import IntArray, LengthReport, Selection, Ticket

PLUGS = ("length", "price", "utility", "allocator", "thinning", "proxy", "advantage", "aggregation")
EARLIER_DECAY = 0.9
"""What a batch counts in the mean length of earlier batches after one more batch."""


class Scheduler:
    """Pure core of the scheduler actor."""

    def __init__(
        self,
        config: SchedulerConfig,
        prompt_tokens: IntArray,
        sources: Sequence[str],
        max_tokens: int,
        seed: int,
    ) -> None:
        """Start with no visit.

        Args:
            config: Plugs and numbers.
            prompt_tokens: [N] int, length of each prompt, at least 1.
            sources: N names of data sets or generators.
            max_tokens: Largest number of tokens in one response, at least 1.
            seed: The run's seed.

        Raises:
            ValueError: If there is no prompt or a number is out of range.
        """
        self._config = config
        self._seed = seed
        self._prompts = prompt_pool(prompt_tokens, sources, max_tokens)
        self._pass_rates = PassRates(config.pass_rate_decay, config.pass_rate_prior_responses)
        self._book = TicketBook()
        self._ledger = Ledger()
        self._states = {name: initial_state(getattr(config, name), self._prompts) for name in PLUGS}
        self._states["pass_rates"] = self._pass_rates.initial_state(self._prompts)
        self._states["draws"] = config.allocator.draws.initial_state(self._prompts.num_prompts)
        self._batch_first = -1
        # Sum of weighted tokens and of weights: of the batches before the present one, and with it.
        self._earlier = (0.0, 0.0)
        self._earlier_next = (0.0, 0.0)
        self._fold_metrics: dict[str, float] = {}
        self._batch_metrics: dict[str, float] = {}
        self._snapshot: tuple[Allocation, DrawDistribution] | None = None

    @property
    def next_ticket_id(self) -> int:
        """Id of the next ticket to be drawn; also the number of tickets drawn so far."""
        return self._book.next_ticket_id

    def draw(self, num_tickets: int, folded_until: int) -> list[Ticket]:
        """Draw tickets from what is known of all tickets before `folded_until`.

        Args:
            num_tickets: How many, at least 1.
            folded_until: Reports of all tickets with a smaller id are folded first; the caller
                picks it by batch boundaries, never by what happens to have arrived.

        Raises:
            ValueError: If one of those tickets has not been observed; nothing has changed then.
        """
        if num_tickets < 1:
            raise ValueError(f"num_tickets must be positive, got {num_tickets!r}")
        self._fold(folded_until)
        allocation, _ = self._current()
        first = self._book.next_ticket_id
        indices, self._states["draws"] = self._config.allocator.draws.draw(
            self._states["draws"],
            allocation.probabilities,
            num_tickets,
            generator_for(self._seed, "draws", first),
        )
        tickets = [
            Ticket(
                ticket_id=first + offset,
                prompt_index=index,
                num_samples=int(allocation.group_sizes[index]),
                probability=float(allocation.probabilities[index]),
                weight=float(allocation.weights[index]),
                max_tokens=self._prompts.max_tokens,
            )
            for offset, index in enumerate(indices.tolist())
        ]
        self._book.issue(tickets)
        return tickets

    def observe(self, report: LengthReport) -> None:
        """Take in the report of a finished ticket; a repeated one is ignored.

        Raises:
            ValueError: If the ticket is unknown, the contents cannot be true, or differ from an
                earlier report for the same ticket.
        """
        recorded = self._book.record(report)
        if recorded is not None:
            self._ledger = self._ledger.with_report(recorded)

    def missing(self, until: int) -> list[int]:
        """Return the tickets before `until` that have not been observed."""
        return self._book.missing(until)

    def select(self, reports: Sequence[LengthReport], epoch: int = 0) -> list[Selection]:
        """Choose what to train on from one batch of finished tickets.

        Args:
            reports: The batch in draw order, empty groups included. Those not observed yet are.
            epoch: Passes the learner made over this batch before; each thins anew.

        Returns:
            One selection a report, in the same order.

        Raises:
            ValueError: If the reports are not in ticket order, go back behind the last batch, or
                cannot be true.
        """
        if not reports:
            return []
        ids = [report.ticket_id for report in reports]
        if any(later <= earlier for earlier, later in pairwise(ids)):
            raise ValueError(f"reports must be in ticket order, each once, got {ids!r}")
        if ids[0] < self._batch_first:
            raise ValueError(
                f"reports must not start before ticket {self._batch_first} of the last batch, "
                f"got {ids[0]!r}"
            )
        for report in reports:
            self.observe(report)
        tickets = [self._book.ticket(ticket_id) for ticket_id in ids]
        reports = [checked(report, ticket) for report, ticket in zip(reports, tickets, strict=True)]
        if ids[0] != self._batch_first:
            self._enter_batch(tickets, reports)
        rng = generator_for(self._seed, "thinning", ids[0], epoch)
        selections, self._batch_metrics = select_batch(
            self._config, self._states, tickets, reports, self._earlier_tokens, rng
        )
        self._ledger = self._ledger.with_selection(reports, selections)
        return selections

    def reissue(self, first_ticket_id: int) -> list[Ticket]:
        """Return all tickets from one on, to be run again after their groups were lost.

        They keep id, prompt, probability and weight; reports of the lost groups are forgotten,
        while the ledger keeps what they cost.

        Raises:
            ValueError: If one of them was folded into the statistics already.
        """
        return self._book.reopen(first_ticket_id)

    def add_prompts(self, prompt_tokens: IntArray, sources: Sequence[str]) -> None:
        """Append prompts to the task; present indices and statistics stay as they are."""
        self._prompts = self._prompts.extended(prompt_tokens, sources)
        self._snapshot = None

    def distribution(self) -> DrawDistribution:
        """Return the draw distribution that the next draw would use, nothing more folded."""
        return self._current()[1]

    def metrics(self) -> dict[str, float]:
        """Return the metrics of `cost.ledger.METRICS`."""
        distribution = self.distribution()
        return (
            self._ledger.metrics()
            | self._fold_metrics
            | self._batch_metrics
            | {
                "cost/total_variation": distribution.total_variation_from_uniform,
                "cost/expected_length_ratio": distribution.expected_length_ratio,
                "cost/earlier_tokens": self._earlier_tokens,
            }
        )

    def state_dict(self) -> dict[str, Any]:
        """Return everything learned so far as dicts of arrays and numbers."""
        return {
            "seed": self._seed,
            "num_prompts": self._prompts.num_prompts,
            "states": {name: to_plain(state) for name, state in self._states.items()},
            "book": self._book.state_dict(),
            "ledger": self._ledger.state_dict(),
            "batch_first": self._batch_first,
            "earlier": list(self._earlier),
            "earlier_next": list(self._earlier_next),
            "fold_metrics": dict(self._fold_metrics),
            "batch_metrics": dict(self._batch_metrics),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`.

        Raises:
            ValueError: If it is of another seed, number of prompts or set of plugs.
        """
        for key, own in (("seed", self._seed), ("num_prompts", self._prompts.num_prompts)):
            if state[key] != own:
                raise ValueError(f"state.{key} must be {own} as configured, got {state[key]!r}")
        self._states = {
            name: from_plain(template, state["states"][name])
            for name, template in self._states.items()
        }
        self._book.load_state_dict(state["book"])
        self._ledger = Ledger(**state["ledger"])
        self._batch_first = state["batch_first"]
        self._earlier = tuple(state["earlier"])
        self._earlier_next = tuple(state["earlier_next"])
        self._fold_metrics = dict(state["fold_metrics"])
        self._batch_metrics = dict(state["batch_metrics"])
        self._snapshot = None

    @property
    def _earlier_tokens(self) -> float:
        total, weight = self._earlier
        return total / weight if total > 0 else float(self._prompts.max_tokens)

    def _fold(self, until: int) -> None:
        """Fold the reports of all tickets before `until` into every state, in ticket order."""
        pairs = self._book.take(until)
        visits = [
            Visit(
                report=report,
                weight=ticket.weight,
                usable=usable(report),
                advantages=group_advantages(self._config, self._states, report),
                length_exponent=self._config.aggregation.length_exponent,
            )
            for ticket, report in pairs
            if report.num_responses > 0
        ]
        if not visits:
            return
        self._fold_metrics = self._length_error(visits)
        for name in PLUGS:
            plug = getattr(self._config, name)
            self._states[name] = updated(plug, self._states[name], self._prompts, visits)
        self._states["pass_rates"] = self._pass_rates.update(
            self._states["pass_rates"], self._prompts, visits
        )
        self._snapshot = None

    def _length_error(self, visits: Sequence[Visit]) -> dict[str, float]:
        estimates = self._current()[1].lengths
        seen = np.array([visit.report.lengths.mean() for visit in visits])
        expected = estimates[[visit.report.prompt_index for visit in visits]]
        error = float(np.abs(expected - seen).mean() / max(float(seen.mean()), 1.0))
        return {"cost/length_error_share": error}

    def _current(self) -> tuple[Allocation, DrawDistribution]:
        """Return the snapshot of probabilities, made anew after a fold."""
        if self._snapshot is None:
            self._snapshot = allocate_draws(
                self._config, self._states, self._pass_rates, self._prompts
            )
        return self._snapshot

    def _enter_batch(self, tickets: Sequence[Ticket], reports: Sequence[LengthReport]) -> None:
        """Move on to a batch: what came before it is now earlier."""
        self._batch_first = tickets[0].ticket_id
        self._book.release(self._batch_first)
        self._earlier = self._earlier_next
        total, weight = (EARLIER_DECAY * value for value in self._earlier)
        for ticket, report in zip(tickets, reports, strict=True):
            total += ticket.weight * float(report.lengths.sum())
            weight += ticket.weight * report.num_responses
        self._earlier_next = (total, weight)
