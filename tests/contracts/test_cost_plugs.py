"""Laws that every cost plug in conf/ obeys; a new YAML is tested by being there."""

import pickle
from collections import Counter
from copy import deepcopy
from dataclasses import replace
from functools import cache, partial
from itertools import product, zip_longest
from typing import Any

import numpy as np
import pytest
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from cost.advantages.accepted import Accepted
from cost.advantages.across_batch import BatchStandardised, Consistency
from cost.advantages.smooth_cumulative import SmoothCumulative
from cost.advantages.types import group_batch
from cost.advantages.within_group import VirtualBest
from cost.draws.allocators.types import BatchSoFar, Complete, Estimates, Snapshot
from cost.ledger import METRICS
from cost.prices.types import GeneratingPrice, SharesPrompts
from cost.prompts import PromptPool, Visit, prompt_pool
from cost.scheduler.config import PROTOCOLS, SchedulerConfig
from cost.scheduler.scheduler import Scheduler
from cost.state import Learns, from_plain, initial_state, keywords, to_plain, updated
from cost.thinning.thinning import Candidates, SpendingRule
from cost.types import BatchSpending, Draw, Feedback, FloatArray, LengthReport, Selection, Ticket
from tests.cost.play import select
from tests.places import CONF

DEFAULTS = {
    "length": "pool_shrunk", "price": "tokens", "utility": "group_surprise",
    "allocator": "square_root", "thinning": "cost_aware", "proxy": "surprise",
    "advantage": "group_standardised", "aggregation": "sequence_mean",
}  # fmt: skip
quick = settings(max_examples=25)


def names(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def members(group: str) -> list[Any]:
    return [pytest.param(build(group, name), id=name) for name in names(group)]


@cache
def load(group: str, name: str) -> Any:
    """A member's YAML, with what it takes from the rest of a run's configuration filled in."""
    run = {
        "model": {"path": str(CONF.parent / "rollout" / "tasks" / "chain_model")},
        "rollout": {"engine": {"prefix_caching": True}},
        "learner": {"gradient_checkpointing": False, "shared_prefix": True},
    }
    whole = OmegaConf.merge(run, {"plug": OmegaConf.load(CONF / group / f"{name}.yaml")})
    return OmegaConf.create(OmegaConf.to_container(whole.plug, resolve=True))


def build(group: str, name: str) -> Any:
    return instantiate(load(group, name), _convert_="object")


def config(**choices: str) -> SchedulerConfig:
    """Compose as hydra does: YAMLs merged into the structured schema, then instantiated."""
    return replace(_config(tuple((DEFAULTS | choices).items())))


@cache
def _config(choices: tuple[tuple[str, str], ...]) -> SchedulerConfig:
    picked = {group: load(group, name) for group, name in choices}
    schema = OmegaConf.structured(SchedulerConfig)
    small = {"tickets_per_step": 6}
    composed: SchedulerConfig = instantiate(
        OmegaConf.merge(schema, picked, small), _convert_="object"
    )
    return composed


def random_pool(rng: np.random.Generator, size: int) -> PromptPool:
    sources = [f"source{code}" for code in rng.integers(0, 3, size)]
    columns = int(rng.integers(0, 3))
    features = rng.normal(size=(size, columns)) if columns else None
    return prompt_pool(rng.integers(1, 300, size), sources, max_tokens=500, features=features)


def random_visits(rng: np.random.Generator, pool: PromptPool, count: int) -> list[Visit]:
    visits = []
    for key in range(count):
        size = int(rng.integers(1, 6))
        lengths = rng.integers(0, 501, size)
        status = rng.choice([0, 0, 0, 1, 2], size)
        rewards = np.where(status == 0, rng.choice([0.0, 1.0, -0.5], size), np.nan)
        report = LengthReport(
            ticket_id=key, prompt_index=int(rng.integers(pool.num_prompts)), prompt_tokens=9,
            prefill_tokens=9, lengths=lengths, truncated=lengths == 500, rewards=rewards,
            status=status, surprise=lengths * rng.random(size), answer_codes=np.arange(size),
            engine_seconds=1.0, version=0,
        )  # fmt: skip
        ok = report.usable
        advantages = np.where(ok, rng.normal(size=size), 0.0)
        factors = 1 / np.maximum(lengths, 1)
        visits.append(Visit(report, float(rng.uniform(0.2, 5)), ok, advantages, factors))
    return visits


def random_candidates(rng: np.random.Generator, size: int, penalised: bool = False) -> Candidates:
    status_ok = rng.random(size) < 0.8
    of_rewards = np.where(status_ok & (rng.random(size) < 0.7), rng.normal(size=size), 0.0)
    advantages, penalties = of_rewards, None
    if penalised:
        penalties = rng.normal(size=size) * rng.choice([1e-5, 0.1, 2.0])
        advantages = np.where(status_ok, of_rewards - penalties, 0.0)
    return Candidates(
        penalties=penalties,
        signal=of_rewards != 0 if penalised else None,
        scores=np.abs(advantages) * rng.lognormal(0, 2, size),
        costs=rng.uniform(1, 500, size),
        advantages=advantages,
        rewards=np.where(status_ok, rng.choice([0.0, 0.5, 1.0], size), np.nan),
        usable=status_ok,
        groups=np.sort(rng.integers(0, 3, size)),
    )


def start(composed: SchedulerConfig) -> Scheduler:
    sources = ["a", "b", "c"] * 4
    return Scheduler(composed, np.arange(1, 13), sources, 500, seed=0, max_staleness=2)


def play_ticket(ticket: Ticket, version: int = 0) -> LengthReport:
    """Prompt 0 never passes, prompt 1 always, the others in between; a few tickets fail."""
    rng = np.random.default_rng([7, ticket.ticket_id])
    size = 0 if rng.random() < 0.05 else ticket.num_samples
    rate = ticket.prompt_index / 10 if ticket.prompt_index != 1 else 1.0
    lengths = rng.integers(0, 501, size)
    return LengthReport(
        ticket.ticket_id, ticket.prompt_index, 5, 5, lengths, lengths == 500,
        (rng.random(size) < rate).astype(float), np.zeros(size, int), rng.random(size) * 5,
        np.arange(size) // 2 * 2, 1.0, version,
    )  # fmt: skip


def play_norms(ticket: Ticket, num_responses: int) -> np.ndarray:
    return np.random.default_rng([8, ticket.ticket_id]).uniform(0, 2, num_responses)


class Play:
    """Plays batches one after the other against a scheduler, round by round."""

    def __init__(self, scheduler: Scheduler, batch: int = 0) -> None:
        self.scheduler, self.batch = scheduler, batch
        self.tickets: dict[int, Ticket] = {}
        self.reports: dict[int, LengthReport] = {}
        self.draws: list[Draw] = []
        self.norms: dict[int, FloatArray] = {}

    def round(self) -> Draw:
        """Draw a round, report its tickets and give the norms it asks for."""
        drawn = self.scheduler.draw(self.batch, self.batch, self.norms)
        assert drawn.tickets or drawn.members is not None
        for ticket in drawn.tickets:
            assert ticket.num_samples >= 1 and 0 < ticket.probability <= 1
            assert np.isfinite(ticket.weight) and ticket.weight > 0
            self.tickets[ticket.ticket_id] = ticket
            report = play_ticket(ticket, self.batch)
            self.reports[ticket.ticket_id] = report
            self.scheduler.observe(report)
        self.norms = {
            ticket.ticket_id: play_norms(ticket, self.reports[ticket.ticket_id].num_responses)
            for ticket in drawn.tickets
            if drawn.gradient_norms
        }
        self.draws.append(drawn)
        return drawn

    def draw_batch(self) -> tuple[int, ...]:
        """Draw all rounds of the batch; return its members."""
        for _ in range(100):
            drawn = self.round()
            if drawn.members is not None:
                assert list(drawn.members) == sorted(set(drawn.members))
                assert not set(drawn.members) & set(drawn.carried)
                for key in (*drawn.members, *drawn.carried):
                    assert self.tickets[key].trainable
                return drawn.members
        raise AssertionError("the batch does not end")

    def learn(self) -> list[Selection]:
        """Select the batch that was drawn, pay for it and go on to the next."""
        members = self.draws[-1].members
        assert members is not None
        selections = select(self.scheduler, self.batch, [self.reports[key] for key in members])
        assert [selection.ticket_id for selection in selections] == list(members)
        self.scheduler.learned(self.batch, Feedback(3.0, 2.0))
        self.batch += 1
        return selections


@pytest.mark.parametrize("group", list(PROTOCOLS))
def test_defaults_and_members_exist(group):
    assert DEFAULTS[group] in names(group)


@pytest.mark.parametrize(
    ("group", "name"), [(group, name) for group in list(PROTOCOLS) for name in names(group)]
)
def test_every_member_composes_pickles_and_runs(group, name):
    composed = config(**{group: name})
    plug = getattr(composed, group)
    assert plug == build(group, name)
    assert pickle.loads(pickle.dumps(plug)) == plug
    assert type(plug).__dataclass_params__.frozen and not hasattr(plug, "__dict__")
    play = Play(start(composed))
    for _ in range(4):
        play.draw_batch()
        for selection in play.learn():
            assert np.isfinite(selection.weight).all() and (selection.weight >= 0).all()
            assert ((selection.weight > 0) == selection.keep).all()
            assert np.isfinite(selection.factors).all() and (selection.factors > 0).all()
    assert all(np.isfinite(value) for value in play.scheduler.metrics().values())


@pytest.mark.parametrize("group", ["length", "utility"])
@given(seed=st.integers(0, 10**6), size=st.integers(1, 20), count=st.integers(0, 60))
@quick
def test_prompt_statistics(group, seed, size, count):
    """Finite, in range, permutation equivariant, the same in one fold or many, restorable."""
    rng = np.random.default_rng(seed)
    pool = random_pool(rng, size)
    visits = random_visits(rng, pool, count)
    order = rng.permutation(size)
    place = np.argsort(order)
    shuffled_pool = PromptPool(
        pool.prompt_tokens[order],
        pool.source_codes[order],
        pool.source_names,
        pool.max_tokens,
        None if pool.features is None else pool.features[order],
    )
    shuffled_visits = []
    for visit in visits:
        fields = {name: getattr(visit.report, name) for name in LengthReport.__slots__}
        fields["prompt_index"] = int(place[visit.report.prompt_index])
        shuffled_visits.append(
            Visit(
                LengthReport(**fields), visit.weight, visit.usable, visit.advantages,
                visit.factors,
            )
        )  # fmt: skip

    def read(plug, state, prompts, rates):
        if group == "length":
            return plug.estimate(prompts, **keywords(state))
        return plug.value(prompts, rates, 8, **keywords(state))

    rates = rng.random(size)
    for parameter in members(group):
        plug = parameter.values[0]
        state = updated(plug, initial_state(plug, pool), pool, visits)
        values = read(plug, state, pool, rates)
        assert values.shape == (size,) and values.dtype == np.float64
        assert np.isfinite(values).all() and (values >= (1 if group == "length" else 0)).all()
        shuffled = updated(plug, initial_state(plug, shuffled_pool), shuffled_pool, shuffled_visits)
        np.testing.assert_allclose(
            read(plug, shuffled, shuffled_pool, rates[order]), values[order], rtol=1e-6, atol=1e-9
        )
        if isinstance(plug, Learns):
            half = updated(plug, initial_state(plug, pool), pool, visits[: count // 2])
            half = from_plain(initial_state(plug, pool), to_plain(half))
            stepped = updated(plug, half, pool, visits[count // 2 :])
            np.testing.assert_allclose(
                read(plug, stepped, pool, rates), values, rtol=1e-6, atol=1e-9
            )


COUNTS = st.integers(0, 10**6)
SECONDS = st.floats(0, 1e6)
SPENDINGS = st.lists(
    st.builds(
        BatchSpending, responses=COUNTS, prefill_tokens=COUNTS, response_tokens=COUNTS,
        engine_seconds=SECONDS, trained_responses=COUNTS, trained_prompt_tokens=COUNTS,
        trained_response_tokens=COUNTS, learner_seconds=SECONDS,
    ),
    max_size=5,
)  # fmt: skip


@pytest.mark.parametrize("plug", members("price"))
@given(
    rows=st.lists(st.tuples(st.integers(1, 10**5), st.integers(0, 10**5)), min_size=1),
    spendings=SPENDINGS,
    group_size=st.integers(1, 64),
)
@quick
def test_price(plug, rows, spendings, group_size):
    """Positive, finite, not decreasing in the length, elementwise, restorable."""
    state = fresh = initial_state(plug, random_pool(np.random.default_rng(0), 3))
    for spending in spendings:
        if hasattr(plug, "update_spending"):
            state = plug.update_spending(state, spending)
            assert set(plug.metrics(state)) <= set(METRICS)
            assert np.isfinite([*plug.metrics(state).values()]).all()
    tokens, lengths = np.array(rows).T
    restored = from_plain(fresh, to_plain(state))
    for method, size in ((plug.of_drawing, [group_size]), (plug.of_training, [])):
        price = partial(method, **keywords(state))
        cost = price(tokens, lengths, *size)
        assert cost.dtype == np.float64 and cost.shape == lengths.shape
        assert (cost > 0).all() and np.isfinite(cost).all()
        assert (price(tokens, lengths + 1, *size) >= cost).all()
        alone = [price(tokens[[i]], lengths[[i]], *size)[0] for i in range(len(rows))]
        np.testing.assert_allclose(alone, cost, rtol=1e-12)
        again = method(tokens, lengths, *size, **keywords(restored))
        np.testing.assert_array_equal(again, cost)
    if isinstance(plug, SharesPrompts):
        shared = plug.of_prompt(tokens, **keywords(state))
        whole = plug.of_training(tokens, np.maximum(lengths, 1), **keywords(state))
        assert (shared >= 0).all() and (shared < whole).all()
    if isinstance(plug, GeneratingPrice):
        generating = plug.of_generating(
            tokens, lengths, np.full(len(rows), group_size), **keywords(state)
        )
        drawing = plug.of_drawing(tokens, lengths, group_size, **keywords(state))
        assert (generating > 0).all() and (generating <= drawing * (1 + 1e-12)).all()


def random_estimates(rng: np.random.Generator, size: int, spread: int) -> Estimates:
    utilities = rng.lognormal(0, spread, size)
    utilities[rng.random(size) < 0.3] = 0.0
    return Estimates(
        lengths=rng.uniform(1, 500, size), costs=rng.lognormal(0, min(spread, 3), size),
        pass_rates=rng.random(size), utilities=utilities,
    )  # fmt: skip


def reordered(estimates: Estimates, order: np.ndarray) -> Estimates:
    return Estimates(*(getattr(estimates, name)[order] for name in Estimates.__slots__))


@pytest.mark.parametrize("plug", members("allocator"))
@given(seed=st.integers(0, 10**6), size=st.integers(1, 40), spread=st.sampled_from([0, 1, 30]))
@quick
def test_allocator(plug, seed, size, spread):
    rng = np.random.default_rng(seed)
    estimates, pool = random_estimates(rng, size, spread), random_pool(rng, size)
    state = plug.initial_state(pool)
    allocation = plug.allocate(estimates, state)
    p, weights = allocation.probabilities, allocation.weights
    assert p.shape == weights.shape == (size,) and p.dtype == weights.dtype == np.float64
    assert p.sum() == pytest.approx(1, abs=1e-9) and (p >= 0).all()
    assert np.isfinite(weights).all() and (weights >= 0).all()
    if plug.objective_preserving:
        assert (p > 0).all()
        np.testing.assert_allclose(p * weights, 1 / size, rtol=1e-9)
    assert np.ptp(p) == 0 or not plug.uniform
    order = rng.permutation(size)
    shuffled = PromptPool(
        pool.prompt_tokens[order], pool.source_codes[order], pool.source_names, pool.max_tokens
    )
    other = plug.allocate(reordered(estimates, order), plug.initial_state(shuffled))
    np.testing.assert_allclose(other.probabilities, p[order], rtol=1e-9)

    prepared = plug.prepare(allocation, np.random.default_rng(seed))
    so_far = BatchSoFar(5, 8, [], [], {}, ())
    drawn, after = plug.next_round(so_far, Snapshot(estimates, allocation, prepared), rng, state)
    # A round moves no probability: a state taken between rounds gives the same snapshot again.
    again = plug.allocate(estimates, after)
    np.testing.assert_array_equal(again.probabilities, p)
    np.testing.assert_array_equal(again.weights, weights)
    if isinstance(drawn, Complete):
        return
    count = len(drawn.indices)
    for values in (drawn.indices, drawn.group_sizes, drawn.probabilities, drawn.weights):
        assert values.shape == (count,)
    assert count > 0 or drawn.final
    assert ((drawn.indices >= 0) & (drawn.indices < size)).all()
    assert (drawn.group_sizes >= 1).all() and (p[drawn.indices] > 0).all()
    assert ((drawn.probabilities > 0) & (drawn.probabilities <= 1 + 1e-9)).all()
    assert np.isfinite(drawn.weights).all() and (drawn.weights > 0).all()


@pytest.mark.parametrize("name", names("allocator"))
@pytest.mark.parametrize("num_rounds", [1, 2, 3, 7])
def test_allocator_goes_on_from_a_state_taken_after_any_round(name, num_rounds):
    play = Play(start(config(allocator=name)))
    for _ in range(num_rounds):
        if play.draws and play.draws[-1].members is not None:
            play.learn()
        play.round()
    other = deepcopy(play)
    other.scheduler = start(config(allocator=name))
    other.scheduler.load_state_dict(deepcopy(play.scheduler.state_dict()))
    for one in (play, other):
        if one.draws[-1].members is None:
            one.draw_batch()
        one.learn()
        for _ in range(2):
            one.draw_batch()
            one.learn()
    assert other.draws == play.draws
    assert len(play.draws) > num_rounds


def count_numbers(
    state: Any, held: Counter[tuple[str, ...]], place: tuple[str, ...] = ()
) -> Counter[tuple[str, ...]]:
    """Add how many numbers a state holds, by place; ids of tickets and batches are one place."""
    if isinstance(state, dict):
        for key, value in state.items():
            count_numbers(value, held, (*place, "id" if key.isdigit() else key))
    elif isinstance(state, list | tuple):
        for value in state:
            count_numbers(value, held, place)
    else:
        held[place] += np.size(state)
    return held


def most_held(play: Play, num_batches: int) -> Counter[tuple[str, ...]]:
    """Play on, and return the most that the state held at each place after any of the batches."""
    most: Counter[tuple[str, ...]] = Counter()
    for _ in range(num_batches):
        play.draw_batch()
        most |= count_numbers(play.scheduler.state_dict(), Counter())
        play.learn()
        most |= count_numbers(play.scheduler.state_dict(), Counter())
    return most


LEARNING = ("length", "price", "utility", "thinning", "proxy", "advantage")


def together(*groups: str) -> list[dict[str, str]]:
    """Each member of each group once, one of every group in a run as long as there are any."""
    rows = zip_longest(*([(group, name) for name in names(group)] for group in groups))
    return [dict(each for each in row if each) for row in rows]


@pytest.mark.parametrize(
    ("choices", "num_batches"),
    [
        *(({"allocator": name}, 200) for name in names("allocator")),
        *((choices, 70) for choices in together(*LEARNING)),
    ],
    ids=lambda value: "-".join(value.values()) if isinstance(value, dict) else "",
)
def test_a_state_does_not_grow_with_the_batches(choices, num_batches):
    """Nowhere in it: what grew by a number in ten batches would be seen."""
    play = Play(start(replace(config(**choices), tickets_per_step=2)))
    early = most_held(play, num_batches // 10)
    for _ in range(num_batches // 2):
        play.draw_batch()
        play.learn()
    late = most_held(play, num_batches // 10)
    assert {k: (early[k], count) for k, count in late.items() if count > 2 * early[k] + 2} == {}


def members_of_batch(plug, pool, snapshot, rates, seed, num_groups=3):
    """Draw one batch from the start, with responses that pass at the rates of their prompts.

    Returns: Tickets of the members, and the rewards of each.
    """
    tickets: list[Ticket] = []
    reports: list[LengthReport] = []
    norms: dict[int, np.ndarray] = {}
    state = plug.initial_state(pool)
    rng, world = np.random.default_rng([1, seed]), np.random.default_rng([2, seed])
    while True:
        so_far = BatchSoFar(num_groups, 4, tickets, reports, norms, ())
        answer, state = plug.next_round(so_far, snapshot, rng, state)
        if isinstance(answer, Complete):
            chosen = [tickets[key] for key in answer.accepted[:num_groups]]
            break
        first = len(tickets)
        for index, size, p, weight in zip(
            answer.indices.tolist(), answer.group_sizes.tolist(),
            answer.probabilities.tolist(), answer.weights.tolist(), strict=True,
        ):  # fmt: skip
            key = len(tickets)
            tickets.append(Ticket(key, index, size, p, weight, 500, answer.trainable))
            rewards = (world.random(size) < rates[index]).astype(float)
            reports.append(
                LengthReport(
                    key, index, 9, 9, np.full(size, 20), np.zeros(size, bool), rewards,
                    np.zeros(size, int), 1.0 + rewards, np.arange(size), 1.0, 0,
                )
            )  # fmt: skip
            norms[key] = 1.0 + rewards * index
        if answer.final:
            chosen = tickets[first:]
            break
    return chosen, [reports[ticket.ticket_id].rewards for ticket in chosen]


@pytest.mark.parametrize("plug", members("allocator"))
def test_allocator_draws_are_unbiased(plug):
    """Mean of the weighted batch over many independent batches, within 5 standard errors.

    A response's gradient is its prompt's value plus its reward's deviation from the pass rate, so
    that choices made by what was seen in the same batch would show.
    """
    if not plug.objective_preserving:
        pytest.skip("re-weights on purpose")
    rng = np.random.default_rng(0)
    size, values = 7, np.arange(7.0)
    rates = np.linspace(0.02, 0.7, size)
    estimates = Estimates(np.full(size, 20.0), rng.uniform(1, 9, size), rates, rng.random(size))
    pool = random_pool(rng, size)
    allocation = plug.allocate(estimates, plug.initial_state(pool))
    means = []
    for seed in range(3000):
        prepared = plug.prepare(allocation, np.random.default_rng([3, seed]))
        snapshot = Snapshot(estimates, allocation, prepared)
        tickets, rewards = members_of_batch(plug, pool, snapshot, rates, seed)
        gradients = [
            ticket.weight * (values[ticket.prompt_index] + (r - rates[ticket.prompt_index]).mean())
            for ticket, r in zip(tickets, rewards, strict=True)
        ]
        means.append(np.mean(gradients))
    error = np.mean(means) - values.mean()
    assert abs(error) < 5 * np.std(means) / np.sqrt(len(means)) + 1e-12


@pytest.mark.parametrize("plug", members("proxy"))
@given(seed=st.integers(0, 10**6), size=st.integers(0, 30))
@quick
def test_proxy(plug, seed, size):
    rng = np.random.default_rng(seed)
    arguments = (
        rng.normal(size=size) * (rng.random(size) < 0.7), rng.integers(0, 500, size),
        rng.exponential(3, size), rng.uniform(1e-3, 1, size), rng.uniform(0.1, 5, size),
    )  # fmt: skip
    scores = plug.score(*arguments)
    assert scores.shape == (size,) and np.isfinite(scores).all() and (scores >= 0).all()
    assert (scores[arguments[0] == 0] == 0).all()
    order = rng.permutation(size)
    permuted = plug.score(*(argument[order] for argument in arguments))
    np.testing.assert_array_equal(permuted, scores[order])


@cache
def after_batches(plug: Any) -> dict[str, Any]:
    """Keywords of a rule's state after batches of its own; none for one without state."""
    state = initial_state(plug, random_pool(np.random.default_rng(0), 3))
    for seed in range(4 if isinstance(plug, SpendingRule) else 0):
        rng = np.random.default_rng([8, seed])
        earlier = random_candidates(rng, 20)
        state = plug.entered(plug.thinned(state, earlier, plug.thin(earlier, rng, state)))
    return keywords(state)


@pytest.mark.parametrize("plug", members("thinning"))
@given(seed=st.integers(0, 10**6), size=st.integers(0, 30), penalised=st.booleans())
@quick
def test_thinning(plug, seed, size, penalised):
    candidates = random_candidates(np.random.default_rng(seed), size, penalised)
    state = after_batches(plug)
    thinning = plug.thin(candidates, np.random.default_rng(seed), **state)
    assert set(thinning.metrics) <= set(METRICS)
    assert np.isfinite([*thinning.metrics.values()]).all()
    q = thinning.probabilities
    assert ((q >= 0) & (q <= 1)).all() and np.isfinite(q).all()
    assert (q[thinning.keep] > 0).all() and not (thinning.keep & ~candidates.usable).any()
    if plug.objective_preserving:
        assert (q[candidates.usable & (candidates.advantages != 0)] > 0).all()
        assert thinning.advantages is None and thinning.token_share == 1
    if plug.keeps_zero_advantage:
        assert (q[candidates.usable] > 0).all()
    if thinning.advantages is not None:
        assert np.isfinite(thinning.advantages).all()
        assert (thinning.advantages[~candidates.usable] == 0).all()
    assert 0 < thinning.token_share <= 1
    again = plug.thin(candidates, np.random.default_rng(seed), **state)
    assert (again.keep == thinning.keep).all()


@pytest.mark.parametrize("penalised", [False, True])
@pytest.mark.parametrize("plug", members("thinning"))
def test_thinning_keeps_with_the_probability_it_states(plug, penalised):
    if not plug.objective_preserving:
        pytest.skip("re-weights on purpose")
    candidates = random_candidates(np.random.default_rng(0), 12, penalised)
    state = after_batches(plug)
    runs = [
        plug.thin(candidates, np.random.default_rng([1, seed]), **state) for seed in range(3000)
    ]
    share = np.mean([run.keep for run in runs], axis=0)
    q = runs[0].probabilities
    assert (np.abs(share - q) <= 5 * np.sqrt(q * (1 - q) / len(runs)) + 1e-12).all()


@pytest.mark.parametrize("plug", members("clipping"))
@given(norms=st.lists(st.one_of(st.just(0.0), st.floats(1e-6, 1e6)), max_size=30))
@quick
def test_clipping(plug, norms):
    norms = np.array(norms, dtype=np.float64)
    scales = plug.scales(norms)
    assert scales.shape == norms.shape and ((scales > 0) & (scales <= 1)).all()
    order = np.random.default_rng(0).permutation(len(norms))
    np.testing.assert_allclose(plug.scales(norms[order]), scales[order], rtol=1e-9)
    np.testing.assert_allclose(plug.scales(norms * 2.0**-9), scales, rtol=1e-9)
    assert not plug.objective_preserving or (scales == 1).all()


@pytest.mark.parametrize("plug", members("reuse"))
def test_reuse_keeps_with_the_probability_it_states_what_has_a_gradient(plug):
    assert not plug.opens(0, 1.0)
    candidates = random_candidates(np.random.default_rng(0), 12, penalised=False)
    runs = [plug.thin(candidates, np.random.default_rng([1, seed])) for seed in range(3000)]
    q = runs[0].probabilities
    assert ((q > 0) == (candidates.usable & (candidates.advantages != 0))).all()
    share = np.mean([run.keep for run in runs], axis=0)
    assert (np.abs(share - q) <= 5 * np.sqrt(q * (1 - q) / len(runs)) + 1e-12).all()


BEYOND_GROUPS = (Accepted, BatchStandardised, Consistency, SmoothCumulative, VirtualBest)
"""Advantages that groups of equal rewards may have; of others those are exactly 0."""
ADVANTAGE_POOL = prompt_pool(np.ones(4, dtype=int), ["a"] * 4, max_tokens=500)


def reports_of(groups: list[list[tuple[float, bool, int, int]]]) -> list[LengthReport]:
    """Of responses (reward, whether usable, length, answer); group k is of prompt k mod 4."""
    reports = []
    for key, group in enumerate(groups):
        rewards, ok, lengths, answers = (np.array(column) for column in zip(*group, strict=True))
        codes = [answers.tolist().index(answer) for answer in answers]
        reports.append(
            LengthReport(
                key, key % 4, 5, 5, lengths, lengths < 0, np.where(ok, rewards, np.nan),
                np.where(ok, 0, 2), np.ones(len(ok)), np.array(codes), 1.0, 0,
            )
        )  # fmt: skip
    return reports


def advantages_of(plug: Any, state: Any, groups: list[Any]) -> list[np.ndarray]:
    reports = reports_of(groups)
    flat = plug.advantages(group_batch(reports, 500), **keywords(state))
    assert flat.dtype == np.float64 and np.isfinite(flat).all()
    parts = np.split(flat, np.cumsum([len(group) for group in groups])[:-1])
    assert all((part[~r.usable] == 0).all() for part, r in zip(parts, reports, strict=True))
    return parts


@pytest.mark.parametrize("plug", members("advantage"))
@given(
    st.lists(
        st.lists(
            st.tuples(
                st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(-1e3, 1e3, width=16)),
                st.booleans(), st.integers(0, 500), st.integers(0, 2),
            ), min_size=1, max_size=6,
        ), min_size=1, max_size=6,
    ),
    st.lists(st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=5), max_size=5),
    st.randoms(use_true_random=False),
)  # fmt: skip
@quick
def test_advantage(plug, groups, earlier, random):
    pool, state = ADVANTAGE_POOL, initial_state(plug, ADVANTAGE_POOL)
    before = reports_of([[(reward, True, 9, 0) for reward in group] for group in earlier])
    for report in before:
        nothing = np.zeros(report.num_responses)
        state = updated(plug, state, pool, [Visit(report, 1.0, report.usable, nothing, nothing)])
    same = partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-6)
    found = advantages_of(plug, state, groups)
    assert sum(map(len, found)) == sum(map(len, groups))
    if not isinstance(plug, BEYOND_GROUPS):
        for group, part in zip(groups, found, strict=True):
            if len({reward for reward, ok, _, _ in group if ok}) < 2:
                assert (part == 0).all()
    orders = [random.sample(range(len(group)), len(group)) for group in groups]
    shuffled = [[group[j] for j in order] for group, order in zip(groups, orders, strict=True)]
    for order, part, moved in zip(orders, found, advantages_of(plug, state, shuffled), strict=True):
        same(moved, part[order])
    # Responses without a usable reward are left out: the others get what they get without them.
    places = [k for k, group in enumerate(groups) if any(ok for _, ok, _, _ in group)]
    rest = [
        [response for response in group if response[1]] if k in places else group
        for k, group in enumerate(groups)
    ]
    for k, part in enumerate(advantages_of(plug, state, rest)):
        if k in places:
            same(part, found[k][[ok for _, ok, _, _ in groups[k]]])
    if plug.objective_preserving:
        same(advantages_of(plug, state, groups[:1])[0], found[0])


@pytest.mark.parametrize("name", names("advantage"))
@pytest.mark.parametrize("scale", [1e-5, 1.0, 1e3])
def test_penalties_enter_advantages_on_their_own_scale(name, scale):
    """Whatever a plug makes of rewards: right and wrong, thresholds and deviations are of those."""
    rewards = [np.ones(4), np.zeros(4), np.array([1.0, 0.0, 0.0, 1.0]), np.array([1, np.nan, 0, 1])]
    penalties = [scale * np.random.default_rng([5, k]).normal(2, 1, 4) for k in range(4)]

    def selected(penalties: list[np.ndarray] | None) -> list[Selection]:
        composed = replace(config(advantage=name, thinning="keep_all"), tickets_per_step=4)
        scheduler = start(replace(composed, group_size=4))
        reports = [
            replace(
                play_ticket(replace(ticket, ticket_id=1)), ticket_id=ticket.ticket_id,
                prompt_index=ticket.prompt_index, rewards=own,
                status=np.where(np.isnan(own), 2, 0),
            )
            for ticket, own in zip(scheduler.draw(0, 0).tickets, rewards, strict=True)
        ]  # fmt: skip
        return select(scheduler, 0, reports, penalties=penalties)

    plug = build("advantage", name)
    zeros = selected([np.zeros(4) for _ in rewards])
    for one, same, other, penalty in zip(
        selected(None), zeros, selected(penalties), penalties, strict=True
    ):
        np.testing.assert_array_equal(one.advantages, same.advantages)
        ok = one.weight > 0
        num = ok.sum()
        factor = num / (num - 1) if plug.size_free else 1.0
        expected = np.where(ok, -factor * (penalty - penalty[ok].mean()), 0.0)
        found = other.advantages - one.advantages
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
        assert np.abs(expected).max() > 0.1 * scale


@pytest.mark.parametrize("plug", members("advantage"))
def test_advantages_of_a_batch_without_a_response(plug):
    empty = LengthReport(
        0, 0, 5, 5, *(np.zeros(0, dtype) for dtype in (int, bool, float, int, float, int)), 1.0, 0
    )
    state = initial_state(plug, ADVANTAGE_POOL)
    found = plug.advantages(group_batch([empty, empty], 500), **keywords(state))
    assert found.shape == (0,) and found.dtype == np.float64


@pytest.mark.parametrize("plug", members("aggregation"))
def test_aggregation(plug):
    lengths = [np.array([3, 9]), np.array([0]), np.zeros(0, dtype=np.int64), np.array([5, 5, 5])]
    for flags in product([True, False], repeat=2):
        ok = [np.full(len(group), flags[k % 2]) for k, group in enumerate(lengths)]
        factors = plug.factors(lengths, ok, 12.0)
        assert [len(group) for group in factors] == [2, 1, 0, 3]
        assert all(np.isfinite(a).all() and (a > 0).all() for a in factors)
    if plug.objective_preserving:
        alone = plug.factors(lengths[:1], ok[:1], 12.0)[0]
        np.testing.assert_array_equal(alone, factors[0])
