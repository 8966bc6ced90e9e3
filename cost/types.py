"""The records that the cost room exchanges with the others.

    Scheduler.draw -> Draw of Tickets -> (rollout) -> LengthReport -> Scheduler.observe
    Scheduler.select -> Selection -> (learner) -> Feedback -> Scheduler.learned -> BatchSpending

Every record is frozen. A per-response array has one entry per response of the ticket's group, in
the order in which the responses were generated; an empty group (a ticket that failed all its
retries) has arrays of length zero.

The examples tell of one batch of two tickets, 16 and 17, with two responses each; those of
`rollout.types` go on with ticket 17. `array` stands for `numpy.array`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


class RewardStatus(IntEnum):
    """What became of the reward of one response; only `OK` and `MASKED` carry a usable one."""

    OK = 0
    TIMED_OUT = 1
    CRASHED = 2
    TRUNCATED = 3
    """Scored, but left out because the response hit the length limit."""
    MASKED = 4
    """Scored, and compared with others, but not trained on, for it hit the length limit (DAPO's
    overlong filtering)."""


class PlayEnd(IntEnum):
    """What ended a response."""

    ANSWER = 0
    """The policy's last turn, or an environment that was done."""
    TOKENS = 1
    """The length limit."""
    MAX_TURNS = 2
    """The environment's limit on turns."""
    FAILURE = 3
    """A tool or environment that failed; such a response has no usable reward."""


_OK, _MASKED = int(RewardStatus.OK), int(RewardStatus.MASKED)
"""Plain numbers: numpy compares with a member of an enum ten times slower."""


ONE_TURN: npt.NDArray[Any] = np.zeros(0)
"""Default of a report's fields about turns; `LengthReport.__post_init__` puts what they are for
responses of one turn in its place."""
PER_TURN = (
    "environment_tokens", "inherited_tokens", "turn_prefill_tokens", "tool_seconds", "calls",
    "failed_calls", "ends",
)  # fmt: skip
"""Fields about turns that default to 0 for each response, `ends` to what ended one turn."""
REAL_NUMBERS = ("tool_seconds", "entropy_changes")
"""Those of the fields about turns that are float64; the others are int64."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """An order to sample one prompt `num_samples` times.

    Example: drawn from N = 128 prompts, hence weight = 1 / (128 * 0.0125).

        Ticket(
            ticket_id=17,
            prompt_index=3,
            num_samples=2,
            probability=0.0125,
            weight=0.625,
            max_tokens=256,
            trainable=True,
            temperature_factor=1.0,
        )
    """

    ticket_id: int
    """Position in the draw order, counted from 0 over the whole run."""
    prompt_index: int
    """Index of the prompt in the task, in [0, N)."""
    num_samples: int
    """Responses to generate, at least 1."""
    probability: float
    """Per-draw probability in force when the ticket was drawn, in (0, 1]."""
    weight: float
    """Design weight that undoes the draw, positive; 1.0 exactly under uniform draws."""
    max_tokens: int
    """Largest number of tokens in one response."""
    trainable: bool = True
    """False for a pilot, whose responses inform the allocation and are never trained on."""
    temperature_factor: float = 1.0
    """What the run's sampling temperature is multiplied by, positive."""
    attempt: int = 0
    """Which try at the ticket this is; each retry has the next number. All else stays."""

    @property
    def exploring(self) -> bool:
        """Whether it is sampled at another temperature; see `cost.draws.entropy_control`."""
        return self.temperature_factor != 1.0


@dataclass(frozen=True, slots=True)
class Draw:
    """One round of a batch's tickets.

    Example: a batch that one round completes.

        Draw(
            tickets=[
                Ticket(16, 90, num_samples=2, probability=0.004, weight=1.953125, max_tokens=256),
                Ticket(17, 3, num_samples=2, probability=0.0125, weight=0.625, max_tokens=256),
            ],
            members=(16, 17),
            carried=(),
            gradient_norms=False,
        )
    """

    tickets: list[Ticket]
    """The tickets to run now, in draw order; there may be none once the batch is complete."""
    members: tuple[int, ...] | None
    """Ids of the tickets that make the batch, in draw order, exploring ones last. None while more
    rounds follow; the next may be drawn when all tickets of this one were reported."""
    carried: tuple[int, ...]
    """Ids of the tickets that are kept for a later batch to learn from."""
    gradient_norms: bool
    """Whether the next round needs gradient norms of this one's responses."""


@dataclass(frozen=True, slots=True)
class Undone:
    """A batch that was drawn and not learned, of a run that goes on after a stop.

    Example: the group of ticket 16 is there, that of 17 is not.

        Undone(batch=8, draw=draw, again=(17,))
    """

    batch: int
    draw: Draw
    """All its rounds in one, as the last of them was answered."""
    again: tuple[int, ...]
    """Ids of the tickets whose groups are not there: to be run once more, as new attempts at the
    same tickets."""


@dataclass(frozen=True, slots=True)
class LengthReport:
    """What one finished ticket cost and earned; small enough to send to the scheduler.

    Example: the first response is right, and took ten tokens; the second, of thirteen, is wrong,
    and its last tokens are of version 5.

        LengthReport(
            ticket_id=17,
            prompt_index=3,
            prompt_tokens=9,
            prefill_tokens=18,
            lengths=array([10, 13]),
            truncated=array([False, False]),
            rewards=array([1.0, 0.0]),
            status=array([0, 0]),
            surprise=array([0.26, 1.06]),
            answer_codes=array([0, 1]),
            engine_seconds=0.42,
            version=4,
            reward_components={"correct": (1.0, 2), "format": (2.0, 2)},
        )
    """

    ticket_id: int
    prompt_index: int
    prompt_tokens: int
    """Tokens of the prompt, at least 1."""
    prefill_tokens: int
    """Prompt and environment tokens the engine really computed for the whole group, those before
    every turn (cached ones excluded)."""
    lengths: IntArray
    """[n] tokens of each response, those that its environment wrote among them."""
    truncated: BoolArray
    """[n] True where the response hit the length limit, so that its length is censored."""
    rewards: FloatArray
    """[n] reward; NaN where `status` is neither OK nor MASKED."""
    status: IntArray
    """[n] `RewardStatus` of each reward."""
    surprise: FloatArray
    """[n] sum over the response's own tokens of (1 - probability)^2, as they were sampled."""
    answer_codes: IntArray
    """[n] position of the first response of the group with the same final answer, which is the
    response's own where no earlier one has that answer. All without an answer share one code."""
    engine_seconds: float
    """Wall-clock seconds from submission to the last token of the group."""
    version: int
    """Oldest policy version that produced a token of the group; 0 for a group without tokens."""
    attempt: int = 0
    """The ticket's try that generated the group. The report of the newest one counts, which is the
    one whose group the driver holds: it tries again only when it has given up the try before."""
    reward_failure: str = ""
    """Why the scoring of a response failed, for people: the group's first; "" if none did."""
    num_turns: IntArray = field(default_factory=lambda: ONE_TURN)
    """[n] calls of the engine for each response, at least 1."""
    environment_tokens: IntArray = field(default_factory=lambda: ONE_TURN)
    """[n] tokens of each response that its environment wrote: prefilled, not decoded, and in no
    loss."""
    inherited_tokens: IntArray = field(default_factory=lambda: ONE_TURN)
    """[n] of the tokens that the policy sampled, those that are another response's as well, and
    were sampled once for both."""
    turn_prefill_tokens: IntArray = field(default_factory=lambda: ONE_TURN)
    """[n] of `prefill_tokens`, those before turns after the first: the whole conversation so far
    each time, or what a prefix cache does not have of it."""
    tool_seconds: FloatArray = field(default_factory=lambda: ONE_TURN)
    """[n] seconds in which each response waited for its environment."""
    calls: IntArray = field(default_factory=lambda: ONE_TURN)
    """[n] calls of tools."""
    failed_calls: IntArray = field(default_factory=lambda: ONE_TURN)
    """[n] of these, calls that were bad, or that the tool refused."""
    ends: IntArray = field(default_factory=lambda: ONE_TURN)
    """[n] `PlayEnd` of each response."""
    entropy_changes: FloatArray = field(default_factory=lambda: ONE_TURN)
    """[n] mean of -log probability of the policy's tokens in later turns less that in the first,
    nats: how much less sure tools left it."""

    reward_components: Mapping[str, tuple[float, int]] = field(default_factory=dict)
    """By name of a part of the reward its sum over the responses that have it, and how many have;
    for people, and not kept by the scheduler."""

    def __post_init__(self) -> None:
        """Fill in the fields about turns that were not given, as for responses of one turn."""
        count = len(self.lengths)
        for name in ("num_turns", "entropy_changes", *PER_TURN):
            if getattr(self, name) is ONE_TURN:
                kind = np.float64 if name in REAL_NUMBERS else np.int64
                value = np.full(count, int(name == "num_turns"), dtype=kind)
                if name == "ends":
                    cut = np.asarray(self.truncated, np.bool_)[:count]
                    value[: len(cut)][cut] = int(PlayEnd.TOKENS)
                object.__setattr__(self, name, value)

    @property
    def own_lengths(self) -> IntArray:
        """[n] tokens of each response that the policy sampled."""
        return self.lengths - self.environment_tokens

    @property
    def sampled_lengths(self) -> IntArray:
        """[n] tokens that the engine sampled for each response alone."""
        return self.own_lengths - self.inherited_tokens

    @property
    def usable(self) -> BoolArray:
        """[n] True where the reward can be used."""
        return np.asarray((self.status == _OK) | (self.status == _MASKED), dtype=np.bool_)

    @property
    def trainable(self) -> BoolArray:
        """[n] True for usable responses that may be trained on, too."""
        return np.asarray(self.status == _OK, dtype=np.bool_)

    @property
    def num_responses(self) -> int:
        """Responses in the group; 0 for a ticket that failed."""
        return len(self.lengths)

    @property
    def generated_tokens(self) -> int:
        """Tokens the engines computed for the ticket: prefilled and sampled ones."""
        return int(self.prefill_tokens) + int(self.sampled_lengths.sum())


@dataclass(frozen=True, slots=True)
class Selection:
    """Which responses of one group to train on, and how much each counts.

    Example: the first response was kept with probability 0.8, hence weight = 0.625 / 0.8.

        Selection(
            ticket_id=17,
            keep=array([True, False]),
            weight=array([0.78125, 0.0]),
            advantages=array([0.999998, -0.999998]),
            factors=array([1 / 10, 1 / 13]),
            token_share=1.0,
            exploring=False,
        )
    """

    ticket_id: int
    keep: BoolArray
    """[n] True for responses to train on."""
    weight: FloatArray
    """[n] ticket weight over keep probability, less what a clipping took; 0 where not kept. The
    learner divides the sum over all groups, exploring ones included, by the number of plain
    groups."""
    advantages: FloatArray
    """[n] advantages from the full group, before thinning; 0 where the reward is not usable."""
    factors: FloatArray
    """[n] aggregation factor a of the estimator (1 / length for the sequence mean), tokens^-1."""
    token_share: float = 1.0
    """Share of the optimiser step's tokens to train on, in (0, 1]: those of largest |advantage| x
    entropy. 1 trains on all."""
    exploring: bool = False
    """Whether the ticket was exploring: the loss is then -advantage x log-probability, whatever the
    objective, for the probabilities that it was sampled with are not a policy's."""


@dataclass(frozen=True, slots=True)
class Feedback:
    """What learning from one batch took, and what it showed.

    Example: Feedback(engine_seconds=3.9, learner_seconds=1.2, entropy=0.41)
    """

    engine_seconds: float
    """Seconds with a ticket of the batch in generation, times the accelerators of all engines."""
    learner_seconds: float
    """Seconds of updating, times the number of learners."""
    entropy: float = math.nan
    """The policy's, nats a token, mean over the tokens learned from, exploring ones left out; not
    finite where there was none or nobody asked."""
    gradient_norms: Sequence[FloatArray] | None = None
    """Norms [n] of the scores of each member's responses before the first pass, exploring ones left
    out; None where they were not measured. A score is the gradient of a response's summed
    log-probability."""
    score_seconds: float = 0.0
    """Seconds of gradient norms, those that draws ask for among them, and of the reference where it
    is in the reward, times the number of learners."""


@dataclass(frozen=True, slots=True)
class BatchSpending:
    """What one batch took of the machines and what they did for it; all passes together.

    Example: both tickets, of whose four responses one was trained on.

        BatchSpending(
            responses=4,
            prefill_tokens=50,
            response_tokens=151,
            engine_seconds=0.9,
            trained_responses=1,
            trained_prompt_tokens=9,
            trained_response_tokens=10,
            learner_seconds=0.3,
        )
    """

    responses: int
    """Responses that were generated, those of pilots and filtered groups included."""
    prefill_tokens: int
    """Prompt and environment tokens that the engines computed."""
    response_tokens: int
    """Response tokens that the engines sampled."""
    engine_seconds: float
    """Seconds with a ticket in generation, times the accelerators of all engines."""
    trained_responses: int
    """Responses that were kept, counted once per pass."""
    trained_prompt_tokens: int
    """Prompt tokens of the kept responses; the prompt counts with each response."""
    trained_response_tokens: int
    """Response tokens of the kept responses, those of environments among them."""
    learner_seconds: float
    """Seconds of updating, times the number of learners."""
    tool_seconds: float = 0.0
    """Seconds in which responses waited for their environments, added up: each held a slot."""
    score_seconds: float = 0.0
    """Seconds in which learners scored responses, times their number."""
