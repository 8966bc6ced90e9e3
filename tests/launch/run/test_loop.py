"""The real loop with hand-written fakes: order, rounds, staleness, errors."""

import asyncio
import weakref

import numpy as np
import pytest

from cost.thinning.reuse import EarlierBatches, SecondPass
from cost.types import Draw, LengthReport, Selection, Ticket
from launch.record.step import StepResult
from launch.run.loop import train
from launch.run.parts import Parts, Plan, all_of_them
from launch.study.simulation import clock as simulated
from rollout.types import GroupRef, Prompt

P = 4
TOKENS = P * 13
"""Generated tokens of P tickets."""
TRAINED = P * 13
"""Tokens of their responses of 3 and 4 tokens, each with a prompt of 3."""


def make_prompt(index):
    return Prompt(index, np.zeros(3, np.int32), "1", "fake", "q")


class FakeScheduler:
    """Draws `num_rounds` rounds of P tickets a batch; the last P, carried ones first, are members.

    With `num_carried`, so many tickets beside the members are carried, and the rest are dropped.
    With `exploring`, so many exploring tickets end every batch, members beside its P.
    """

    def __init__(
        self, events, *, num_rounds=1, num_carried=0, norms=False, empty_batches=(), exploring=0
    ):
        self.events = events
        self.num_rounds, self.num_carried, self.norms = num_rounds, num_carried, norms
        self.empty_batches, self.exploring = empty_batches, exploring
        self.next_ticket = self.round = 0
        self.folded_batches = []
        self.drawn: list[int] = []
        self.carried: tuple[int, ...] = ()
        self.members = {}
        self.feedback = {}
        self.penalties, self.progress = [], []

    async def draw(self, batch, folded_batches, gradient_norms):
        if gradient_norms:
            told = {key: values.tolist() for key, values in gradient_norms.items()}
            self.events.append(("norms", told))
        self.events.append(("draw", batch, self.round))
        if self.round == 0:
            self.folded_batches.append(folded_batches)
            self.drawn = []
        else:
            # What the round before asked for is there.
            assert all(("done", ticket_id) in self.events for ticket_id in self.drawn)
        tickets = []
        if self.round < self.num_rounds:
            tickets = [Ticket(self.next_ticket + i, i, 2, 0.25, 1.0, 8) for i in range(P)]
            self.next_ticket += P
            self.drawn += [ticket.ticket_id for ticket in tickets]
        one_round = self.num_rounds == 1 and not self.norms
        self.round += 1
        if not (one_round or self.round > self.num_rounds):
            return Draw(tickets, None, self.carried, self.norms)
        self.round = 0
        accepted = [*self.carried, *self.drawn]
        chosen = () if batch in self.empty_batches else tuple(accepted[:P])
        self.carried = tuple(accepted[P : P + self.num_carried])
        explored = [
            Ticket(self.next_ticket + i, i, 2, 0.25, 1.0, 8, temperature_factor=1.2)
            for i in range(self.exploring)
        ]
        self.next_ticket += self.exploring
        tickets += explored
        chosen += tuple(ticket.ticket_id for ticket in explored)
        self.members[batch] = chosen
        return Draw(tickets, chosen, self.carried, False)

    async def select(self, batch, attempts, epoch, progress, penalties):
        # Like every call of an actor it takes a while.
        await asyncio.sleep(0.001)
        ids = list(self.members[batch])
        # As the fake rollouts have it.
        assert attempts == [ticket_id % 2 for ticket_id in ids]
        self.events.append(("select", ids, epoch))
        self.penalties.append(penalties)
        self.progress.append(progress)
        one = np.ones(2)
        return [Selection(ticket_id, one > 0, one, one, one) for ticket_id in ids]

    async def learned(self, batch, feedback):
        assert batch not in self.feedback
        self.events.append(("learned", batch))
        self.feedback[batch] = feedback


class Payload:
    """Stands in for a Ray reference to a group's data."""


class FakeRollouts:
    """Finishes a batch's tickets in reverse order, at the version in force when they started."""

    def __init__(self, events, clock, failing_ticket=None, hanging_ticket=None):
        self.events, self.clock, self.failing_ticket = events, clock, failing_ticket
        self.hanging_ticket = hanging_ticket
        self.started: list[int] = []
        self.payloads = weakref.WeakValueDictionary()

    def signs(self):
        return 0

    async def run(self, ticket, prompt):
        assert prompt.index == ticket.prompt_index
        version = self.clock["version"]
        self.started.append(ticket.ticket_id)
        hangs = ticket.ticket_id == self.hanging_ticket
        await asyncio.sleep(30 if hangs else 0.002 * (P - ticket.ticket_id % P))
        if ticket.ticket_id == self.failing_ticket:
            raise RuntimeError("engine on fire")
        self.events.append(("done", ticket.ticket_id))
        lengths = np.array([3, 4])
        report = LengthReport(
            ticket.ticket_id,
            ticket.prompt_index,
            3,
            6,
            lengths,
            lengths < 0,
            np.ones(2),
            np.zeros(2, np.int64),
            np.ones(2),
            np.arange(2),
            0.1,
            version,
            attempt=ticket.ticket_id % 2,
        )
        self.payloads[ticket.ticket_id] = payload = Payload()
        return GroupRef(report, data=payload)


class FakeLearners:
    kl_seconds = 0.002

    def __init__(self, events, rollouts, failing_step=None, norms_seconds=0.0):
        self.events, self.rollouts = events, rollouts
        self.failing_step, self.norms_seconds = failing_step, norms_seconds
        self.alive, self.progress = {}, []
        # Like actors they answer one call after the other.
        self.turn = asyncio.Lock()

    async def update(self, groups, selections, *, step, epoch, progress):
        if step == self.failing_step:
            raise RuntimeError("learner on fire")
        assert [g.report.ticket_id for g in groups] == [s.ticket_id for s in selections]
        self.events.append(("update", step, epoch))
        self.progress.append(progress)
        self.alive[step] = set(self.rollouts.payloads)
        async with self.turn:
            await asyncio.sleep(0.01)
        return {"learner/loss": 0.0, "learner/entropy": 1.0 + step}

    async def gradient_norms(self, groups, *, layer):
        assert all(group.data is not None for group in groups)
        ids = [group.report.ticket_id for group in groups]
        self.events.append(("gradient_norms", ids, layer))
        async with self.turn:
            await asyncio.sleep(self.norms_seconds)
        return [np.full(2, float(key)) for key in ids]

    async def reference_kl(self, groups):
        ids = [group.report.ticket_id for group in groups]
        self.events.append(("reference_kl", ids))
        async with self.turn:
            await asyncio.sleep(self.kl_seconds)
        return [np.array([float(key), 1.0]) for key in ids]


class Outcome:
    """What a run left behind."""

    def __init__(self, **scheduler):
        self.events, self.steps = [], []
        self.clock = {"version": 0}
        self.scheduler = FakeScheduler(self.events, **scheduler)
        self.still_running = None

    def of(self, *kinds):
        return [event for event in self.events if event[0] in kinds]


def run(
    num_steps=4,
    num_epochs=1,
    max_staleness=0,
    failing_ticket=None,
    failing_step=None,
    batch_deadline_seconds=5.0,
    norms_seconds=0.0,
    num_rounds=1,
    num_carried=0,
    norms=False,
    empty_batches=(),
    exploring=0,
    on_step_seconds=0.0,
    hanging_ticket=None,
    outcome=None,
    engine_share=all_of_them,
    clock_of=asyncio.run,
    **plan,
):
    outcome = outcome or Outcome(
        num_rounds=num_rounds,
        num_carried=num_carried,
        norms=norms,
        empty_batches=empty_batches,
        exploring=exploring,
    )
    events, clock = outcome.events, outcome.clock
    outcome.rollouts = FakeRollouts(events, clock, failing_ticket, hanging_ticket)
    outcome.learners = FakeLearners(events, outcome.rollouts, failing_step, norms_seconds)

    async def publish(version, groups):
        events.append(("publish", version))
        clock["version"] = version
        return {}

    async def sleep():
        running = set(outcome.rollouts.started) - {e[1] for e in outcome.of("done")}
        events.append(("sleep", len(running)))

    async def on_step(result: StepResult):
        await asyncio.sleep(on_step_seconds)
        # Without the data, so that only the loop keeps it alive.
        groups = [GroupRef(g.report, None) for g in result.groups]
        outcome.steps.append(StepResult(result.step, groups, result.selections, result.metrics))

    async def whole():
        try:
            await train(
                Plan(
                    num_steps=num_steps,
                    num_epochs=num_epochs,
                    max_staleness=max_staleness,
                    batch_deadline_seconds=batch_deadline_seconds,
                    **plan,
                ),
                Parts(
                    prompts=[make_prompt(i) for i in range(P)],
                    scheduler=outcome.scheduler,
                    rollouts=outcome.rollouts,
                    learners=outcome.learners,
                    publish=publish,
                    sleep=sleep,
                    engine_share=engine_share,
                ),
                on_step,
            )
        finally:
            outcome.still_running = len(asyncio.all_tasks()) - 1

    clock_of(whole())
    return outcome


@pytest.mark.parametrize("max_staleness", [0, 1, 3])
def test_batches_are_selected_in_draw_order_whatever_finishes_first(max_staleness):
    outcome = run(max_staleness=max_staleness)
    done = [e[1] for e in outcome.of("done")]
    assert done != sorted(done)
    selected = [ticket for e in outcome.of("select") for ticket in e[1]]
    assert selected == list(range(4 * P))
    assert [s.step for s in outcome.steps] == [1, 2, 3, 4]
    assert [e[1] for e in outcome.of("publish")] == [1, 2, 3, 4]
    assert outcome.still_running == 0


@pytest.mark.parametrize("num_rounds", [1, 3])
def test_without_staleness_generation_and_learning_take_turns(num_rounds):
    outcome = run(max_staleness=0, num_rounds=num_rounds)
    calls = num_rounds if num_rounds == 1 else num_rounds + 1
    order = [e[:2] for e in outcome.of("draw", "sleep", "update", "publish")]
    # Engines are told to sleep when nothing is asked of them.
    expected = [
        e
        for b in range(4)
        for e in (*[("draw", b)] * calls, ("sleep", 0), ("update", b), ("publish", b + 1))
    ]
    assert order == expected
    assert outcome.scheduler.folded_batches == [0, 1, 2, 3]
    assert all(s.metrics["loop/staleness"] == 0 for s in outcome.steps)


@pytest.mark.parametrize("num_rounds", [1, 2])
@pytest.mark.parametrize("max_staleness", [1, 2])
def test_staleness_reaches_but_never_passes_its_bound(max_staleness, num_rounds):
    outcome = run(num_steps=6, max_staleness=max_staleness, num_rounds=num_rounds)
    staleness = [s.metrics["loop/staleness"] for s in outcome.steps]
    assert max(staleness) <= max_staleness
    if num_rounds == 1:
        assert max(staleness) == max_staleness
    published = 0
    for kind, number, *_ in outcome.of("draw", "publish"):
        if kind == "publish":
            published = number
        else:
            assert number - published <= max_staleness
    assert outcome.scheduler.folded_batches == [max(0, b - max_staleness) for b in range(6)]


@pytest.mark.parametrize("max_staleness", [1, 2, 3])
@pytest.mark.parametrize("on_step_seconds", [0.0, 0.05])
def test_with_staleness_the_next_batch_is_in_generation_while_one_is_learned(
    max_staleness, on_step_seconds
):
    """At the latest when a batch is handed over, even when its groups were there long before."""
    outcome = run(num_steps=6, max_staleness=max_staleness, on_step_seconds=on_step_seconds)
    order = [e[:2] for e in outcome.of("draw", "update")]
    for batch in range(5):
        assert order.index(("draw", batch + 1)) < order.index(("update", batch))


def test_every_epoch_selects_anew():
    outcome = run(num_steps=1, num_epochs=3)
    assert [e[2] for e in outcome.of("select")] == [0, 1, 2]
    assert [e[1:] for e in outcome.of("update")] == [(0, 0), (0, 1), (0, 2)]


class AgainScheduler(FakeScheduler):
    """Takes all of the batch before once more."""

    async def reuse(self, batch):
        one = np.ones(2)
        again = [Selection(key, one > 0, one, one, one) for key in self.members[batch - 1]]
        return [again]


def test_a_batch_before_is_learned_from_in_the_first_pass_and_let_go():
    outcome = Outcome()
    outcome.scheduler = AgainScheduler(outcome.events)
    run(num_steps=4, num_epochs=2, outcome=outcome, reuse=EarlierBatches(first_batch=2))
    reused = [step.metrics["learner/reused_tokens"] for step in outcome.steps]
    assert reused == [0, 0, TRAINED, TRAINED]
    assert [len(step.groups) for step in outcome.steps] == [P] * 4
    weights = {step.selections[0].weight[0] for step in outcome.steps}
    assert weights == {1.0}, "what is recorded is the batch's own"
    # By the last pass nothing of it is held any longer.
    assert outcome.learners.alive[3] == set(range(3 * P, 4 * P))


class SecondScheduler(FakeScheduler):
    """Takes the first response of every group a second time."""

    async def reuse(self, batch):
        keep = np.array([True, False])
        return [[Selection(key, keep, 1.0 * keep, keep, keep) for key in self.members[batch]]]


def test_a_second_step_is_paid_for_and_is_not_what_is_recorded():
    outcome = Outcome()
    outcome.scheduler = SecondScheduler(outcome.events)
    reuse = SecondPass(first_batch=1)
    run(num_steps=3, outcome=outcome, reuse=reuse, max_trained_tokens=3 * TRAINED)
    assert [e[1:] for e in outcome.of("update")] == [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1)]
    reused = [step.metrics["learner/reused_tokens"] for step in outcome.steps]
    assert reused[0] == 0 and 0 < reused[1] == reused[2] < TRAINED
    assert outcome.scheduler.progress == pytest.approx([0, 1 / 3, (2 + reused[1] / TRAINED) / 3])
    assert all(one.keep.all() for step in outcome.steps for one in step.selections)


@pytest.mark.parametrize("max_staleness", [0, 1, 2])
def test_a_round_is_drawn_when_the_one_before_has_come_back(max_staleness):
    outcome = run(num_rounds=3, max_staleness=max_staleness)
    drawn = [e[1:] for e in outcome.of("draw")]
    assert drawn == [(batch, number) for batch in range(4) for number in range(4)]
    # Three rounds of P tickets each; only the first P of a batch are learned.
    assert outcome.rollouts.started == list(range(4 * 3 * P))
    selected = [e[1] for e in outcome.of("select")]
    assert selected == [list(range(b * 3 * P, b * 3 * P + P)) for b in range(4)]
    assert not outcome.of("gradient_norms", "norms")


@pytest.mark.parametrize("max_staleness", [0, 1])
@pytest.mark.parametrize("num_rounds", [1, 2])
def test_gradient_norms_are_those_of_the_round_that_asked(num_rounds, max_staleness):
    outcome = run(
        num_steps=2, num_rounds=num_rounds, norms=True, max_staleness=max_staleness,
        gradient_norm_layer="embedding",
    )  # fmt: skip
    rounds = [list(range(k * P, k * P + P)) for k in range(2 * num_rounds)]
    assert [e[1:] for e in outcome.of("gradient_norms")] == [(ids, "embedding") for ids in rounds]
    told = [{key: [float(key)] * 2 for key in ids} for ids in rounds]
    assert [e[1] for e in outcome.of("norms")] == told


@pytest.mark.parametrize("max_staleness", [0, 1, 2])
def test_carried_groups_are_learned_later(max_staleness):
    outcome = run(num_rounds=2, num_carried=2, max_staleness=max_staleness)
    selected = [e[1] for e in outcome.of("select")]
    assert selected == [[0, 1, 2, 3], [4, 5, 8, 9], [10, 11, 16, 17], [18, 19, 24, 25]]
    assert [[g.report.ticket_id for g in s.groups] for s in outcome.steps] == selected
    assert outcome.still_running == 0


def test_only_members_and_carried_groups_are_held():
    outcome = run(num_rounds=2, num_carried=2, max_staleness=0)
    selected = [set(event[1]) for event in outcome.of("select")]
    carried = [{4, 5}, {10, 11}, {18, 19}, {26, 27}]
    for batch in range(4):
        assert outcome.learners.alive[batch] == selected[batch] | carried[batch]


def test_a_batch_without_members_is_learned_as_an_empty_one():
    outcome = run(empty_batches={0, 2}, num_rounds=2)
    assert [len(e[1]) for e in outcome.of("select")] == [0, P, 0, P]
    assert [e[1] for e in outcome.of("update")] == [0, 1, 2, 3]
    assert [len(s.groups) for s in outcome.steps] == [0, P, 0, P]
    assert [e[1] for e in outcome.of("publish")] == [1, 2, 3, 4]
    assert outcome.steps[0].metrics["loop/staleness"] == 0


def test_engines_that_joined_are_paid_for():
    outcome = run(num_engine_accelerators=2, engine_share=lambda: 1.5)
    paid_seconds = sum(f.engine_seconds for f in outcome.scheduler.feedback.values())
    total = sum(step.metrics["loop/generate_seconds"] for step in outcome.steps)
    assert paid_seconds == pytest.approx(3 * total, rel=1e-2, abs=1e-3)


@pytest.mark.parametrize("max_staleness", [0, 1])
def test_a_batch_is_paid_for_once_before_the_next_may_fold_it(max_staleness):
    outcome = run(
        num_epochs=2, max_staleness=max_staleness, num_engine_accelerators=2, num_learners=3
    )
    order = [e[:2] for e in outcome.of("update", "learned", "publish")]
    expected = [
        e
        for b in range(4)
        for e in (("update", b), ("update", b), ("learned", b), ("publish", b + 1))
    ]
    assert order == expected
    drawn = outcome.of("draw", "learned")
    for batch, folded_batches in enumerate(outcome.scheduler.folded_batches):
        before = drawn[: drawn.index(("draw", batch, 0))]
        paid = [e[1] for e in before if e[0] == "learned"]
        assert paid[:folded_batches] == list(range(folded_batches))
    for batch, step in enumerate(outcome.steps):
        feedback = outcome.scheduler.feedback[batch]
        engine, learner = feedback.engine_seconds, feedback.learner_seconds
        assert engine > 0
        # Selecting is part of the phase, not of what the learners are paid for.
        assert 3 * 0.02 <= learner <= 3 * step.metrics["loop/update_seconds"]
    paid_seconds = sum(f.engine_seconds for f in outcome.scheduler.feedback.values())
    total = sum(step.metrics["loop/generate_seconds"] for step in outcome.steps)
    assert paid_seconds == pytest.approx(2 * total, rel=1e-2, abs=1e-3)


@pytest.mark.parametrize("max_staleness", [0, 1, 2])
def test_learners_are_paid_for_what_they_score_too(max_staleness):
    outcome = run(
        norms=True, norms_seconds=0.03, calibrate_every=2, num_epochs=2, num_learners=3,
        max_staleness=max_staleness, reward_kl_coefficient=0.5, clock_of=simulated.run,
    )  # fmt: skip
    kl = FakeLearners.kl_seconds
    for batch, feedback in outcome.scheduler.feedback.items():
        # Whatever waits for what: norms for the draw, and those of a calibration.
        norms = 0.03 * (2 if batch % 2 == 0 else 1)
        assert feedback.score_seconds == pytest.approx(3 * (norms + kl)), batch
        assert feedback.learner_seconds == pytest.approx(3 * 2 * 0.01), batch
    plain = run(num_learners=3, max_staleness=max_staleness, clock_of=simulated.run)
    assert [f.score_seconds for f in plain.scheduler.feedback.values()] == [0.0] * 4


def test_the_divergence_is_measured_once_a_batch_and_lowers_the_rewards():
    outcome = run(num_steps=2, num_epochs=2, reward_kl_coefficient=0.5)
    order = [event[0] for event in outcome.of("reference_kl", "select", "update")]
    assert order == ["reference_kl", "select", "update", "select", "update"] * 2
    penalties = outcome.scheduler.penalties
    for epoch in (0, 1):
        assert [p.tolist() for p in penalties[2 + epoch]] == [[k / 2, 0.5] for k in range(4, 8)]
    found = [step.metrics["learner/kl_reference_response"] for step in outcome.steps]
    assert found == [(1.5 + 1) / 2, (5.5 + 1) / 2]


def test_without_a_coefficient_no_reference_is_asked_for():
    outcome = run()
    assert not outcome.of("reference_kl") and outcome.scheduler.penalties == [None] * 4
    assert "learner/kl_reference_response" not in outcome.steps[0].metrics


def test_a_batch_without_members_has_no_divergence():
    outcome = run(num_carried=P, empty_batches=(1,), num_rounds=2, reward_kl_coefficient=0.5)
    assert outcome.scheduler.penalties[1] == []
    assert np.isnan(outcome.steps[1].metrics["learner/kl_reference_response"])


def test_calibration_measures_members_before_they_are_learned():
    outcome = run(calibrate_every=2, num_epochs=2, num_rounds=2)
    measured = [e[1:] for e in outcome.of("gradient_norms")]
    assert measured == [([0, 1, 2, 3], "lm_head"), ([16, 17, 18, 19], "lm_head")]
    order = [e[0] for e in outcome.of("select", "gradient_norms", "update", "learned")]
    passes = ["update", "select", "update", "learned"]
    assert order == ["select", "gradient_norms", *passes, "select", *passes] * 2
    told = [outcome.scheduler.feedback[batch].gradient_norms for batch in range(4)]
    assert [values.tolist() for values in told[2]] == [[key, key] for key in (16, 17, 18, 19)]
    assert told[1] is None and told[3] is None
    assert not run().of("gradient_norms")


@pytest.mark.parametrize("max_staleness", [0, 1, 2])
@pytest.mark.parametrize(("num_rounds", "num_carried"), [(1, 0), (2, 0), (2, 2)])
def test_exploring_tickets_are_learned_with_their_batch_and_compared_with_nothing(
    max_staleness, num_rounds, num_carried
):
    outcome = run(
        exploring=2, num_rounds=num_rounds, num_carried=num_carried, max_staleness=max_staleness,
        reward_kl_coefficient=0.5, calibrate_every=1,
    )  # fmt: skip
    members = [list(outcome.scheduler.members[batch]) for batch in range(4)]
    size = num_rounds * P + 2
    assert [ids[P:] for ids in members] == [[b * size - 2, b * size - 1] for b in range(1, 5)]
    assert [e[1] for e in outcome.of("select")] == members
    assert [[g.report.ticket_id for g in step.groups] for step in outcome.steps] == members
    for kind in ("reference_kl", "gradient_norms"):
        assert [e[1] for e in outcome.of(kind)] == [ids[:P] for ids in members]
    assert all(len(penalties) == P for penalties in outcome.scheduler.penalties)
    assert outcome.still_running == 0


@pytest.mark.parametrize("max_staleness", [0, 2])
def test_the_entropy_of_a_batch_is_told_before_the_next_may_fold_it(max_staleness):
    outcome = run(exploring=1, max_staleness=max_staleness, num_epochs=2)
    told = [outcome.scheduler.feedback[batch].entropy for batch in range(4)]
    assert told == [1.0, 2.0, 3.0, 4.0]
    known = outcome.of("draw", "learned")
    for batch, folded_batches in enumerate(outcome.scheduler.folded_batches):
        before = known[: known.index(("draw", batch, 0))]
        told = [e[1] for e in before if e[0] == "learned"]
        assert told[:folded_batches] == list(range(folded_batches))


def test_tokens_of_exploring_tickets_count():
    outcome = run(num_steps=9, exploring=P, max_generated_tokens=4 * TOKENS)
    assert len(outcome.steps) == 2
    outcome = run(num_steps=9, exploring=P, max_trained_tokens=4 * TRAINED)
    assert len(outcome.steps) == 2


@pytest.mark.parametrize(
    ("max_generated_tokens", "max_staleness", "num_steps"),
    [
        (1, 0, 1),
        (2 * TOKENS, 0, 2),
        (2 * TOKENS + 1, 0, 3),
        (100 * TOKENS, 0, 9),
        (2 * TOKENS, 1, 2),
        (2 * TOKENS + 1, 1, 3),
        (4 * TOKENS + 1, 2, 5),
        # The first batches are in flight before anything is known.
        (1, 1, 2),
        (1, 3, 4),
    ],
)
def test_the_run_ends_with_the_batch_that_uses_up_the_tokens(
    max_generated_tokens, max_staleness, num_steps
):
    outcome = run(
        num_steps=9, max_staleness=max_staleness, max_generated_tokens=max_generated_tokens
    )
    assert [s.step for s in outcome.steps] == list(range(1, num_steps + 1))
    assert [e[1] for e in outcome.of("publish")] == list(range(1, num_steps + 1))
    # Nothing was started that was not learned, and nothing goes on.
    done = {e[1] for e in outcome.of("done")}
    assert done == {*outcome.rollouts.started} == set(range(num_steps * P))
    assert outcome.still_running == 0


@pytest.mark.parametrize(
    ("bounds", "shares"),
    [
        ({}, [0, 0.25, 0.5, 0.75]),
        ({"max_generated_tokens": 10 * TOKENS}, [0, 0.25, 0.5, 0.75]),
        ({"max_generated_tokens": 2 * TOKENS}, [0, 0.5]),
        ({"max_trained_tokens": 3 * TRAINED}, [0, 1 / 3, 2 / 3]),
    ],
)
def test_progress_follows_the_bound_that_ends_the_run_first(bounds, shares):
    outcome = run(num_steps=4, **bounds)
    assert outcome.scheduler.progress == pytest.approx(shares)
    assert outcome.learners.progress == outcome.scheduler.progress


@pytest.mark.parametrize("max_staleness", [0, 1])
def test_tokens_of_groups_that_are_not_learned_count(max_staleness):
    limit = {"max_generated_tokens": 4 * TOKENS, "max_staleness": max_staleness}
    outcome = run(num_steps=9, num_rounds=2, **limit)
    assert len(outcome.steps) == 2 and outcome.still_running == 0
    assert outcome.rollouts.started == list(range(4 * P))


@pytest.mark.parametrize(
    "failure",
    [
        {"failing_ticket": 5},
        {"failing_step": 1},
        {"failing_ticket": 5, "num_rounds": 3},
        {"failing_step": 1, "num_rounds": 3},
    ],
)
def test_an_error_in_either_coroutine_ends_both_with_that_error(failure):
    outcome = Outcome(num_rounds=failure.pop("num_rounds", 1))
    with pytest.raises(RuntimeError, match="on fire"):
        run(num_steps=50, max_staleness=1, outcome=outcome, **failure)
    assert outcome.still_running == 0


@pytest.mark.parametrize("num_rounds", [1, 2])
def test_a_batch_that_never_completes_misses_its_deadline(num_rounds):
    with pytest.raises(TimeoutError, match=r"^batch 0: nothing was heard"):
        run(batch_deadline_seconds=0.1, num_rounds=num_rounds, hanging_ticket=1)


def test_norms_that_never_come_miss_the_deadline():
    with pytest.raises(TimeoutError):
        run(batch_deadline_seconds=0.1, norms=True, norms_seconds=30.0)


@pytest.mark.parametrize(
    ("max_trained_tokens", "max_staleness", "num_epochs", "num_steps"),
    [
        (1, 0, 1, 1),
        (2 * TRAINED, 0, 1, 2),
        (2 * TRAINED + 1, 0, 1, 3),
        (2 * TRAINED + 1, 0, 2, 2),
        (2 * TRAINED + 1, 1, 1, 3),
        (4 * TRAINED + 1, 2, 1, 5),
        (4 * TRAINED + 1, 2, 3, 3),
        (1, 3, 1, 4),
    ],
)
def test_the_run_ends_with_the_batch_that_uses_up_the_trained_tokens(
    max_trained_tokens, max_staleness, num_epochs, num_steps
):
    outcome = run(
        num_steps=9,
        max_staleness=max_staleness,
        num_epochs=num_epochs,
        max_trained_tokens=max_trained_tokens,
    )
    assert [s.step for s in outcome.steps] == list(range(1, num_steps + 1))
    assert outcome.rollouts.started == list(range(num_steps * P))
    assert outcome.still_running == 0


def test_what_is_not_learned_does_not_count_as_trained():
    """Of two rounds a batch only one is learned."""
    outcome = run(num_steps=9, num_rounds=2, max_trained_tokens=2 * TRAINED)
    assert len(outcome.steps) == 2


@pytest.mark.parametrize("max_staleness", [0, 2])
def test_seconds_end_the_run_and_leave_out_what_comes_between_steps(max_staleness):
    """The callback takes far longer than a step, and is not counted."""
    limit = {"max_seconds": 0.15, "max_staleness": max_staleness}
    outcome = run(num_steps=400, on_step_seconds=0.1, **limit)
    phases = ("wait", "update", "publish")
    seconds = [sum(s.metrics[f"loop/{phase}_seconds"] for phase in phases) for s in outcome.steps]
    in_flight = max_staleness + 1
    assert in_flight < len(seconds) < 400
    assert abs(sum(seconds) - 0.15) < in_flight * max(seconds)
    assert outcome.still_running == 0
