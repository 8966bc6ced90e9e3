import numpy as np
import pytest

from cost.aggregations import BatchTokenMean, ConstantLength, SequenceMean

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


def test_constant_length_takes_earlier_batches_unless_told():
    assert ConstantLength().factors(LENGTHS, USABLE, 10.0)[3].tolist() == [0.1] * 3
    assert ConstantLength(4.0).factors(LENGTHS, USABLE, 10.0)[3].tolist() == [0.25] * 3


def test_refuses():
    with pytest.raises(ValueError, match=r"aggregation\.reference_tokens must be positive, got 0"):
        ConstantLength(0)
