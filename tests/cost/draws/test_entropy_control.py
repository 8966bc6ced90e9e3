"""Exploring tickets: the switch, what they pull the policy to, and all that they must not touch."""

import math
from dataclasses import replace

import numpy as np
import pytest

from cost.aggregations import BatchTokenMean, ConstantLength, PromptMean, SequenceMean
from cost.draws.allocators.dapo import DynamicSampling
from cost.draws.allocators.square_root import SquareRoot
from cost.draws.allocators.uniform import Uniform
from cost.draws.draws import EpochDraws
from cost.draws.entropy_control import EntropyControl
from cost.ledger import METRICS
from cost.prices.seconds import SecondsPrice
from cost.scheduler.plugs import Plugs
from cost.scheduler.selection import select_exploring
from cost.state_file import load_state, save_state
from cost.thinning.subsets import D3s
from cost.thinning.thinning import CostAware
from cost.types import Feedback, Ticket
from tests.cost.play import select

CONTROL = EntropyControl(coefficient=0.5, target=0.6)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("coefficient", 0.0, r"coefficient must be positive, got 0\.0"),
        ("target", 0.0, r"target must be positive, got 0\.0"),
        ("target", math.nan, "target must be finite, got nan"),
        ("share", 0.0, r"share must lie in \(0, 1\], got 0\.0"),
        ("share", 1.5, r"share must lie in \(0, 1\], got 1\.5"),
        ("lower_temperature", 1.0, r"lower_temperature must lie in \(0, 1\), .* got 1\.0"),
        ("lower_temperature", 0.0, r"lower_temperature must lie in \(0, 1\), .* got 0\.0"),
        ("higher_temperature", 1.0, r"higher_temperature must be finite and above 1, .* got 1\.0"),
        ("higher_temperature", math.inf, r"higher_temperature must be finite"),
    ],
)
def test_refuses(key, value, message):
    with pytest.raises(ValueError, match=rf"^entropy_control\.{message}"):
        EntropyControl(**{key: value})


def test_the_temperature_switches_at_the_target():
    control = EntropyControl(target=0.5)
    below, at = np.nextafter(0.5, 0), 0.5
    assert [control.temperature_factor(e) for e in (0.0, below, at, 3.0)] == [1.2, 1.2, 0.8, 0.8]


def test_there_is_an_exploring_ticket_however_small_the_batch():
    assert [EntropyControl().num_tickets(n) for n in (1, 2, 4, 16, 128)] == [1, 1, 1, 4, 32]
    assert EntropyControl(share=1.0).num_tickets(7) == 7


RIGHT = np.arange(8) < 3


def softmax(logits):
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def entropies_of_a_bandit(control, num_steps=2000, lr=0.5, size=8):
    """Expected updates of a softmax policy over eight arms, of which three are right.

    With the share f of right ones in a group of `size`, the group-standardised advantages are
    sqrt((1 - f) / f) and -sqrt(f / (1 - f)).
    """
    logits, entropies = np.array([0.6, 0.3, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]), []
    shares = np.arange(size + 1) / size
    ways = np.array([math.comb(size, count) for count in range(size + 1)])
    for _ in range(num_steps):
        policy = softmax(logits)
        entropies.append(float(-(policy * np.log(policy)).sum()))
        passed = policy[RIGHT].sum()
        failed = policy[~RIGHT].sum()
        chances = ways * passed ** (shares * size) * failed ** (size - shares * size)
        mean = chances @ np.sqrt(shares * (1 - shares))
        gradient = policy * mean * np.where(RIGHT, 1 / passed, -1 / failed)
        if control is not None:
            # T divides the logits, as in the engine.
            sampled = softmax(logits / control.temperature_factor(entropies[-1])) * RIGHT
            gradient += control.coefficient * (sampled - sampled.sum() * policy)
        logits = logits + lr * gradient
    return np.array(entropies)


def test_a_bandit_collapses_without_control_and_stays_at_the_target_with_it():
    alone = entropies_of_a_bandit(None)
    assert alone[0] > 2 and alone[-1] < 0.05
    for target in (0.3, 0.5, 0.8):
        held = entropies_of_a_bandit(EntropyControl(target=target))
        assert np.abs(held[1400:] - target).max() < 0.02
    # The pull is to right arms alone: beyond their own entropy no target is reached.
    assert entropies_of_a_bandit(EntropyControl(target=2.0))[-1] == pytest.approx(
        math.log(3), abs=0.05
    )


class Player:
    """Plays batches; the k-th plain ticket brings the same report in every run."""

    def __init__(self, scheduler, make_report, *, lag=0, entropy=None):
        self.scheduler, self.make_report, self.lag = scheduler, make_report, lag
        self.entropy = entropy
        self.plain, self.exploring, self.selections = [], [], []
        self.reports, self.members = {}, {}
        self.num_drawn = self.num_learned = 0

    def play(self, num_batches):
        last = self.num_learned + num_batches
        while self.num_learned < last:
            if self.num_drawn < last and self.num_drawn <= self.num_learned + self.lag:
                self.draw(self.num_drawn)
            else:
                self.learn(self.num_learned)
        return self

    def draw(self, batch):
        drawn = self.scheduler.draw(batch, max(0, batch - self.lag))
        for ticket in drawn.tickets:
            mine = self.exploring if ticket.exploring else self.plain
            number = 1000 + len(mine) if ticket.exploring else len(mine)
            mine.append(ticket)
            report = self.make_report(replace(ticket, ticket_id=number), version=batch)
            self.reports[ticket.ticket_id] = replace(report, ticket_id=ticket.ticket_id)
            self.scheduler.observe(self.reports[ticket.ticket_id])
        if drawn.members is not None:
            self.members[batch] = drawn.members
            self.num_drawn += 1

    def learn(self, batch):
        reports = [self.reports[ticket_id] for ticket_id in self.members[batch]]
        self.selections.append(select(self.scheduler, batch, reports))
        entropy = math.nan if self.entropy is None else self.entropy(batch)
        self.scheduler.learned(batch, Feedback(2.0, 1.0, entropy))
        self.num_learned += 1

    def kept_plain(self):
        """Everything of the plain selections but their ids."""
        return [
            [getattr(s, name).tolist() for name in ("keep", "weight", "advantages", "factors")]
            for batch in self.selections
            for s in batch
            if not s.exploring
        ]


ALLOCATORS = [SquareRoot(), Uniform(draws=EpochDraws()), DynamicSampling()]
PLAIN_METRICS = {
    key
    for key in METRICS
    if not key.startswith(("cost/exploring", "cost/uniform", "cost/price"))
    and not key.endswith(
        (
            "tickets",
            "tokens",
            "responses",
            "rewards",
            "trained_share",
            "turns",
            "calls",
            "tool_seconds",
        )
    )
} | {"cost/earlier_tokens"}


@pytest.mark.parametrize("lag", [0, 2])
@pytest.mark.parametrize("allocator", ALLOCATORS, ids=repr)
@pytest.mark.parametrize("aggregation", [SequenceMean(), ConstantLength(), BatchTokenMean()])
def test_everything_else_is_as_without_to_the_last_bit(
    make_scheduler, make_report, allocator, aggregation, lag
):
    plugs = {"allocator": allocator, "aggregation": aggregation, "max_staleness": lag}
    without = Player(make_scheduler(**plugs), make_report, lag=lag).play(7)
    scheduler = make_scheduler(**plugs, entropy_control=CONTROL)
    player = Player(scheduler, make_report, lag=lag, entropy=lambda batch: 0.2 * batch).play(7)
    assert len(player.exploring) == (7 - 1 - lag) * 2 and not without.exploring
    for ticket, other in zip(player.plain, without.plain, strict=True):
        assert replace(ticket, ticket_id=0) == replace(other, ticket_id=0)
    assert player.kept_plain() == without.kept_plain()
    one, other = scheduler.state_dict(), without.scheduler.state_dict()
    np.testing.assert_equal(one["statistics"]["plugs"], other["statistics"]["plugs"])
    assert one["statistics"]["fold_metrics"] == other["statistics"]["fold_metrics"]
    for key in ("earlier", "earlier_next", "metrics"):
        assert one["selecting"][key] == other["selecting"][key]
    found, expected = scheduler.metrics(), without.scheduler.metrics()
    for key in PLAIN_METRICS & set(expected):
        assert found[key] == expected[key], key


def test_exploring_tickets_repeat_some_of_the_batch_at_the_temperature_in_force(
    make_scheduler, make_report
):
    scheduler = make_scheduler(entropy_control=CONTROL)
    # Below the target, at it, not known, above it: that of batch b is in force for batch b + 1.
    told = [0.1, 0.6, math.nan, 0.9, 0.2, 0.1]
    player = Player(scheduler, make_report, entropy=told.__getitem__).play(6)
    assert not any(s.exploring for s in player.selections[0])
    factors = []
    for batch in range(1, 6):
        members = player.members[batch]
        plain = [ticket for ticket in player.plain if ticket.ticket_id in members]
        exploring = [ticket for ticket in player.exploring if ticket.ticket_id in members]
        assert len(plain) == 8 and len(exploring) == 2
        ids = [ticket.ticket_id for ticket in [*plain, *exploring]]
        assert list(members) == ids == sorted(ids)
        factors.append({ticket.temperature_factor for ticket in exploring})
        twins = [replace(t, ticket_id=0, temperature_factor=1.0) for t in exploring]
        assert all(t in [replace(p, ticket_id=0) for p in plain] for t in twins)
    assert factors == [{1.2}, {0.8}, {0.8}, {0.8}, {1.2}]
    assert scheduler.metrics()["cost/exploring_temperature_factor"] == 1.2


def test_no_entropy_no_exploring_ticket(make_scheduler, make_report):
    scheduler = make_scheduler(entropy_control=CONTROL)
    player = Player(scheduler, make_report, entropy=lambda batch: math.nan).play(3)
    assert not player.exploring
    assert scheduler.metrics()["cost/exploring_temperature_factor"] == 1.0


def test_a_folded_batch_has_no_entropy_to_tell(make_scheduler, make_report):
    scheduler = make_scheduler(entropy_control=CONTROL)
    Player(scheduler, make_report, entropy=lambda batch: 1.0).play(3)
    with pytest.raises(ValueError, match="batch must be complete and not folded yet, got 1"):
        scheduler.learned(1, Feedback(2.0, 1.0, 1.0))


def test_a_batch_without_members_explores_nothing(make_scheduler, make_report):
    def alike(ticket, **changes):
        return make_report(ticket, rewards=np.ones(ticket.num_samples), **changes)

    scheduler = make_scheduler(allocator=DynamicSampling(max_rounds=2), entropy_control=CONTROL)
    player = Player(scheduler, alike, entropy=lambda batch: 1.0).play(3)
    assert player.selections == [[], [], []] and not player.exploring


def exploring_ticket(number=7, weight=2.5):
    return Ticket(number, number % 3, 4, 0.25, weight, 128, temperature_factor=1.2)


def test_rewarded_responses_are_kept_with_their_reward_and_failed_ones_count(
    make_config, make_report, empty_report, pool
):
    plugs = Plugs.of(make_config(), pool)
    ticket = exploring_ticket()
    rewards = np.array([0.25, 0.0, -0.5, np.nan])
    report = make_report(ticket, rewards=rewards, status=np.array([0, 0, 0, 2]))
    failed = replace(ticket, ticket_id=8)
    chosen, empty = select_exploring(
        plugs, CONTROL, [ticket, failed], [report, empty_report(failed)], 8, 100.0
    )
    assert chosen.keep.tolist() == [True, False, False, False]
    assert chosen.advantages.tolist() == [0.25, 0.0, 0.0, 0.0]
    # coefficient * weight * P / E; the learner divides by P.
    assert chosen.weight.tolist() == [0.5 * 2.5 * 8 / 2, 0.0, 0.0, 0.0]
    assert chosen.factors == pytest.approx(1 / report.lengths)
    assert chosen.exploring and empty.exploring and len(empty.keep) == 0


@pytest.mark.parametrize("aggregation", [SequenceMean(), ConstantLength(), PromptMean()])
def test_the_term_is_a_mean_over_the_plain_tickets_whichever_are_repeated(
    make_config, make_report, pool, aggregation
):
    plugs = Plugs.of(make_config(aggregation=aggregation), pool)
    tickets = [exploring_ticket(k, weight=0.5 + k) for k in range(4)]
    reports = [make_report(ticket) for ticket in tickets]

    def term(chosen):
        selections = select_exploring(
            plugs, CONTROL, [tickets[k] for k in chosen], [reports[k] for k in chosen], 4, 50.0
        )
        return sum((s.weight * s.factors * s.advantages).sum() / 4 / 4 for s in selections)

    pairs = [(i, j) for i in range(4) for j in range(4) if i < j]
    lengths = [report.lengths for report in reports]
    factors = aggregation.factors(lengths, [group > 0 for group in lengths], 50.0)
    rows = zip(tickets, factors, reports, strict=True)
    expected = 0.5 * np.mean([t.weight * (f * r.rewards).mean() for t, f, r in rows])
    assert np.mean([term(pair) for pair in pairs]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("price", [None, SecondsPrice()])
def test_the_ledger_counts_what_exploring_costs(make_scheduler, make_report, price):
    plugs = {} if price is None else {"price": price}
    scheduler = make_scheduler(**plugs, entropy_control=CONTROL, thinning=CostAware(budget=0.5))
    player = Player(scheduler, make_report, entropy=lambda batch: 0.1).play(4)
    reports = [player.reports[ticket.ticket_id] for ticket in player.exploring]
    metrics = scheduler.metrics()
    assert metrics["cost/exploring_tickets"] == len(reports) == 6
    assert metrics["cost/exploring_tokens"] == sum(r.generated_tokens for r in reports)
    everything = sum(report.generated_tokens for report in player.reports.values())
    assert metrics["cost/generated_tokens"] == everything
    kept = [(s, player.reports[s.ticket_id]) for batch in player.selections for s in batch]
    trained = sum(int((r.lengths + r.prompt_tokens)[s.keep].sum()) for s, r in kept)
    assert metrics["cost/trained_tokens"] == trained
    # What exploring tickets train on no thinning could have saved.
    explored = sum(int((r.lengths + r.prompt_tokens)[s.keep].sum()) for s, r in kept if s.exploring)
    usable = sum(int((r.lengths + r.prompt_tokens).sum()) for s, r in kept if not s.exploring)
    assert explored > 0 and metrics["cost/selectable_tokens"] == usable + explored


def test_exploring_responses_are_never_thinned(make_scheduler, make_report):
    scheduler = make_scheduler(entropy_control=CONTROL, thinning=CostAware(budget=0.1))
    player = Player(scheduler, make_report, entropy=lambda batch: 0.1).play(5)
    found = [s for batch in player.selections for s in batch if s.exploring]
    assert len(found) == 8
    for selection in found:
        rewards = player.reports[selection.ticket_id].rewards
        assert selection.keep.tolist() == (rewards > 0).tolist()


@pytest.mark.parametrize("lag", [0, 2])
def test_a_saved_state_goes_on_with_the_same_exploring_tickets(
    make_scheduler, make_report, tmp_path, lag
):
    def entropy(batch):
        return 0.3 * (batch % 4)

    def start():
        return make_scheduler(entropy_control=CONTROL, max_staleness=lag)

    whole = Player(start(), make_report, lag=lag, entropy=entropy).play(8)
    player = Player(start(), make_report, lag=lag, entropy=entropy).play(4)
    save_state(tmp_path / "state", player.scheduler.state_dict())
    player.scheduler = start()
    player.scheduler.load_state_dict(load_state(tmp_path / "state"))
    player.play(4)
    assert player.exploring == whole.exploring and player.plain == whole.plain
    assert {ticket.temperature_factor for ticket in whole.exploring} == {0.8, 1.2}
    assert player.kept_plain() == whole.kept_plain()


def test_penalties_are_of_plain_tickets(make_scheduler, make_report):
    scheduler = make_scheduler(entropy_control=CONTROL)
    Player(scheduler, make_report, entropy=lambda batch: 0.1).play(1)
    drawn = scheduler.draw(1, 1)
    reports = [make_report(ticket) for ticket in drawn.tickets]
    penalties = [np.full(report.num_responses, 0.25) for report in reports[:8]]
    selections = select(scheduler, 1, reports, penalties=penalties)
    assert len(selections) == 10
    assert all(set(s.advantages.tolist()) <= {0.0, 1.0} for s in selections[8:])


def test_a_thinning_of_tokens_is_refused(make_config):
    with pytest.raises(ValueError, match=r"^scheduler\.entropy_control must be null with a thinn"):
        make_config(entropy_control=CONTROL, thinning=D3s())
    whole_tokens = D3s(token_share_start=1.0, token_share_end=1.0)
    assert make_config(entropy_control=CONTROL, thinning=whole_tokens).num_exploring == 2


def test_another_plug_is_refused(make_config):
    with pytest.raises(ValueError, match=r"^scheduler\.entropy_control must be a plug with the"):
        make_config(entropy_control=object())


def test_the_objective_is_not_the_uniform_one(make_config):
    assert make_config().objective_preserving
    assert not make_config(entropy_control=CONTROL).objective_preserving
