"""Laws that every cost plug in conf/ obeys; a new YAML is tested by being there."""

import pickle
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from cost.config import SchedulerConfig
from cost.prompts import PromptPool, Visit, prompt_pool
from cost.reports import usable
from cost.scheduler import PLUGS, Scheduler
from cost.state import from_plain, initial_state, learns, to_plain, updated, with_state
from cost.thinning import Candidates
from cost.types import LengthReport

CONF = Path(__file__).parents[2] / "conf"
DEFAULTS = {
    "length": "pool_shrunk", "price": "tokens", "utility": "group_surprise",
    "allocator": "square_root", "thinning": "cost_aware", "proxy": "surprise",
    "advantage": "group_standardised", "aggregation": "sequence_mean",
}  # fmt: skip
quick = settings(max_examples=25, deadline=None)


def names(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def members(group: str) -> list[Any]:
    return [pytest.param(build(group, name), id=name) for name in names(group)]


def build(group: str, name: str) -> Any:
    return instantiate(OmegaConf.load(CONF / group / f"{name}.yaml"), _convert_="object")


def config(**choices: str) -> SchedulerConfig:
    """Compose as hydra does: YAMLs merged into the structured schema, then instantiated."""
    picked = {
        group: OmegaConf.load(CONF / group / f"{name}.yaml")
        for group, name in (DEFAULTS | choices).items()
    }
    schema = OmegaConf.structured(SchedulerConfig)
    composed: SchedulerConfig = instantiate(OmegaConf.merge(schema, picked), _convert_="object")
    return composed


def random_pool(rng: np.random.Generator, size: int) -> PromptPool:
    sources = [f"source{code}" for code in rng.integers(0, 3, size)]
    return prompt_pool(rng.integers(1, 300, size), sources, max_tokens=500)


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
            status=status, surprise=lengths * rng.random(size), engine_seconds=1.0, version=0,
        )  # fmt: skip
        ok = usable(report)
        advantages = np.where(ok, rng.normal(size=size), 0.0)
        visits.append(Visit(report, float(rng.uniform(0.2, 5)), ok, advantages, -1.0))
    return visits


def random_candidates(rng: np.random.Generator, size: int) -> Candidates:
    status_ok = rng.random(size) < 0.8
    advantages = np.where(status_ok & (rng.random(size) < 0.7), rng.normal(size=size), 0.0)
    return Candidates(
        scores=np.abs(advantages) * rng.lognormal(0, 2, size),
        costs=rng.uniform(1, 500, size),
        advantages=advantages,
        usable=status_ok,
        groups=np.sort(rng.integers(0, 3, size)),
    )


@pytest.mark.parametrize("group", PLUGS)
def test_defaults_and_members_exist(group):
    assert DEFAULTS[group] in names(group)


@pytest.mark.parametrize(
    ("group", "name"), [(group, name) for group in PLUGS for name in names(group)]
)
def test_every_member_composes_pickles_and_runs(group, name):
    composed = config(**{group: name})
    plug = getattr(composed, group)
    assert plug == build(group, name)
    assert pickle.loads(pickle.dumps(plug)) == plug
    assert type(plug).__dataclass_params__.frozen and not hasattr(plug, "__dict__")
    scheduler = Scheduler(composed, np.arange(1, 13), ["a", "b", "c"] * 4, 500, seed=0)
    for seed in range(3):
        rng = np.random.default_rng(seed)
        tickets = scheduler.draw(6, scheduler.next_ticket_id)
        reports = [
            LengthReport(
                ticket.ticket_id, ticket.prompt_index, 5, 5, rng.integers(0, 500, 8),
                np.zeros(8, bool), rng.integers(0, 2, 8).astype(float), np.zeros(8, int),
                rng.random(8), 1.0, 0,
            )
            for ticket in tickets
        ]  # fmt: skip
        for selection in scheduler.select(reports):
            assert np.isfinite(selection.weight).all() and (selection.weight >= 0).all()
            assert ((selection.weight > 0) == selection.keep).all()
            assert np.isfinite(selection.factors).all() and (selection.factors > 0).all()
    assert all(np.isfinite(value) for value in scheduler.metrics().values())


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
        pool.prompt_tokens[order], pool.source_codes[order], pool.source_names, pool.max_tokens
    )
    shuffled_visits = []
    for visit in visits:
        fields = {name: getattr(visit.report, name) for name in LengthReport.__slots__}
        fields["prompt_index"] = int(place[visit.report.prompt_index])
        shuffled_visits.append(
            Visit(
                LengthReport(**fields), visit.weight, visit.usable, visit.advantages,
                visit.length_exponent,
            )
        )  # fmt: skip

    def read(plug, state, prompts, rates):
        if group == "length":
            return with_state(plug.estimate, state)(prompts)
        return with_state(plug.value, state)(prompts, rates, 8)

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
        if learns(plug):
            half = updated(plug, initial_state(plug, pool), pool, visits[: count // 2])
            half = from_plain(initial_state(plug, pool), to_plain(half))
            stepped = updated(plug, half, pool, visits[count // 2 :])
            np.testing.assert_allclose(
                read(plug, stepped, pool, rates), values, rtol=1e-6, atol=1e-9
            )


@pytest.mark.parametrize("plug", members("price"))
@given(st.lists(st.tuples(st.integers(1, 10**5), st.integers(0, 10**5)), min_size=1))
@quick
def test_price(plug, rows):
    tokens, lengths = np.array(rows).T
    cost = plug.price(tokens, lengths)
    assert cost.dtype == np.float64 and (cost > 0).all()
    assert (plug.price(tokens, lengths + 1) >= cost).all()


@pytest.mark.parametrize("plug", members("allocator"))
@given(seed=st.integers(0, 10**6), size=st.integers(1, 40), spread=st.sampled_from([0, 1, 30]))
@quick
def test_allocator(plug, seed, size, spread):
    rng = np.random.default_rng(seed)
    utilities, costs = rng.lognormal(0, spread, size), rng.lognormal(0, min(spread, 3), size)
    utilities[rng.random(size) < 0.3] = 0.0
    rates = rng.random(size)
    allocation = plug.allocate(utilities, costs, rates, 8)
    p = allocation.probabilities
    assert p.sum() == pytest.approx(1, abs=1e-9) and (p > 0).all()
    assert allocation.group_sizes.dtype == np.int64 and (allocation.group_sizes >= 1).all()
    if plug.objective_preserving:
        np.testing.assert_allclose(p * allocation.weights, 1 / size, rtol=1e-9)
    assert np.ptp(p) == 0 or not plug.uniform
    order = rng.permutation(size)
    other = plug.allocate(utilities[order], costs[order], rates[order], 8)
    np.testing.assert_allclose(other.probabilities, p[order], rtol=1e-9)
    indices, _ = plug.draws.draw(plug.draws.initial_state(size), p, 7, rng)
    assert indices.shape == (7,) and indices.min() >= 0 and indices.max() < size


@pytest.mark.parametrize("plug", members("allocator"))
def test_allocator_draws_are_unbiased(plug):
    """Mean of the weighted batch over many independent batches, within 5 standard errors."""
    rng = np.random.default_rng(0)
    size, values = 7, np.arange(7.0)
    allocation = plug.allocate(rng.random(size), rng.uniform(1, 9, size), rng.random(size), 8)
    if not plug.objective_preserving:
        pytest.skip("re-weights on purpose")
    estimates = []
    for seed in range(3000):
        state = plug.draws.initial_state(size)
        draws, _ = plug.draws.draw(
            state, allocation.probabilities, 3, np.random.default_rng([1, seed])
        )
        estimates.append((allocation.weights * values)[draws].mean())
    error = np.mean(estimates) - values.mean()
    assert abs(error) < 5 * np.std(estimates) / np.sqrt(len(estimates)) + 1e-12


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


@pytest.mark.parametrize("plug", members("thinning"))
@given(seed=st.integers(0, 10**6), size=st.integers(0, 30))
@quick
def test_thinning(plug, seed, size):
    candidates = random_candidates(np.random.default_rng(seed), size)
    thinning = plug.thin(candidates, np.random.default_rng(seed))
    q = thinning.probabilities
    assert ((q >= 0) & (q <= 1)).all() and np.isfinite(q).all()
    assert (q[thinning.keep] > 0).all() and not (thinning.keep & ~candidates.usable).any()
    if plug.objective_preserving:
        assert (q[candidates.usable & (candidates.advantages != 0)] > 0).all()
    again = plug.thin(candidates, np.random.default_rng(seed))
    assert (again.keep == thinning.keep).all()


@pytest.mark.parametrize("plug", members("thinning"))
def test_thinning_keeps_with_the_probability_it_states(plug):
    if not plug.objective_preserving:
        pytest.skip("re-weights on purpose")
    candidates = random_candidates(np.random.default_rng(0), 12)
    runs = [plug.thin(candidates, np.random.default_rng([1, seed])) for seed in range(3000)]
    share = np.mean([run.keep for run in runs], axis=0)
    q = runs[0].probabilities
    assert (np.abs(share - q) <= 5 * np.sqrt(q * (1 - q) / len(runs)) + 1e-12).all()


@pytest.mark.parametrize("plug", members("advantage"))
@given(
    st.lists(st.tuples(st.floats(-1e6, 1e6), st.booleans()), max_size=12),
    st.randoms(use_true_random=False),
)
@quick
def test_advantage(plug, rows, random):
    rewards = np.array([reward for reward, _ in rows], dtype=float)
    ok = np.array([flag for _, flag in rows], dtype=bool)
    advantages = plug.advantages(np.where(ok, rewards, np.nan), ok)
    assert advantages.shape == rewards.shape and advantages.dtype == np.float64
    assert np.isfinite(advantages).all() and (advantages[~ok] == 0).all()
    if ok.sum() < 2 or np.ptp(rewards[ok]) == 0:
        assert (advantages == 0).all()
    order = list(range(len(rows)))
    random.shuffle(order)
    np.testing.assert_allclose(
        plug.advantages(rewards[order], ok[order]), advantages[order], rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("plug", members("aggregation"))
def test_aggregation(plug):
    lengths = [np.array([3, 9]), np.array([0]), np.zeros(0, dtype=np.int64), np.array([5, 5, 5])]
    for flags in product([True, False], repeat=2):
        ok = [np.full(len(group), flags[k % 2]) for k, group in enumerate(lengths)]
        factors = plug.factors(lengths, ok, 12.0)
        assert [len(group) for group in factors] == [2, 1, 0, 3]
        assert all(np.isfinite(a).all() and (a > 0).all() for a in factors)
        ratio = factors[0][1] / factors[0][0]
        assert ratio == pytest.approx(3.0**plug.length_exponent)
    if plug.objective_preserving:
        alone = plug.factors(lengths[:1], ok[:1], 12.0)[0]
        np.testing.assert_array_equal(alone, factors[0])
