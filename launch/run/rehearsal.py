"""Two batches of made-up responses through the scheduler, where plugs in it are the user's.

What such a plug gets wrong ends a run before engines start, and not a minute later in an actor.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import numpy as np

from conf.schema import RunConfig
from conf.targets import ROOMS
from cost.scheduler.scheduler import Scheduler
from cost.types import BoolArray, Draw, Feedback, FloatArray, IntArray, LengthReport, Ticket
from launch.cli.refusals import UserError
from rollout.own_code import PROJECT
from rollout.raised import told
from rollout.tasks.features import feature_table
from rollout.types import Prompt

NUM_BATCHES = 2
"""The second is drawn from what the first taught."""
MOST_PROMPTS = 1000
"""Of the task that take part, however many it has."""
MOST_ROUNDS = 10
"""Rounds of a batch until a draw that asks for more is left at that."""


def rehearse(config: RunConfig, prompts: Sequence[Prompt]) -> None:
    """Draw, report, choose and learn with copies of the plugs.

    Args:
        config: Of the run.
        prompts: Those of its task.

    Raises:
        UserError: With what a plug raised, or returned against its contract.
    """
    try:
        rehearsal = _Rehearsal(config, prompts[:MOST_PROMPTS])
        for batch in range(NUM_BATCHES):
            if not rehearsal.learn(batch):
                return
    except Exception as error:
        if isinstance(error, ValueError) and str(error).startswith("scheduler."):
            raise UserError(str(error)) from error
        ours = (str(PROJECT / room) for room in ROOMS)
        raise UserError(
            "plugs of scheduler must take what they are given; on made-up responses one of yours "
            f"{told(error, *ours)}"
        ) from error


def made_up_report(
    ticket: Ticket,
    prompt_tokens: int,
    lengths: IntArray,
    right: BoolArray,
    rng: np.random.Generator,
) -> LengthReport:
    """Return what a group would report that nobody generated.

    Args:
        ticket: Which asks for n responses.
        prompt_tokens: Tokens of its prompt.
        lengths: [n] tokens of each response; those of the ticket's limit are cut off.
        right: [n] whether its reward is 1, and not 0; the right ones have the same answer, and the
            wrong ones another.
        rng: Draws the surprise, 0.1 to 0.4 a token.
    """
    return LengthReport(
        ticket_id=ticket.ticket_id,
        prompt_index=ticket.prompt_index,
        prompt_tokens=prompt_tokens,
        prefill_tokens=prompt_tokens,
        lengths=lengths,
        truncated=lengths >= ticket.max_tokens,
        rewards=right.astype(np.float64),
        status=np.zeros(len(lengths), dtype=np.int64),
        surprise=lengths * rng.uniform(0.1, 0.4, len(lengths)),
        answer_codes=np.where(right, right.argmax(), (~right).argmax()),
        engine_seconds=1.0,
        version=0,
        attempt=ticket.attempt,
    )


class _Rehearsal:
    def __init__(self, config: RunConfig, prompts: Sequence[Prompt]) -> None:
        self._tokens = np.asarray([len(prompt.token_ids) for prompt in prompts])
        self._rng = np.random.default_rng(config.seed)
        self._reuses = config.scheduler.reuse is not None
        self._scheduler = Scheduler(
            copy.deepcopy(config.scheduler),
            self._tokens,
            [prompt.source for prompt in prompts],
            config.rollout.max_tokens,
            config.seed,
            max_staleness=config.loop.max_staleness,
            features=feature_table(prompts) if config.scheduler.prompt_features else None,
        )

    def learn(self, batch: int) -> bool:
        """Go through one batch; False if its draws do not come to an end."""
        norms: Mapping[int, FloatArray] = {}
        for _ in range(MOST_ROUNDS):
            drawn = self._scheduler.draw(batch, batch, norms)
            for ticket in drawn.tickets:
                self._scheduler.observe(self._report(ticket))
            if drawn.members is not None:
                break
            norms = self._norms(drawn)
        else:
            return False
        self._scheduler.select(batch, [0] * len(drawn.members))
        if self._reuses:
            self._scheduler.reuse(batch)
        self._scheduler.learned(batch, Feedback(engine_seconds=1.0, learner_seconds=1.0))
        self._scheduler.metrics()
        self._scheduler.state_dict()
        return True

    def _norms(self, drawn: Draw) -> dict[int, FloatArray]:
        if not drawn.gradient_norms:
            return {}
        return {t.ticket_id: self._rng.uniform(0.1, 1.0, t.num_samples) for t in drawn.tickets}

    def _report(self, ticket: Ticket) -> LengthReport:
        """Every other response is right; lengths are anything."""
        size, tokens = ticket.num_samples, int(self._tokens[ticket.prompt_index])
        lengths = self._rng.integers(1, ticket.max_tokens, size, endpoint=True)
        return made_up_report(ticket, tokens, lengths, np.arange(size) % 2 == 0, self._rng)
