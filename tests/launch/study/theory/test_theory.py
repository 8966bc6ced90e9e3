"""The problems, the intervals and a small run of `python -m launch.theory`."""

import json
import sys

import numpy as np
import pytest

pytest.importorskip("sklearn")

from launch.study.theory.experiments import BASELINES, ratio_interval
from launch.study.theory.problems import RADIUS, LogisticSum, load_cases
from tests.launch.programs import call


@pytest.fixture(scope="module")
def small():
    rng = np.random.default_rng(0)
    return LogisticSum(rng.normal(size=(12, 3)))


def test_weighted_gradients_are_those_of_the_value(small):
    point = np.array([0.3, -0.2, 0.5])
    every = np.arange(12)[None]
    gradient = small.weighted_gradient(point[None], every, np.ones((1, 12)))[0]
    nudges = 1e-6 * np.eye(3)
    numeric = (small.value(point + nudges) - small.value(point - nudges)) / 2e-6
    np.testing.assert_allclose(gradient, numeric, atol=1e-8)
    np.testing.assert_allclose(gradient, small.gradient(point))
    single = small.weighted_gradient(np.tile(point, (12, 1)), every.T, np.ones((12, 1)))
    np.testing.assert_allclose(np.linalg.norm(single, axis=1), small.norms_at(point))


def test_lipschitz_constants_hold_in_the_ball_and_are_reached(small):
    rng = np.random.default_rng(1)
    bounds = small.norms_in_ball(2.0)
    for _ in range(50):
        point = rng.normal(size=3)
        assert (small.norms_at(2 * point / np.linalg.norm(point)) <= bounds + 1e-15).all()
    worst = -2 * small.rows[4] / np.linalg.norm(small.rows[4])
    assert small.norms_at(worst)[4] == pytest.approx(bounds[4])


@pytest.mark.parametrize("radius", [0.3, 50.0])
def test_the_minimiser_is_stationary_in_the_ball(small, radius):
    point = small.minimiser(radius)
    gradient = small.gradient(point)
    assert np.linalg.norm(point) <= radius * (1 + 1e-12)
    moved = point - gradient
    moved *= min(1, radius / np.linalg.norm(moved))
    np.testing.assert_allclose(moved, point, atol=1e-7)


def test_an_interval_holds_the_ratio_and_pairs_seeds():
    rng = np.random.default_rng(0)
    noise = rng.lognormal(0, 1, 20)
    paired = ratio_interval(3 * noise, noise, rng)
    assert (paired.low, paired.ratio, paired.high) == pytest.approx((3, 3, 3))
    apart = ratio_interval(3 * noise, rng.lognormal(0, 1, 20), rng)
    assert apart.low < apart.ratio < apart.high


def test_cases_cost_one_on_average_and_are_the_same_every_time():
    first, again = load_cases(quick=True), load_cases(quick=True)
    assert len(first) == 2
    for case, same in zip(first, again, strict=True):
        np.testing.assert_array_equal(case.costs, same.costs)
        assert case.costs.mean() == pytest.approx(1)
        assert np.linalg.norm(case.optimum) <= RADIUS * (1 + 1e-12)


def test_a_small_run_agrees_with_the_predictions(tmp_path, monkeypatch):
    # Step sizes are tuned on fewer steps and seeds: what they give is not checked.
    monkeypatch.setattr("launch.study.theory.runs.TUNING_STEPS", 10_000)
    monkeypatch.setattr("launch.study.theory.runs.TUNING_SEEDS", 2)
    out = tmp_path / "theory"
    done = call("launch.theory", "quick=true", "seeds=6", f"out={out}")
    assert done.status == 0
    found = json.loads((out / "theory.json").read_text(encoding="utf-8"))
    assert (out / "theory.png").read_bytes().startswith(b"\x89PNG")
    comparisons = found["comparisons"]
    assert [each["baseline"] for each in comparisons] == 2 * list(BASELINES)
    for each in comparisons:
        assert each["bound"]["ratio"] == pytest.approx(each["predicted"], rel=0.1)
        assert each["variance"]["ratio"] == pytest.approx(each["variance_predicted"], rel=0.1)
        assert each["predicted"] < 1
    for each in found["costs"]:
        assert each["measured"] < each["upper"]
        assert each["lower"] < each["upper"]
    for each in found["wrong_proxies"]:
        assert 1 < each["mean"] < each["worst"] <= each["promised"] * (1 + 1e-9)
    assert "at the bound's own step: 8 of 8 ratios within 10%" in done.out


def test_a_folder_with_content_is_refused(tmp_path):
    (tmp_path / "kept.txt").write_text("mine", encoding="utf-8")
    done = call("launch.theory", f"out={tmp_path}")
    assert done.status == 2
    assert done.err.startswith("error: out must be a new or empty folder, got ")
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


def test_without_scikit_learn_one_sentence_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    out = tmp_path / "theory"
    done = call("launch.theory", f"out={out}")
    assert done.status == 2
    assert "pip install 'cost-aware-rl[theory]'" in done.err
    assert not out.exists()


@pytest.mark.parametrize("seeds", ["1", "-3", "many"])
def test_bad_seeds_are_refused(seeds):
    done = call("launch.theory", f"seeds={seeds}")
    assert done.status == 2
    assert "seeds" in done.err and len(done.err.splitlines()) == 1
