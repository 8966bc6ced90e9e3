"""Profiles draw what they say, and refuse what cannot be."""

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from launch.study.simulation.profile import LearningLaw, Profile
from launch.study.simulation.task import MeasuredPrompts, ResponseLengths, StatedPrompts, logit
from tests.places import CONF

PROFILES = sorted((CONF / "profile").glob("*.yaml"))


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_every_profile_builds_and_says_where_it_comes_from(path):
    profile = instantiate(OmegaConf.load(path), _convert_="object")
    assert isinstance(profile, Profile)
    assert profile.source.startswith(("measured:", "stated:"))
    assert len(profile.prompts.table(0).tokens) > 0


def test_stated_prompts_have_the_stated_moments():
    stated = StatedPrompts(
        num_prompts=20_000, tokens=100.0, tokens_log_sd=0.3, mean_tokens=500.0,
        mean_tokens_log_sd=0.5, pass_rate=0.3, logit_sd=1.0, logit_length_correlation=-0.6,
    )  # fmt: skip
    table = stated.table(0)
    assert table.tokens.mean() == pytest.approx(100, rel=0.02)
    assert table.mean_tokens.mean() == pytest.approx(500, rel=0.02)
    assert np.std(np.log(table.mean_tokens)) == pytest.approx(0.5, rel=0.02)
    assert np.median(table.pass_rates) == pytest.approx(0.3, rel=0.05)
    found = np.corrcoef(np.log(table.mean_tokens), logit(table.pass_rates))[0, 1]
    assert found == pytest.approx(-0.6, abs=0.02)


@pytest.mark.parametrize(
    "lengths", [ResponseLengths(log_sd=0.5), ResponseLengths(quantiles=[0.2, 0.9, 1.0, 3.0])]
)
def test_lengths_have_their_mean_and_stay_in_their_limits(lengths):
    drawn = lengths.draw(200.0, 10_000, 40_000, np.random.default_rng(0))
    assert drawn.mean() == pytest.approx(200, rel=0.02)
    cut = lengths.draw(200.0, 210, 1000, np.random.default_rng(0))
    assert cut.min() >= 1 and cut.max() == 210


def test_some_responses_run_to_the_limit():
    lengths = ResponseLengths(truncated_share=0.1)
    drawn = lengths.draw(20.0, 1000, 20_000, np.random.default_rng(0))
    assert set(drawn.tolist()) == {20, 1000}
    assert np.mean(drawn == 1000) == pytest.approx(0.1, abs=0.01)


def test_an_update_on_more_responses_gains_more_and_never_more_than_the_gain():
    law = LearningLaw(gain_logits=0.1, noise_responses=100.0, staleness_discount=0.2)
    gains = [law.gain(np.ones(n), np.ones(n), 0.0) for n in (10, 100, 100_000)]
    assert gains[1] == pytest.approx(0.05)
    assert gains[0] < gains[1] < gains[2] < 0.1
    # Weights that spread count as fewer responses; without advantages there is nothing to learn.
    assert law.gain(np.r_[np.ones(99), 50.0], np.ones(100), 0.0) < gains[1]
    assert law.gain(np.ones(5), np.zeros(5), 0.0) == 0
    assert law.gain(np.ones(100), np.ones(100), 2.0) == pytest.approx(0.05 * 0.8**2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MeasuredPrompts(tokens=[1], mean_tokens=[1.0, 2.0], pass_rates=[0.5]), "lists of"),
        (lambda: MeasuredPrompts(tokens=[1], mean_tokens=[1.0], pass_rates=[1.0]), "pass_rates"),
        (lambda: ResponseLengths(quantiles=[1.0, 0.5]), "quantiles"),
        (lambda: ResponseLengths(truncated_share=1.5), "truncated_share"),
        (lambda: LearningLaw(gain_logits=-1.0, noise_responses=1.0), "gain_logits"),
    ],
)
def test_what_cannot_be_is_refused_with_its_key(make, message):
    with pytest.raises(ValueError, match=rf"^profile\.\w+.*{message}"):
        make()
