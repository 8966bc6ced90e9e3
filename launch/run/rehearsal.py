"""Two batches of made-up responses through the scheduler, where plugs in it are the user's.

What such a plug gets wrong ends a run before engines start, and not a minute later in an actor.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from conf.schema import RunConfig
from cost.scheduler.scheduler import Scheduler
from cost.types import Draw, Feedback, FloatArray, LengthReport, Ticket
from launch.program import UserError
from rollout.own_code import PROJECT
from rollout.raised import own_frames
from rollout.tasks.features import feature_table
from rollout.types import Prompt

NUM_BATCHES = 2
"""The second is drawn from what the first taught."""
MOST_PROMPTS = 1000
"""Of the task that take part, however many it has."""
MOST_ROUNDS = 10
"""Rounds of a batch until a draw that asks for more is left at that."""
ROOMS = tuple(str(PROJECT / room) for room in ("cost", "launch", "rollout", "conf", "learner"))


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
        said = " ".join(str(error).split())
        if isinstance(error, ValueError) and said.startswith("scheduler."):
            raise UserError(said) from error
        frames = own_frames(error.__traceback__, *ROOMS)
        place = f" ({Path(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""
        raise UserError(
            "plugs of scheduler must take what they are given; on made-up responses one of yours "
            f"raised {type(error).__name__}: {said}{place}"
        ) from error


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
        right = np.arange(size) % 2 == 0
        return LengthReport(
            ticket_id=ticket.ticket_id,
            prompt_index=ticket.prompt_index,
            prompt_tokens=tokens,
            prefill_tokens=tokens,
            lengths=lengths,
            truncated=lengths == ticket.max_tokens,
            rewards=right.astype(np.float64),
            status=np.zeros(size, dtype=np.int64),
            surprise=lengths * self._rng.uniform(0.1, 0.4, size),
            answer_codes=np.where(right, 0, 1)[:size],
            engine_seconds=1.0,
            version=0,
            attempt=ticket.attempt,
        )
