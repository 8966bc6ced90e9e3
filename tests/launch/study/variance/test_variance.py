"""The exact variance: closed forms, orderings that must hold, and one real measurement."""

import asyncio
import json
import math

import numpy as np
import pytest

from conf.studies import AGGREGATIONS
from cost.thinning.thinning import KeepAll, systematic_sample
from launch.cli.refusals import UserError
from launch.study.variance.measurement import BatchResult, Bias
from launch.study.variance.pulls import Pulls
from launch.study.variance.rules import (
    ORACLE,
    added_variance,
    biased_rules,
    group_responses,
    keep_probabilities,
    second_moment,
)
from launch.study.variance.study import score_rewards
from launch.study.variance.summary import Ratio, fitted_proxy, head_fit, norm_fit, summarise
from launch.study.variance.tables import print_tables
from rollout.rewards.function import FunctionReward
from tests.launch.programs import call

PULLS = Pulls(own=2.0, within=0.1, across=0.01)


@pytest.fixture
def responses():
    rng = np.random.default_rng(0)
    size = 48
    rewards = rng.integers(0, 2, size).astype(float)
    rewards[:8] = 1.0
    rewards[9] = math.nan
    usable = np.isfinite(rewards)
    lengths = rng.integers(5, 90, size)
    return group_responses(
        rewards, usable, 8, [FakeScores(np.log(rng.uniform(0.3, 1, n))) for n in lengths]
    )


class FakeScores:
    def __init__(self, logprobs):
        self.logprobs = logprobs
        self.entropies = -logprobs


@pytest.fixture
def norms(responses):
    return np.random.default_rng(1).lognormal(0, 0.7, len(responses.lengths))


@pytest.mark.parametrize("aggregation", list(AGGREGATIONS))
@pytest.mark.parametrize("budget", [0.3, 0.5, 0.7])
def test_every_rule_spends_the_budget_and_none_beats_the_oracle(
    responses, norms, aggregation, budget
):
    chosen = responses.usable & (responses.advantages != 0)
    assert not chosen[:8].any() and not chosen[9] and chosen.sum() > 20
    rules = keep_probabilities(responses, aggregation, budget, norms)
    moment = second_moment(responses, aggregation, norms)
    added = {}
    for rule, q in rules.items():
        assert (q[~chosen] == 0).all() and (q[chosen] > 0).all()
        spent = q @ responses.lengths / responses.lengths[chosen].sum()
        assert spent == pytest.approx(budget, rel=1e-9), rule
        added[rule] = added_variance(responses, aggregation, q, norms) / moment
    assert added["uniform"] == pytest.approx(1 / budget - 1, rel=1e-9)
    assert all(value >= added[ORACLE] - 1e-12 for value in added.values())


@pytest.mark.parametrize("aggregation", list(AGGREGATIONS))
def test_the_figure_is_the_variance_of_independent_keeping(responses, aggregation):
    """Simulated with random gradients of the given norms."""
    rng = np.random.default_rng(2)
    gradients = rng.normal(size=(len(responses.lengths), 3))
    norms = np.linalg.norm(gradients, axis=1)
    q = keep_probabilities(responses, aggregation, 0.5, norms)["surprise"]
    parts = (responses.advantages * responses.factors(aggregation))[:, None] * gradients
    inverse = np.divide(1, q, out=np.zeros_like(q), where=q > 0)
    keep = rng.random((20000, len(q))) < q
    error = (keep * inverse - (q > 0)) @ parts
    simulated = (error**2).sum(axis=1)
    assert simulated.mean() == pytest.approx(
        added_variance(responses, aggregation, q, norms), abs=5 * simulated.std() / 20000**0.5
    )


def test_a_perfect_proxy_is_the_oracle(responses):
    norms = np.sqrt(responses.surprise)
    for aggregation in AGGREGATIONS:
        rules = keep_probabilities(responses, aggregation, 0.5, norms)
        np.testing.assert_allclose(rules["surprise"], rules[ORACLE], rtol=1e-9)


def test_systematic_sampling_keeps_with_the_same_probabilities(responses, norms):
    q = keep_probabilities(responses, "sequence_mean", 0.5, norms)["surprise"]
    keeps = [systematic_sample(q, np.random.default_rng([3, seed])) for seed in range(3000)]
    assert (np.abs(np.mean(keeps, axis=0) - q) <= 5 * np.sqrt(q * (1 - q) / 3000) + 1e-12).all()


def test_biased_rules_with_everything_train_on_the_full_gradient(responses):
    entropies = [np.ones(length) for length in responses.lengths]
    plans = biased_rules(responses, "sequence_mean", 1.0, 8, entropies, seed=0)
    full = KeepAll().thin(responses.candidates(np.zeros(48)), np.random.default_rng(0))
    expected = full.keep * responses.advantages * responses.factors("sequence_mean")
    for rule in ("PODS", "D3S"):
        np.testing.assert_allclose(plans[rule].coefficients, expected, rtol=1e-9)
        assert plans[rule].token_factors is None
    factors = plans["D3S + tokens"].token_factors
    weights = responses.factors("sequence_mean")
    kept = [w * f.sum() for w, f in zip(weights, factors, strict=True)]
    assert sum(kept) == pytest.approx(int((expected != 0).sum()))


def test_bias_of_two_gradients():
    torch = pytest.importorskip("torch")
    bias = Bias.of(torch.tensor([2.0, 0.0]), torch.tensor([1.0, 1.0]), 4.0, 0.5)
    assert bias.squared == pytest.approx(2)
    assert bias.cosine == pytest.approx(0.5**0.5)
    assert bias.squared_scaled == pytest.approx(1)
    nothing = Bias.of(torch.zeros(2), torch.tensor([3.0, 4.0]), 4.0, 0.0)
    assert nothing.squared == nothing.squared_scaled == 25 and math.isnan(nothing.cosine)


def test_ratio_over_batches():
    ratio = Ratio.of([1.0, 3.0], [2.0, 2.0])
    assert ratio.value == 1.0
    assert ratio.standard_error == pytest.approx(0.5)
    assert math.isnan(Ratio.of([1.0], [2.0]).standard_error)
    assert math.isnan(Ratio.of([0.0], [0.0]).value)


def test_fitted_exponents_are_found_again(responses):
    norms = responses.surprise**0.7 * responses.lengths**-0.2
    results = [BatchResult(responses, norms, {}, PULLS)]
    proxy = fitted_proxy(results)
    assert proxy.surprise_exponent == pytest.approx(0.7)
    assert proxy.length_exponent == pytest.approx(-0.2)
    assert fitted_proxy([BatchResult(responses, np.zeros(48), {}, PULLS)]) is None
    assert norm_fit(results)["surprise"]["correlation"] > 0.9
    report = summarise(results * 2, ["sequence_mean"], [0.5], group_size=8)
    rules = report["added_variance"]["sequence_mean"]
    found = rules["surprise, fitted"]["0.5"]["added_variance"]
    assert found == pytest.approx(rules[ORACLE]["0.5"]["added_variance"], rel=1e-6)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["budgets=[0]"], "budgets must lie in (0, 1]"),
        (["budgets=[0.5,1.5]"], "budgets must lie in (0, 1]"),
        (["group_size=1"], "group_size must be at least 2"),
        (["num_batches=0"], "num_batches must be at least 1"),
        (["layer=embedding"], "layer must be one of all, lm_head, both"),
        (["temperature=0"], "temperature must be positive"),
        (["aggregations=[median]"], "aggregations must be some of"),
        (["task=nothing"], "nothing"),
        (
            ["task=chain", "+task.colour=1"],
            "task.colour must be left out: ChainTask has no such setting",
        ),
        (["task=dataset"], "task.path must be set"),
        (["out=/nowhere/x.json"], "out must be a file in a folder that exists"),
        (["out=tests"], "out must be a file that can be written, got 'tests'"),
        (["num_prompts=100000"], "num_prompts must not exceed the 192 prompts"),
        (["model.path=/nowhere"], "must be a Hugging Face folder"),
        (["chain"], "settings must be written as KEY=VALUE"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments, part):
    done = call("launch.variance", *arguments)
    assert done.status == 2
    assert part in done.err and len(done.err.splitlines()) == 1


def test_a_generated_task_gives_its_reward_the_name_of_the_generator():
    done = call(
        "launch.variance", "task=reasoning_gym_arithmetic", "reward=reasoning_gym", "--cfg", "job",
        "--resolve", "--package", "reward",
    )  # fmt: skip
    assert "dataset: basic_arithmetic" in done.out


def test_a_measurement_of_the_shipped_model(tmp_path):
    path = tmp_path / "variance.json"
    settings = ["num_batches=2", "num_prompts=6", "group_size=4", "budgets=[0.5]", "max_tokens=160"]
    done = call("launch.variance", *settings, "layer=both", f"out={path}")
    assert done.status == 0, done.err
    printed = done.out
    report = json.loads(path.read_text())
    assert report["responses"] == report["usable_responses"] == 48
    assert 0 < report["responses_with_advantage"] <= 48
    assert 0 < report["advantage_token_share"] <= 1
    for aggregation in AGGREGATIONS:
        rules = report["added_variance"][aggregation]
        added = {rule: cell["0.5"]["added_variance"] for rule, cell in rules.items()}
        assert added["uniform"] == pytest.approx(1.0)
        assert added[ORACLE] < added["surprise"] < added["uniform"]
        assert added[ORACLE] < added["head's norm"] < added["uniform"]
        for rule in ("PODS", "D3S", "D3S + tokens"):
            cell = report["biased"][aggregation][rule]["0.5"]
            assert 0 < cell["squared_bias_scaled"] <= cell["squared_bias"] * (1 + 1e-6)
            assert rule in printed
    assert report["norm_fit"]["surprise"]["correlation"] > 0.5
    assert report["head_fit"]["rank_correlation"] > 0.5 and "of ranks" in printed
    assert report["pulls"]["alignment"] < 1 and "groups of 4" in printed
    assert max(len(line) for line in printed.splitlines()) <= 80


def test_a_measurement_by_the_output_head_alone(tmp_path):
    path = tmp_path / "variance.json"
    settings = ["num_batches=1", "num_prompts=4", "group_size=4", "max_tokens=120"]
    done = call("launch.variance", *settings, "layer=lm_head", f"out={path}")
    assert done.status == 0, done.err
    report = json.loads(path.read_text())
    assert "by the output head's weights alone" in done.out
    assert report["biased"] == {} and report["pulls"] is None and report["head_fit"] is None
    rules = report["added_variance"]["sequence_mean"]
    assert rules[ORACLE]["0.5"]["added_variance"] < rules["uniform"]["0.5"]["added_variance"]


def test_what_follows_a_figure_is_half_of_a_95_percent_interval(capsys):
    """As everywhere; of three batches it is 4.3 standard errors, and of one there is none."""
    report = {
        "model": "model", "task": "chain", "responses": 9, "responses_with_advantage": 4,
        "advantage_token_share": 0.5, "mean_length_tokens": 20.0, "pass_rate": 0.4, "group_size": 4,
        "norm_fit": {}, "layer": "all", "head_fit": None, "fitted_exponents": None, "biased": {},
        "added_variance": {"sequence_mean": {"uniform": {"0.5": {"added_variance": 1.0}}}},
    }  # fmt: skip
    pulls = {"alignment": 0.05, "noise_scale": 30.0}
    for batches, error, told in (
        (3, 1.0, "noise scale 30 +- 4, in groups of 4"),
        (1, math.nan, "noise scale 30, in groups of 4"),
    ):
        errors = {f"{key}_standard_error": 0.01 * error for key in pulls}
        errors["noise_scale_standard_error"] = error
        print_tables(report | {"batches": batches, "pulls": pulls | errors})
        printed = " ".join(capsys.readouterr().out.split())
        assert told in printed and "half of a 95% interval, Student's t over batches" in printed
        assert ("alignment 0.050 +- 0.043," in printed) is (batches == 3) and "nan" not in printed


@pytest.mark.parametrize("num_batches", [1, 2])
def test_one_batch_is_not_said_to_be_judged_by_others(responses, norms, capsys, num_batches):
    results = [BatchResult(responses, norms, {}, None)] * num_batches
    report = {
        "model": "model", "task": "chain", "responses": 9, "responses_with_advantage": 4,
        "advantage_token_share": 0.5, "mean_length_tokens": 20.0, "pass_rate": 0.4, "group_size": 4,
        "layer": "all", "batches": num_batches,
    }  # fmt: skip
    print_tables(report | summarise(results, ["sequence_mean"], [0.5], 4))
    printed = capsys.readouterr().out
    assert "together" in printed
    assert ("fitted to the others" in printed) is ("surprise, fitted" in printed)
    assert ("surprise, fitted" in printed) is (num_batches == 2)


def test_norms_by_the_head_are_held_against_those_by_all_weights(responses, norms):
    alike = [BatchResult(responses, norms, {}, PULLS, head_norms=0.1 * norms**2)]
    assert head_fit(alike) == {
        "correlation": pytest.approx(1),
        "rank_correlation": pytest.approx(1),
    }
    other = norms[np.random.default_rng(4).permutation(len(norms))]
    assert abs(head_fit([BatchResult(responses, norms, {}, PULLS, other)])["correlation"]) < 0.5
    assert head_fit([BatchResult(responses, norms, {}, None)]) is None


@pytest.mark.parametrize("failing", [2, 3])
def test_a_reward_that_fails_for_most_responses_ends_the_measurement(tmp_path, failing):
    file = tmp_path / "often.py"
    file.write_text("def f(response):\n    return {'right': 1.0}[response]\n")
    responses = ["wrong"] * failing + ["right"] * (4 - failing)
    scoring = score_rewards(FunctionReward(f"{file}:f"), [("q", text, "a") for text in responses])
    if failing == 2:
        _, usable = asyncio.run(scoring)
        assert usable.tolist() == [False, False, True, True]
    else:
        with pytest.raises(UserError, match=r"(?s)got none for 3 of 4; the first:.*'wrong'$"):
            asyncio.run(scoring)
