"""Figures of a study of predictions: closed forms on made data, and one run without a model."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from conf.prediction import PredictConfig
from conf.studies import ProbedModelConfig
from cost.prices.tokens import TokenPrice
from cost.state_file import save_state
from cost.worth.lengths import PoolShrunkLength
from cost.worth.utilities import ConstantUtility, PosteriorMoment
from launch.cli.refusals import UserError
from launch.record.counter import Counter
from launch.study.prediction import collection
from launch.study.prediction.beliefs import (
    cost_times_moment,
    cost_times_variance,
    splits,
    truth,
)
from launch.study.prediction.collection import Collected, collected, standardised
from launch.study.prediction.readings import components, hashed_ngrams, tables
from launch.study.prediction.study import calibration_error, judge, r_squared
from rollout.rewards.chain import ChainReward
from rollout.tasks.chain import ChainTask
from rollout.types import Prompt
from tests.launch.programs import call


class OtherReward(ChainReward):
    pass


@pytest.fixture
def config():
    return PredictConfig(
        model=ProbedModelConfig(path="model"),
        task=ChainTask(),
        held_out=ChainTask(),
        reward=ChainReward(),
        length=PoolShrunkLength(),
        price=TokenPrice(),
        utilities={"constant": ConstantUtility(), "posterior": PosteriorMoment()},
        group_size=4,
        splits=3,
    )


@pytest.fixture
def data(config):
    """Half of 40 prompts are solved half of the time; the features tell which."""
    rng = np.random.default_rng(0)
    size, responses = 40, config.num_responses
    mixed = np.arange(size) % 2 == 0
    rewards = np.where(mixed[:, None], rng.random((size, responses)) < 0.5, 0.0).astype(float)
    gradients = rng.normal(size=(size, responses, 5))
    products = np.einsum("nik,njk->nij", gradients, gradients)
    return Collected(
        prompt_tokens=np.full(size, 9),
        rewards=rewards,
        lengths=np.full((size, responses), 10),
        surprise=np.ones((size, responses)),
        products=products,
        adam_products=products,
        states=rng.normal(size=(size, 3)),
        entropies=rng.random(size),
    )


def made_prompts(data, features=None):
    return [
        Prompt(
            i,
            np.full(9, i, np.int32),
            "1",
            "made",
            "?",
            features=() if features is None else (each,),
        )
        for i, each in enumerate(np.zeros(data.num_prompts) if features is None else features)
    ]


def test_even_draws_and_whole_passes_are_what_is_compared_with():
    rng = np.random.default_rng(0)
    moments, means, costs = rng.random(9) + 1, rng.random(9), rng.random(9) + 1
    assert cost_times_moment(np.full(9, 0.3), moments, costs) == pytest.approx(1)
    assert cost_times_variance(np.ones(9), moments, means, costs) == pytest.approx(1)
    # Passing over what has no gradient saves its cost and adds nothing.
    moments[0] = means[0] = 0.0
    chances = np.array([0.2] + [1.0] * 8)
    saved = 1 - 0.8 * costs[0] / costs.sum()
    assert cost_times_variance(chances, moments, means, costs) == pytest.approx(saved)


def test_r_squared_is_1_where_all_that_is_off_is_noise():
    rng = np.random.default_rng(1)
    rates = rng.random(4000)
    seen = rates + 0.3 * rng.normal(size=4000)
    assert r_squared(rates, seen, noise=0.09) == pytest.approx(1, abs=0.05)
    assert r_squared(np.full(4000, seen.mean()), seen) == pytest.approx(0, abs=1e-9)


def test_calibration_is_about_means_of_bins():
    predicted = np.linspace(0, 1, 80)
    assert calibration_error(predicted, predicted) == 0
    assert calibration_error(predicted, predicted + 0.1) == pytest.approx(0.1)
    assert calibration_error(np.zeros(80), np.tile([0.0, 1.0], 40)) == pytest.approx(0.5)


def test_moments_are_those_of_random_groups(config, data):
    """Independent gradients of unit variance in 5 dimensions: V = 5 / n, B = 0, in mixed groups."""
    config = replace(config, judged_groups=2)
    true = truth(config, data, splits(config, data)[0], 0)
    assert (true.moments["plain"][1::2] == 0).all() and (true.mixed[1::2] == 0).all()
    per_mixed = true.moments["plain"][::2].sum() / true.mixed[::2].sum()
    assert per_mixed == pytest.approx(5 / 4, rel=0.2)
    assert abs(true.squared_means["plain"][::2].mean()) < 0.2
    assert true.costs.tolist() == [19.0] * 40


def test_visits_and_judgement_share_no_response(config, data):
    for split in splits(config, data):
        both = np.concatenate([split.visits, split.judging])
        assert sorted(both.tolist()) == list(range(config.num_responses))
        assert split.visited_first.sum() == 20


def test_what_features_tell_is_known_before_a_visit_and_the_rest_after(config, data):
    solved = (np.arange(40) % 2 == 0) * 1.0
    report = judge(config, made_prompts(data, solved), data)
    blind, told = report["by_features"]["length"], report["by_features"]["task"]
    assert told["0"]["pass_rate_r2"]["value"] > 0.6 > blind["0"]["pass_rate_r2"]["value"]
    assert blind["2"]["pass_rate_r2"]["value"] > 0.6
    for features, visits in ((told, "0"), (blind, "2")):
        found = features[visits]["posterior/plain/draws"]["value"]
        assert found < 0.9 * features[visits]["constant/plain/draws"]["value"]
        assert features[visits]["posterior/plain/passes_to_epoch"]["value"] < 0.95
    assert report["draws"]["plain"]["variance_share"] == pytest.approx(1, abs=0.15)


def test_tables_leave_out_what_tells_nothing(data):
    found = tables(made_prompts(data), replace(data, entropies=np.zeros(40)))
    assert list(found) == ["length", "hidden states", "n-grams"]
    assert found["length"] is None and found["hidden states"].shape == (40, 3)
    assert components(np.ones((4, 2))) is None
    counts = hashed_ngrams([np.array([1, 2, 1]), np.array([1, 2, 1]), np.array([5])])
    assert (counts[0] == counts[1]).all() and np.abs(counts).sum(axis=1).max() <= 5


def test_advantages_of_equal_rewards_are_0():
    found = standardised(np.array([[1.0, 1.0], [0.0, 1.0]]))
    assert found.tolist() == [[0.0, 0.0], [-1.0, 1.0]]


@pytest.fixture
def written(config, data, tmp_path, monkeypatch):
    """The configuration with a file that a first call wrote."""
    monkeypatch.setattr(collection, "_collect", lambda *_: data)
    config = replace(config, data=str(tmp_path / "data.npz"))
    assert collect(config, made_prompts(data)) is data
    return config


def collect(config, prompts):
    return collected(config, prompts, SimpleNamespace, lambda sampled: None)


def test_a_file_is_read_again(written, data):
    np.testing.assert_array_equal(collect(written, made_prompts(data)).products, data.products)


def test_a_file_of_other_prompts_is_refused(written, data):
    prompts = made_prompts(data)
    with pytest.raises(UserError, match=r"data must hold 16 responses to each of the 39 prompts"):
        collect(written, prompts[:-1])
    with pytest.raises(UserError, match=r"data must hold responses to the prompts of the task;"):
        collect(written, [replace(prompts[0], answer="!"), *prompts[1:]])


@pytest.mark.parametrize(
    ("key", "other"),
    [
        ("model", ProbedModelConfig(path="another")), ("temperature", 0.6), ("max_tokens", 99),
        ("seed", 1), ("gradients", False), ("reward", OtherReward()),
    ],
)  # fmt: skip
def test_a_file_of_other_settings_is_refused_by_name(written, data, key, other):
    """Its figures would be told as those of the settings asked for."""
    with pytest.raises(
        UserError, match=rf"^data must be of responses sampled with {key}.*="
    ) as said:
        collect(replace(written, **{key: other}), made_prompts(data))
    assert written.data in str(said.value)


@pytest.mark.parametrize("content", [None, {}, {"settings": 1, "prompts": 1, "rewards": 1}])
def test_a_file_of_somebody_else_is_refused(written, data, content):
    if content is None:
        Path(written.data).write_bytes(b"something else")
    else:
        save_state(written.data, content)
    with pytest.raises(
        UserError, match=r"data must be a file that launch\.predict of this version"
    ):
        collect(written, made_prompts(data))


def test_a_task_without_gradient_is_refused(config, data):
    with pytest.raises(UserError, match=r"task must have prompts that are sometimes solved"):
        judge(config, made_prompts(data), replace(data, rewards=np.zeros_like(data.rewards)))


@pytest.mark.parametrize("key", ["data", "out"])
def test_a_file_that_cannot_be_written_is_refused_before_anything_is_sampled(key, tmp_path):
    done = call("launch.predict", f"{key}={tmp_path}")
    assert done.status == 2
    assert done.err.startswith(f"error: {key} must be a file that can be written, got '{tmp_path}'")


def test_sampling_tells_how_far_it_is_after_every_call_of_the_model(config, monkeypatch):
    """Few prompts are sampled together, and their rounds one after the other."""
    told = []

    class Told(Counter):
        def __init__(self, *arguments):
            super().__init__(*arguments, quiet=True)

        def to(self, done, text=""):
            told.append(done)

    def sample(prompts, *, num_samples, max_tokens, seed):
        return [[np.zeros(3, np.int64)] * num_samples for _ in prompts]

    monkeypatch.setattr(collection, "Counter", Told)
    collection._sample(config, [np.zeros(2)] * 5, SimpleNamespace(sample=sample))
    assert told == [5, 10, 15, 20]
