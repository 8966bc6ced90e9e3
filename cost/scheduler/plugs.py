"""The scheduler's plugs bound to what they have learned: one typed record, one verb a use.

SchedulerConfig, PromptPool -> Plugs.of -> Plugs -> snapshot, advantages, factors, scores, ...
visits of a folded batch    -> Plugs.folded -> Plugs
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cost.advantages.types import Advantage, GroupBatch
from cost.aggregations import Aggregation
from cost.draws.allocators.types import (
    Allocator,
    BatchSoFar,
    Complete,
    Estimates,
    Round,
    Snapshot,
)
from cost.prices.types import FittedPrice, Price, ScoresOwnTokens, SharesPrompts
from cost.prompts import PromptPool, TurnsTaken, Visit
from cost.scheduler.answers import checked_allocation, checked_factors, checked_thinning, numbers
from cost.scheduler.charges import drawing_turns, generating_cost
from cost.scheduler.config import PROTOCOLS, SchedulerConfig
from cost.state import from_plain, initial_state, keywords, to_plain, updated
from cost.thinning import calibration
from cost.thinning.calibration import CalibrationState
from cost.thinning.clipping import Clipping
from cost.thinning.proxies import FittedProxy, Proxy
from cost.thinning.thinning import Candidates, SpendingRule, Thinning, ThinningRule
from cost.types import BatchSpending, BoolArray, FloatArray, IntArray, LengthReport, Selection
from cost.worth.lengths import LengthEstimator
from cost.worth.pass_rates import PassRates
from cost.worth.turns import TurnCounts
from cost.worth.utilities import Utility

TURNS = TurnCounts()


@dataclass(frozen=True, slots=True)
class CalibrationInputs:
    """What a calibration fits measured gradient norms to: the M responses of a selected batch."""

    advantages: FloatArray
    """[M] from the full groups."""
    lengths: IntArray
    """[M] tokens."""
    surprise: FloatArray
    """[M]"""
    factors: FloatArray
    """[M] aggregation factors, tokens^-1."""

    @classmethod
    def of(
        cls, reports: Sequence[LengthReport], selections: Sequence[Selection]
    ) -> "CalibrationInputs":
        """Lay the responses of groups end to end; the sequences are aligned."""
        none = np.zeros(0)
        return cls(
            advantages=np.concatenate([none, *(selection.advantages for selection in selections)]),
            lengths=np.concatenate([none.astype(int), *(report.own_lengths for report in reports)]),
            surprise=np.concatenate([none, *(report.surprise for report in reports)]),
            factors=np.concatenate([none, *(selection.factors for selection in selections)]),
        )


@dataclass(frozen=True, slots=True)
class Plugs:
    """Every plug of the scheduler, with the state of those that learn."""

    length: LengthEstimator
    price: Price
    utility: Utility
    allocator: Allocator
    thinning: ThinningRule
    proxy: Proxy
    advantage: Advantage
    aggregation: Aggregation
    pass_rates: PassRates
    calibrated_proxy: bool
    """Whether the proxy takes its exponents from the calibrations."""
    clipping: Clipping | None
    """What holds single responses back, if anything does."""
    states: Mapping[str, Any]
    """What each has learned, by the name of its field above, None for one that does not learn; and
    the calibrations' sums under "calibration"."""

    @classmethod
    def of(cls, config: SchedulerConfig, prompts: PromptPool) -> "Plugs":
        """Bind the configured plugs to their states before the first visit."""
        chosen = {name: getattr(config, name) for name in PROTOCOLS}
        pass_rates = PassRates(config.pass_rate_decay, config.pass_rate_prior_responses)
        states = {name: initial_state(plug, prompts) for name, plug in chosen.items()}
        states["pass_rates"] = pass_rates.initial_state(prompts)
        states["calibration"] = CalibrationState()
        states["turns"] = TURNS.initial_state(prompts)
        return cls(
            **chosen,
            pass_rates=pass_rates,
            calibrated_proxy=config.calibrated_proxy,
            clipping=config.clipping,
            states=states,
        )

    def _with(self, **states: Any) -> "Plugs":
        return replace(self, states={**self.states, **states})

    def _state(self, name: str) -> dict[str, Any]:
        return keywords(self.states[name])

    def folded(self, prompts: PromptPool, visits: Sequence[Visit]) -> "Plugs":
        """Return the plugs after one batch's visits, at least one, in ticket order."""
        learned = {
            name: updated(getattr(self, name), self.states[name], prompts, visits)
            for name in PROTOCOLS
        }
        rates = self.pass_rates.update(self.states["pass_rates"], prompts, visits)
        turns = TURNS.update(self.states["turns"], prompts, visits)
        return self._with(**learned, pass_rates=rates, turns=turns)

    def spent(self, spending: BatchSpending) -> "Plugs":
        """Return the plugs after what one batch took of the machines."""
        if not isinstance(self.price, FittedPrice):
            return self
        return self._with(price=self.price.update_spending(self.states["price"], spending))

    def calibrated(self, inputs: CalibrationInputs, norms: Sequence[FloatArray]) -> "Plugs":
        """Return the plugs after a calibration.

        Args:
            inputs: Of a batch's responses.
            norms: Norms of their scores, one array a group.

        Raises:
            ValueError: If the norms cannot be true.
        """
        state = calibration.updated(
            self.states["calibration"],
            np.concatenate([np.zeros(0), *norms]),
            inputs.advantages,
            inputs.lengths,
            inputs.surprise,
            inputs.factors,
        )
        return self._with(calibration=state)

    def calibration_metrics(self) -> dict[str, float]:
        """Return the exponents that the calibrations give."""
        return calibration.exponents(self.states["calibration"]).metrics()

    def lengths(self, prompts: PromptPool) -> FloatArray:
        """Return [N] expected response lengths, tokens."""
        return self.length.estimate(prompts, **self._state("length"))

    def snapshot(self, prompts: PromptPool, group_size: int, rng: np.random.Generator) -> Snapshot:
        """Estimate lengths, costs and utilities of all prompts and allocate draws to them; O(N)."""
        lengths = self.lengths(prompts)
        rates = self.pass_rates.estimate(self.states["pass_rates"], prompts)
        estimates = Estimates(
            lengths=lengths,
            costs=self._drawing_costs(prompts, lengths, group_size),
            pass_rates=rates,
            utilities=self.utility.value(prompts, rates, group_size, **self._state("utility")),
        )
        allocation = checked_allocation(
            self.allocator.allocate(estimates, self.states["allocator"]), prompts.num_prompts
        )
        return Snapshot(estimates, allocation, self.allocator.prepare(allocation, rng))

    def _drawing_costs(
        self, prompts: PromptPool, lengths: FloatArray, group_size: int
    ) -> FloatArray:
        """Return [N] expected costs of a response, those of its turns included."""
        costs = self.price.of_drawing(
            prompts.prompt_tokens, lengths, group_size, **self._state("price")
        )
        turns = TURNS.estimate(self.states["turns"], prompts)
        return costs + drawing_turns(self.price, self._state("price"), prompts, lengths, turns)

    def next_round(
        self, so_far: BatchSoFar, snapshot: Snapshot, rng: np.random.Generator
    ) -> tuple[Round | Complete, "Plugs"]:
        """Ask the allocator what to draw next for a batch."""
        answer, state = self.allocator.next_round(so_far, snapshot, rng, self.states["allocator"])
        return answer, self._with(allocator=state)

    def advantages(self, groups: GroupBatch) -> FloatArray:
        """Return [R] advantages of all responses of a batch."""
        found = self.advantage.advantages(groups, **self._state("advantage"))
        return numbers("scheduler.advantage: advantages", found, len(groups.rewards))

    def factors(
        self, lengths: Sequence[IntArray], usable: Sequence[BoolArray], earlier_tokens: float
    ) -> list[FloatArray]:
        """Return the aggregation factors [n] of every group of a batch."""
        found = self.aggregation.factors(
            lengths, usable, earlier_tokens, **self._state("aggregation")
        )
        return checked_factors(found, [len(group) for group in lengths])

    def scores(
        self,
        advantages: FloatArray,
        lengths: IntArray,
        surprise: FloatArray,
        factors: FloatArray,
        ticket_weights: FloatArray,
    ) -> FloatArray:
        """Return [M] guesses of gradient norms, by fitted exponents where so configured."""
        found = self._proxy_in_use().score(
            advantages, lengths, surprise, factors, ticket_weights, **self._state("proxy")
        )
        return numbers("scheduler.proxy: scores", found, len(advantages), signed=False)

    def _proxy_in_use(self) -> Proxy:
        state = self.states["calibration"]
        if not self.calibrated_proxy or state.num_responses == 0:
            return self.proxy
        assert isinstance(self.proxy, FittedProxy), "SchedulerConfig refuses others"
        fitted = calibration.exponents(state)
        return self.proxy.with_exponents(
            fitted.advantage_exponent, fitted.surprise_exponent, fitted.length_exponent
        )

    def training_costs(
        self, prompt_tokens: IntArray, lengths: IntArray, environment_tokens: IntArray
    ) -> FloatArray:
        """Return [M] costs of training on responses, of whose lengths environments wrote a part."""
        costs = self.price.of_training(prompt_tokens, lengths, **self._state("price"))
        if isinstance(self.price, ScoresOwnTokens):
            costs = costs - self.price.of_unscored(environment_tokens)
        return costs

    def prompt_costs(self, prompt_tokens: IntArray) -> FloatArray | None:
        """Return [M], of training costs, what a group's responses pay together; None for nothing.

        It is the same for responses of one group.
        """
        if not isinstance(self.price, SharesPrompts):
            return None
        costs = self.price.of_prompt(prompt_tokens, **self._state("price"))
        return costs if costs.any() else None

    def generating_cost(
        self, groups: GroupBatch, prompt_tokens: IntArray, turns: TurnsTaken | None = None
    ) -> float:
        """Return what generating a batch's responses cost; 0 where the price does not say.

        Args:
            groups: The batch.
            prompt_tokens: [R] of each response.
            turns: What their turns took, [R]; None where each had one.
        """
        return generating_cost(self.price, self._state("price"), groups, prompt_tokens, turns)

    def entered(self) -> "Plugs":
        """Return the plugs at the start of a new batch; see `SpendingRule.entered`."""
        rule = self.thinning
        if not isinstance(rule, SpendingRule):
            return self
        return self._with(thinning=rule.entered(self.states["thinning"]))

    def thinned(self, candidates: Candidates, thinning: Thinning) -> "Plugs":
        """Return the plugs after the first pass over a batch; see `SpendingRule.thinned`."""
        rule = self.thinning
        if not isinstance(rule, SpendingRule):
            return self
        return self._with(thinning=rule.thinned(self.states["thinning"], candidates, thinning))

    def thin(self, candidates: Candidates, rng: np.random.Generator) -> Thinning:
        """Draw the responses to train on."""
        found = self.thinning.thin(candidates, rng, **self._state("thinning"))
        return checked_thinning(found, len(candidates.scores))

    def price_metrics(self) -> dict[str, float]:
        """Return what a fitted price has found; nothing of another."""
        if not isinstance(self.price, FittedPrice):
            return {}
        return self.price.metrics(self.states["price"])

    def state_dict(self) -> dict[str, Any]:
        """Return the states as dicts of arrays and numbers."""
        return {name: to_plain(state) for name, state in self.states.items()}

    def loaded(self, state: Mapping[str, Any]) -> "Plugs":
        """Return the plugs with the states of `state_dict`.

        Raises:
            ValueError: If they are of other plugs.
        """
        return self._with(
            **{name: from_plain(own, state[name]) for name, own in self.states.items()}
        )
