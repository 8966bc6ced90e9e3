import pytest

from cost.advantages.across_batch import BatchDeviation, BatchStandardised
from cost.advantages.within_group import GroupMean, LeaveOneOut
from cost.aggregations import BatchTokenMean, ConstantLength, PromptMean
from cost.draws.allocators.knapsack import Knapsack
from cost.draws.allocators.square_root import SquareRoot
from cost.draws.allocators.uniform import Uniform


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("tickets_per_step", 0, "scheduler.tickets_per_step must be positive, got 0"),
        ("tickets_per_step", -1, "scheduler.tickets_per_step must be positive, got -1"),
        ("group_size", 1, "scheduler.group_size must be at least 2, since"),
        ("pass_rate_prior_responses", 0.0, "scheduler.pass_rate_prior_responses must be positive"),
        ("pass_rate_decay", 1.5, "scheduler.pass_rate_decay must lie in"),
        ("gradient_norm_layer", "head", "scheduler.gradient_norm_layer must be .* got 'head'"),
        ("calibrate_every", -1, "scheduler.calibrate_every must not be negative, got -1"),
        ("calibrated_proxy", True, "scheduler.calibrated_proxy needs scheduler.calibrate_every"),
        ("accelerator_hour_price", 0.0, "scheduler.accelerator_hour_price must be .* got 0.0"),
        ("accelerator_hour_price", float("inf"), "scheduler.accelerator_hour_price must be"),
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


@pytest.mark.parametrize("allocator", [Uniform(), SquareRoot(), Knapsack()])
@pytest.mark.parametrize(
    "advantage", [GroupMean(), LeaveOneOut(), BatchDeviation(), BatchStandardised()]
)
@pytest.mark.parametrize("aggregation", [ConstantLength(), PromptMean(), BatchTokenMean()])
def test_batch_statistics_need_uniform_draws_and_uneven_groups_size_free_plugs(
    make_config, allocator, advantage, aggregation
):
    of_batch = isinstance(advantage, BatchDeviation | BatchStandardised) or isinstance(
        aggregation, BatchTokenMean
    )
    size_free = isinstance(advantage, LeaveOneOut) and isinstance(aggregation, ConstantLength)
    expected = {"Uniform": True, "SquareRoot": not of_batch, "Knapsack": size_free}
    config = make_config(allocator=allocator, advantage=advantage, aggregation=aggregation)
    assert config.objective_preserving == expected[type(allocator).__name__]


PLUGS = ["length", "price", "utility", "allocator", "thinning", "proxy", "advantage", "aggregation"]


@pytest.mark.parametrize("key", PLUGS)
def test_refuses_what_is_not_a_plug(make_config, key):
    with pytest.raises(ValueError, match=rf"scheduler\.{key} must be a plug with the method"):
        make_config(**{key: object()})


class Unflagged:
    """An allocator but for what it must say of itself."""

    uniform = False
    varies_group_sizes = False
    initial_state = update = allocate = prepare = next_round = print


def test_names_the_flags_and_methods_that_a_plug_lacks(make_config):
    lacks = r"and all else of cost\.draws\.allocators\.types\.Allocator; it lacks {}, got"
    with pytest.raises(ValueError, match=lacks.format("objective_preserving")):
        make_config(allocator=Unflagged())
    names = "objective_preserving, uniform, varies_group_sizes, initial_state, update, allocate, .*"
    with pytest.raises(ValueError, match=lacks.format(names)):
        make_config(allocator=object())
