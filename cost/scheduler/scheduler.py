"""The scheduler: decides which prompts to draw, and which finished responses to train on.

    draw -> tickets -> (rollout) -> observe            any order, any time
                                 -> select             per batch, in draw order
                                 -> spend              per batch, when learned
                                 -> observe_entropy    per batch, when learned, if controlled
    draw(batch, folded_batches) folds observed reports, batch by batch in ticket order, into every
    plug's state first

One owner of all statistics and random streams. Whatever order reports arrive in, the same calls of
`draw` and `select` give the same tickets and selections: reports wait until a batch boundary and
are folded by ticket id, and streams are derived from the seed and ticket ids.

Exploring tickets (cost/draws/entropy_control.py) are the last of their batch, made when its other
members are known. They cost what they cost; nothing else is learned from their reports, and the
other tickets are drawn and selected as they would be without them.

The mean length that a constant divisor uses moves only when a new batch is selected, after that
batch's factors are fixed, so no batch's divisor depends on the batch itself.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from cost.advantages.types import group_batch
from cost.draws.allocators.types import BatchSoFar, Complete, Round, Snapshot
from cost.draws.distribution import DrawDistribution, take_snapshot
from cost.draws.streams import generator_for
from cost.ledger import Ledger
from cost.prompts import Visit, prompt_pool
from cost.scheduler.batches import Batches
from cost.scheduler.config import SchedulerConfig
from cost.scheduler.penalties import lowered
from cost.scheduler.reports import checked, checked_norms, usable
from cost.scheduler.savings import draw_saving, floored_share
from cost.scheduler.selection import (
    batch_advantages,
    select_batch,
    select_exploring,
    uniform_reward_mean,
)
from cost.scheduler.spending import Spendings
from cost.scheduler.ticket_book import TicketBook
from cost.state import from_plain, initial_state, to_plain, updated, with_state
from cost.thinning import calibration
from cost.thinning.proxies import Proxy
from cost.types import Draw, FloatArray, IntArray, LengthReport, Selection, Ticket
from cost.worth.pass_rates import PassRates

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
        *,
        max_staleness: int = 0,
    ) -> None:
        """Start with no visit.

        Args:
            config: Plugs and numbers.
            prompt_tokens: [N] int, length of each prompt, at least 1.
            sources: N names of data sets or generators.
            max_tokens: Largest number of tokens in one response, at least 1.
            seed: The run's seed.
            max_staleness: Versions a group may be behind when learned, not negative.

        Raises:
            ValueError: If there is no prompt or a number is out of range.
        """
        self._config = config
        self._seed = seed
        self._max_staleness = max_staleness
        self._prompts = prompt_pool(prompt_tokens, sources, max_tokens)
        self._pass_rates = PassRates(config.pass_rate_decay, config.pass_rate_prior_responses)
        self._book = TicketBook()
        self._batches = Batches()
        self._spendings = Spendings()
        self._ledger = Ledger()
        self._states = {name: initial_state(getattr(config, name), self._prompts) for name in PLUGS}
        self._states["pass_rates"] = self._pass_rates.initial_state(self._prompts)
        self._states["calibration"] = calibration.CalibrationState()
        self._folded_batches = 0
        self._selected_batch = -1
        # Sum of weighted tokens and of weights: of the batches before the present one, and with it.
        self._earlier = (0.0, 0.0)
        self._earlier_next = (0.0, 0.0)
        self._fold_metrics: dict[str, float] = {}
        self._batch_metrics: dict[str, float] = {}
        self._snapshot: Snapshot | None = None
        self._draw_saving = 0.0
        # Nats per token: of learned batches not folded yet, and of the last that was folded.
        self._entropies: dict[int, float] = {}
        self._entropy = math.nan
        self._exploring_factor = 1.0

    @property
    def next_ticket_id(self) -> int:
        """Id of the next ticket to be drawn; also the number of tickets drawn so far."""
        return self._book.next_ticket_id

    def draw(self, batch: int, folded_batches: int) -> Draw:
        """Draw one round of a batch's tickets from what is known of earlier batches.

        Args:
            batch: Number of the batch, from 0; the one after the last complete one, or the one
                whose rounds are not over.
            folded_batches: Reports of the first so many batches are folded first; the caller picks
                it by the staleness it allows, never by what happens to have arrived.

        Raises:
            ValueError: If a ticket that is needed has not been observed, or a gradient norm asked
                for was not given; nothing has changed then.
        """
        missing = self.awaited(batch, folded_batches)
        if missing:
            raise ValueError(
                f"batch {batch} must not be drawn before {len(missing)} tickets are reported: "
                f"{missing[:10]!r}"
            )
        if self._batches.drawn or batch != self._batches.batch:
            end = self._batches.end_of(folded_batches)
            self._batches.open(batch, self._book.next_ticket_id)
            self._fold(folded_batches, end)
        return self._next_round()

    def awaited(self, batch: int, folded_batches: int) -> list[int]:
        """Return the tickets whose reports the next round of a batch needs and has not.

        Raises:
            ValueError: If that batch, or a batch to fold, is not there.
        """
        if not self._batches.drawn and batch == self._batches.batch:
            return self._book.missing(self._book.next_ticket_id, self._batches.first_ticket)
        return self._book.missing(self._batches.end_of(folded_batches))

    def observe(self, report: LengthReport) -> None:
        """Take in the report of a finished ticket; a repeated one is ignored.

        Raises:
            ValueError: If the ticket is unknown, the contents cannot be true, or differ from an
                earlier report for the same ticket.
        """
        recorded = self._book.record(report)
        if recorded is not None:
            ticket = self._book.ticket(report.ticket_id)
            self._ledger = self._ledger.with_report(
                recorded, trainable=ticket.trainable, exploring=ticket.exploring
            )

    def observe_gradient_norms(self, norms: Mapping[int, FloatArray]) -> None:
        """Take in what a round with `gradient_norms` asked for.

        Args:
            norms: By ticket id, [n] norm of each response's summed score, finite, not negative.

        Raises:
            ValueError: If a ticket is unknown or its norms cannot be true.
        """
        for ticket_id, values in norms.items():
            ticket = self._book.ticket(ticket_id)
            self._batches.gradient_norms[ticket_id] = checked_norms(values, ticket)

    def select(
        self,
        batch: int,
        reports: Sequence[LengthReport],
        epoch: int = 0,
        progress: float = 0.0,
        penalties: Sequence[FloatArray] | None = None,
    ) -> list[Selection]:
        """Choose what to train on from one batch of finished tickets.

        Args:
            batch: Number of the batch, complete.
            reports: Those of its members in draw order, empty groups included. Those not observed
                yet are.
            epoch: Passes the learner made over this batch before; each thins anew.
            progress: Share of the run that is over before this batch, in [0, 1], for schedules.
            penalties: [n] of each report but the exploring ones, taken off its rewards for the
                advantages alone; see `cost.scheduler.penalties`.

        Returns:
            One selection a report, in the same order.

        Raises:
            ValueError: If the reports are not those of the batch in ticket order, the batch is not
                there any more, reports cannot be true or progress is out of range.
        """
        if not 0 <= progress <= 1:
            raise ValueError(f"progress must lie in [0, 1], got {progress!r}")
        ids = tuple(report.ticket_id for report in reports)
        if batch < self._selected_batch or batch not in self._batches.members:
            raise ValueError(
                f"batch must be complete and not before {max(self._selected_batch, 0)}, the last "
                f"one selected, got {batch!r}"
            )
        if ids != self._batches.members[batch]:
            raise ValueError(
                f"reports must be in ticket order, those of batch {batch} and no other: "
                f"{list(self._batches.members[batch])!r}, got {list(ids)!r}"
            )
        for report in reports:
            self.observe(report)
        tickets = [self._book.ticket(ticket_id) for ticket_id in ids]
        reports = [checked(report, ticket) for report, ticket in zip(reports, tickets, strict=True)]
        # Exploring tickets are the last of a batch.
        num_plain = sum(not ticket.exploring for ticket in tickets)
        plain, plain_reports = tickets[:num_plain], reports[:num_plain]
        if batch > self._selected_batch:
            self._enter_batch(batch, plain, plain_reports)
        if not reports:
            return []
        rng = generator_for(self._seed, "thinning", self._book.plain_before(ids[0]), epoch)
        selections, self._batch_metrics = select_batch(
            self._config,
            self._proxy(),
            self._states,
            plain,
            lowered(plain_reports, penalties),
            folded=np.array(ids[:num_plain]) < self._book.taken_until,
            earlier_tokens=self._earlier_tokens,
            progress=progress,
            rng=rng,
        )
        if penalties is not None:
            self._batch_metrics["cost/reward_mean_uniform"] = uniform_reward_mean(
                plain, plain_reports
            )
        self._ledger = self._ledger.with_selection(
            plain_reports,
            selections,
            first_pass=epoch == 0,
            draw_saving=self._batches.draw_savings[batch],
            thinning_saving=self._batch_metrics.get("cost/thinning_saving_estimated", 0.0),
        )
        exploring = select_exploring(
            self._config,
            self._states,
            tickets[num_plain:],
            reports[num_plain:],
            num_groups=num_plain,
            earlier_tokens=self._earlier_tokens,
        )
        # Neither draws nor thinning save any of these.
        self._ledger = self._ledger.with_selection(
            reports[num_plain:], exploring, first_pass=epoch == 0
        )
        self._spendings.trained(batch, reports, [*selections, *exploring])
        return [*selections, *exploring]

    def calibrate(
        self,
        reports: Sequence[LengthReport],
        selections: Sequence[Selection],
        norms: Sequence[FloatArray],
    ) -> None:
        """Fit the proxy's exponents to measured gradient norms; later batches may use them.

        Args:
            reports: Those of a selected batch, without exploring ones.
            selections: Its selections, aligned.
            norms: [n] norm of each response's summed score, aligned.

        Raises:
            ValueError: If the norms cannot be true.
        """
        state = calibration.updated(
            self._states["calibration"],
            np.concatenate([np.zeros(0), *norms]),
            np.concatenate([np.zeros(0), *(selection.advantages for selection in selections)]),
            np.concatenate([np.zeros(0, int), *(report.lengths for report in reports)]),
            np.concatenate([np.zeros(0), *(report.surprise for report in reports)]),
            np.concatenate([np.zeros(0), *(selection.factors for selection in selections)]),
        )
        self._states["calibration"] = state

    def spend(self, batch: int, engine_seconds: float, learner_seconds: float) -> None:
        """Take in the seconds that a learned batch took; to be told before it is folded.

        Args:
            batch: Number of the batch.
            engine_seconds: Seconds with a ticket in generation, times the engines' accelerators.
            learner_seconds: Seconds of updating, times the number of learners.

        Raises:
            ValueError: If seconds are negative or not finite, or the batch was folded.
        """
        if batch < self._folded_batches or batch not in self._batches.ranges:
            raise ValueError(f"batch must be complete and not folded yet, got {batch!r}")
        reports = self._book.reports(*self._batches.ranges[batch])
        spending = self._spendings.enter(batch, reports, engine_seconds, learner_seconds)
        self._ledger = self._ledger.with_spending(spending)

    def observe_entropy(self, batch: int, entropy: float) -> None:
        """Take in the policy's entropy at a learned batch; to be told before it is folded.

        Args:
            batch: Number of the batch.
            entropy: Mean over the tokens learned from, nats, exploring ones left out; where there
                was none, so that it is not finite, the one before holds on.

        Raises:
            ValueError: If the batch was folded.
        """
        if batch < self._folded_batches or batch not in self._batches.ranges:
            raise ValueError(f"batch must be complete and not folded yet, got {batch!r}")
        if math.isfinite(entropy):
            self._entropies[batch] = float(entropy)

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
        return DrawDistribution.of(self._current())

    def metrics(self) -> dict[str, float]:
        """Return the metrics of `cost.ledger.METRICS`."""
        distribution = self.distribution()
        price = self._config.price
        return (
            self._ledger.metrics(self._config.accelerator_hour_price)
            | self._fold_metrics
            | self._batch_metrics
            | self._calibration_metrics()
            | (price.metrics(self._states["price"]) if hasattr(price, "metrics") else {})
            | self._exploring_metrics()
            | {
                "cost/draw_saving_estimated": self._draw_saving,
                "cost/draw_floored_share": floored_share(distribution.probabilities),
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
            "batches": self._batches.state_dict(),
            "spendings": self._spendings.state_dict(),
            "ledger": self._ledger.state_dict(),
            "folded_batches": self._folded_batches,
            "selected_batch": self._selected_batch,
            "earlier": list(self._earlier),
            "earlier_next": list(self._earlier_next),
            "fold_metrics": dict(self._fold_metrics),
            "batch_metrics": dict(self._batch_metrics),
            "entropies": {str(batch): entropy for batch, entropy in self._entropies.items()},
            "entropy": self._entropy,
            "exploring_factor": self._exploring_factor,
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
        self._batches.load_state_dict(state["batches"])
        self._spendings.load_state_dict(state["spendings"])
        self._ledger = Ledger(**state["ledger"])
        self._folded_batches = state["folded_batches"]
        self._selected_batch = state["selected_batch"]
        self._earlier = tuple(state["earlier"])
        self._earlier_next = tuple(state["earlier_next"])
        self._fold_metrics = dict(state["fold_metrics"])
        self._batch_metrics = dict(state["batch_metrics"])
        self._entropies = {int(batch): entropy for batch, entropy in state["entropies"].items()}
        self._entropy = state["entropy"]
        self._exploring_factor = state["exploring_factor"]
        self._snapshot = None

    @property
    def _earlier_tokens(self) -> float:
        total, weight = self._earlier
        return total / weight if total > 0 else float(self._prompts.max_tokens)

    def _calibration_metrics(self) -> dict[str, float]:
        if not self._config.calibrate_every:
            return {}
        return calibration.exponents(self._states["calibration"]).metrics()

    def _exploring_metrics(self) -> dict[str, float]:
        if self._config.entropy_control is None:
            return {}
        return {"cost/exploring_temperature_factor": self._exploring_factor}

    def _proxy(self) -> Proxy:
        """Return the proxy, with the exponents fitted so far where configured."""
        proxy: Proxy = self._config.proxy
        state = self._states["calibration"]
        if not self._config.calibrated_proxy or state.num_responses == 0:
            return proxy
        fitted = calibration.exponents(state)
        changed: Proxy = self._config.proxy.with_exponents(
            fitted.advantage_exponent, fitted.surprise_exponent, fitted.length_exponent
        )
        return changed

    def _next_round(self) -> Draw:
        """Ask the allocator for the next round of the open batch, and issue its tickets."""
        so_far = self._so_far()
        lacking = [key for key in self._batches.norms_of if key not in so_far.gradient_norms]
        if lacking:
            raise ValueError(
                f"gradient norms must be given before the next round, of tickets {lacking[:10]!r}"
            )
        # With the batch: after a round that only completes, no ticket was added.
        number = self._book.plain_before(self._book.next_ticket_id)
        rng = generator_for(self._seed, "draws", self._batches.batch, number)
        answer, self._states["allocator"] = self._config.allocator.next_round(
            so_far, self._current(), rng, self._states["allocator"]
        )
        if isinstance(answer, Complete):
            self._complete(answer)
            tickets = []
        else:
            tickets = self._issue(answer)
        batch = self._batches
        if batch.drawn:
            tickets = [*tickets, *self._explore()]
        return Draw(
            tickets=tickets,
            members=batch.members[batch.batch] if batch.drawn else None,
            carried=tuple(ticket.ticket_id for ticket, _ in batch.carried),
            gradient_norms=bool(batch.norms_of),
        )

    def _so_far(self) -> BatchSoFar:
        first, end = self._batches.first_ticket, self._book.next_ticket_id
        return BatchSoFar(
            num_groups=self._config.tickets_per_step,
            group_size=self._config.group_size,
            tickets=[self._book.ticket(key) for key in range(first, end)],
            reports=self._book.reports(first, end),
            gradient_norms=self._batches.gradient_norms,
            carried=tuple(ticket.ticket_id for ticket, _ in self._batches.carried),
        )

    def _issue(self, drawn: Round) -> list[Ticket]:
        first = self._book.next_ticket_id
        assert len(drawn.indices) > 0 or drawn.final, "a round without tickets must be final"
        assert drawn.trainable or not drawn.final, "a final round must not be of pilots"
        columns = (drawn.indices, drawn.group_sizes, drawn.probabilities, drawn.weights)
        tickets = [
            Ticket(
                ticket_id=ticket_id,
                prompt_index=index,
                num_samples=size,
                probability=probability,
                weight=weight,
                max_tokens=self._prompts.max_tokens,
                trainable=drawn.trainable,
            )
            for ticket_id, (index, size, probability, weight) in enumerate(
                zip(*(column.tolist() for column in columns), strict=True), first
            )
        ]
        self._book.issue(tickets)
        ids = tuple(ticket.ticket_id for ticket in tickets)
        self._batches.norms_of = ids if drawn.gradient_norms else ()
        if drawn.final:
            members = [*self._batches.carried, *((ticket, None) for ticket in tickets)]
            end = self._book.next_ticket_id
            earlier = self._book.reports(self._batches.first_ticket, first)
            left_out = [r for r in earlier if self._book.ticket(r.ticket_id).trainable]
            self._ledger = self._ledger.with_filtered(left_out)
            self._batches.complete(
                members, end, len(members), self._max_staleness, self._draw_saving
            )
        return tickets

    def _explore(self) -> list[Ticket]:
        """Issue the exploring tickets of the batch just completed: some of its own once more."""
        control, batch = self._config.entropy_control, self._batches.batch
        members = self._batches.members[batch]
        self._exploring_factor = 1.0
        if control is None or math.isnan(self._entropy) or not members:
            return []
        self._exploring_factor = control.temperature_factor(self._entropy)
        rng = generator_for(self._seed, "exploring", batch)
        size = control.num_tickets(len(members))
        chosen = np.sort(rng.choice(members, size, replace=False)).tolist()
        tickets = [
            replace(
                self._book.ticket(ticket_id),
                ticket_id=new_id,
                temperature_factor=self._exploring_factor,
            )
            for new_id, ticket_id in enumerate(chosen, self._book.next_ticket_id)
        ]
        self._book.issue(tickets)
        self._batches.explore([ticket.ticket_id for ticket in tickets])
        return tickets

    def _complete(self, answer: Complete) -> None:
        """End the open batch with the tickets its allocator accepted."""
        before = self._batches.carried
        first, end = self._batches.first_ticket, self._book.next_ticket_id
        known = {ticket.ticket_id: (ticket, report) for ticket, report in before}
        for report in self._book.reports(first, end):
            known[report.ticket_id] = (self._book.ticket(report.ticket_id), report)
        accepted = [known[ticket_id] for ticket_id in answer.accepted]
        assert all(ticket.trainable for ticket, _ in accepted), "pilots are never trained on"
        assert list(answer.accepted) == sorted({*answer.accepted}), "accepted must be in draw order"
        self._batches.complete(
            accepted,
            end,
            self._config.tickets_per_step,
            self._max_staleness,
            self._draw_saving,
        )
        used = {*self._batches.members[self._batches.batch]}
        used |= {ticket.ticket_id for ticket, _ in self._batches.carried}
        left_out = [r for t, r in known.values() if t.trainable and t.ticket_id not in used]
        self._ledger = self._ledger.with_filtered(left_out)

    def _fold(self, folded_batches: int, end: int) -> None:
        """Fold the reports of all tickets of some batches into every state, in ticket order.

        Batch by batch, so that a plug which moves once a batch sees the same whatever the caller's
        steps.
        """
        visits: Sequence[Visit] = ()
        for batch in range(self._folded_batches, folded_batches):
            before = self._states["length"]
            now = self._fold_batch(batch, min(self._batches.end_of(batch + 1), end))
            if now:
                visits, believed = now, before
        # Of the last batch alone: an estimate takes O(N).
        if visits:
            self._fold_metrics = self._length_error(visits, believed)
        self._folded_batches = max(self._folded_batches, folded_batches)
        self._batches.release(self._folded_batches, self._selected_batch)

    def _fold_batch(self, batch: int, end: int) -> list[Visit]:
        visits = self._visits(
            [
                (ticket, report)
                for ticket, report in self._book.take(end)
                if report.num_responses > 0 and not ticket.exploring
            ]
        )
        spending = self._spendings.take(batch)
        self._entropy = self._entropies.pop(batch, self._entropy)
        # Before the states are copied: a snapshot is the largest thing there is.
        self._snapshot = None
        if visits:
            for name in PLUGS:
                plug = getattr(self._config, name)
                self._states[name] = updated(plug, self._states[name], self._prompts, visits)
            self._states["pass_rates"] = self._pass_rates.update(
                self._states["pass_rates"], self._prompts, visits
            )
        price = self._config.price
        if spending is not None and hasattr(price, "update_spending"):
            self._states["price"] = price.update_spending(self._states["price"], spending)
        return visits

    def _visits(self, finished: Sequence[tuple[Ticket, LengthReport]]) -> list[Visit]:
        """Derive what the reports of one batch's tickets teach, from what was known before."""
        if not finished:
            return []
        reports = [report for _, report in finished]
        usables = [usable(report) for report in reports]
        groups = group_batch(reports, self._prompts.max_tokens)
        advantages = batch_advantages(self._config, self._states, groups)
        # A divisor that stays: only ratios between prompts and visits matter.
        factors = with_state(self._config.aggregation.factors, self._states["aggregation"])(
            [report.lengths for report in reports], usables, earlier_tokens=1.0
        )
        return [
            Visit(report, ticket.weight, ok, own_advantages, own_factors)
            for (ticket, report), ok, own_advantages, own_factors in zip(
                finished,
                usables,
                np.split(advantages, np.cumsum(groups.sizes)[:-1]),
                factors,
                strict=True,
            )
        ]

    def _length_error(self, visits: Sequence[Visit], state: Any) -> dict[str, float]:
        """Compare what was seen with what a state of the length plug expected."""
        estimates = with_state(self._config.length.estimate, state)(self._prompts)
        seen = np.array([visit.report.lengths.mean() for visit in visits])
        expected = estimates[[visit.report.prompt_index for visit in visits]]
        error = float(np.abs(expected - seen).mean() / max(float(seen.mean()), 1.0))
        return {"cost/length_error_share": error}

    def _current(self) -> Snapshot:
        """Return the snapshot of probabilities, made anew after a fold."""
        if self._snapshot is None:
            self._snapshot = take_snapshot(
                self._config,
                self._states,
                self._pass_rates,
                self._prompts,
                generator_for(self._seed, "snapshot", self._folded_batches),
            )
            self._draw_saving = 0.0
            # Only weights that undo the draws leave the variance of uniform draws to compare with.
            if self._config.allocator.objective_preserving:
                now = DrawDistribution.of(self._snapshot)
                self._draw_saving = draw_saving(now.probabilities, now.costs, now.utilities)
        return self._snapshot

    def _enter_batch(
        self, batch: int, tickets: Sequence[Ticket], reports: Sequence[LengthReport]
    ) -> None:
        """Move on to a batch: what came before it is now earlier."""
        self._selected_batch = batch
        if tickets:
            self._book.release(tickets[0].ticket_id)
        self._earlier = self._earlier_next
        total, weight = (EARLIER_DECAY * value for value in self._earlier)
        for ticket, report in zip(tickets, reports, strict=True):
            total += ticket.weight * float(report.lengths.sum())
            weight += ticket.weight * report.num_responses
        self._earlier_next = (total, weight)
