from itertools import product

import numpy as np
import pytest

from cost.aggregations import (
    BatchTokenMean,
    ConstantLength,
    PromptMean,
    SequenceMean,
    counts_responses_alike,
)

LENGTHS = [np.array([2, 4]), np.array([5]), np.zeros(0, dtype=int), np.array([1, 1, 8])]
USABLE = [
    np.array([True, True]),
    np.array([True]),
    np.zeros(0, bool),
    np.array([True, True, False]),
]


def loss(factors, token_losses):
    """(1/P) sum_k (1/n_k) sum_j a_kj sum_t token_loss over usable responses."""
    total = 0.0
    for group, usable, a in zip(token_losses, USABLE, factors, strict=True):
        sums = [tokens.sum() for tokens in group]
        total += sum(x * f for x, f, ok in zip(sums, a, usable, strict=True) if ok) / max(len(a), 1)
    return total / len(LENGTHS)


@pytest.fixture
def token_losses():
    rng = np.random.default_rng(0)
    return [[rng.normal(size=length) for length in group] for group in LENGTHS]


def test_batch_token_mean_is_the_mean_over_all_usable_tokens(token_losses):
    factors = BatchTokenMean().factors(LENGTHS, USABLE, 10.0)
    tokens = [
        t
        for group, usable in zip(token_losses, USABLE, strict=True)
        for t, ok in zip(group, usable, strict=True)
        if ok
    ]
    assert loss(factors, token_losses) == pytest.approx(np.concatenate(tokens).mean(), rel=1e-12)


def test_sequence_mean():
    factors = SequenceMean().factors(LENGTHS, USABLE, 10.0)
    assert factors[0].tolist() == [0.5, 0.25]
    assert SequenceMean().factors([np.array([0])], [np.array([True])], 1.0)[0].tolist() == [1.0]


def test_sequence_mean_is_the_mean_over_responses_of_their_token_means(token_losses):
    means = [[tokens.mean() for tokens in group] for group in token_losses]
    # The response that is not usable still counts in its group's divisor.
    expected = (np.mean(means[0]) + means[1][0] + sum(means[3][:2]) / 3) / 4
    factors = SequenceMean().factors(LENGTHS, USABLE, 10.0)
    assert loss(factors, token_losses) == pytest.approx(expected, rel=1e-12)


def test_constant_length_is_the_sum_of_tokens_over_a_constant(token_losses):
    sums = [[tokens.sum() for tokens in group] for group in token_losses]
    expected = (sum(sums[0]) / 2 + sums[1][0] + sum(sums[3][:2]) / 3) / 4 / 7.0
    factors = ConstantLength(7.0).factors(LENGTHS, USABLE, 10.0)
    assert loss(factors, token_losses) == pytest.approx(expected, rel=1e-12)


def test_prompt_mean_is_the_mean_over_prompts_of_their_token_means(token_losses):
    factors = PromptMean().factors(LENGTHS, USABLE, 10.0)
    means = [
        np.concatenate([t for t, ok in zip(group, usable, strict=True) if ok]).mean()
        for group, usable in zip(token_losses, USABLE, strict=True)
        if len(group)
    ]
    assert loss(factors, token_losses) == pytest.approx(sum(means) / 4, rel=1e-12)
    nothing = PromptMean().factors([np.array([3, 4])], [np.zeros(2, bool)], 10.0)
    assert nothing[0].tolist() == [2.0, 2.0]


def test_prompt_mean_with_thinning_has_the_full_groups_expectation(token_losses):
    """All patterns of keeping the two responses of group 0, weights 1 / q, the factor fixed."""
    factor = PromptMean().factors(LENGTHS, USABLE, 10.0)[0]
    q, sums = np.array([0.3, 0.8]), np.array([tokens.sum() for tokens in token_losses[0]])
    expected = thinned = survivors = 0.0
    for bits in product([False, True], repeat=2):
        keep = np.array(bits)
        chance = np.prod(np.where(keep, q, 1 - q))
        thinned += chance * (keep / q) @ (factor * sums) / 2
        own = len(keep) / max(LENGTHS[0][keep].sum(), 1)
        survivors += chance * own * (keep / q) @ sums / 2
    expected = np.concatenate(token_losses[0]).mean()
    assert thinned == pytest.approx(expected, rel=1e-12)
    assert abs(survivors - expected) > 0.01


@pytest.mark.parametrize("usable", [False, True])
def test_batches_of_a_token_or_none_have_finite_factors(usable):
    lengths, counted = [np.array([1])], [np.array([usable])]
    for plug in (SequenceMean(), ConstantLength(1.0), PromptMean(), BatchTokenMean()):
        assert plug.factors(lengths, counted, 10.0)[0].tolist() == [1.0]


def test_constant_length_takes_earlier_batches_unless_told():
    assert ConstantLength().factors(LENGTHS, USABLE, 10.0)[3].tolist() == [0.1] * 3
    assert ConstantLength(4.0).factors(LENGTHS, USABLE, 10.0)[3].tolist() == [0.25] * 3


def test_refuses():
    with pytest.raises(ValueError, match=r"aggregation\.reference_tokens must be positive, got 0"):
        ConstantLength(0)


def test_only_the_sequence_mean_counts_responses_alike():
    assert counts_responses_alike(SequenceMean())
    for other in (ConstantLength(), ConstantLength(4.0), BatchTokenMean(), PromptMean()):
        assert not counts_responses_alike(other)
