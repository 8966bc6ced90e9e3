import pytest

from cost.aggregations import BatchTokenMean
from cost.allocators import SquareRoot, Uniform


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("tickets_per_step", 0, "scheduler.tickets_per_step must be positive, got 0"),
        ("group_size", 1, "scheduler.group_size must be at least 2, since"),
        ("pass_rate_prior_responses", 0.0, "scheduler.pass_rate_prior_responses must be positive"),
        ("pass_rate_decay", 1.5, "scheduler.pass_rate_decay must lie in"),
    ],
)
def test_refuses(make_config, key, value, message):
    with pytest.raises(ValueError, match=message):
        make_config(**{key: value})


def test_says_which_objective_is_optimised(make_config):
    assert make_config().objective_preserving
    assert make_config(aggregation=BatchTokenMean(), allocator=Uniform()).objective_preserving
    assert not make_config(
        aggregation=BatchTokenMean(), allocator=SquareRoot()
    ).objective_preserving
