"""Machines of one kind for a run."""

import pytest

from conf.resources import ResourcesConfig
from conf.submit import NodeConfig
from launch.cli.refusals import UserError
from launch.jobs.nodes import nodes_for


@pytest.mark.parametrize(
    ("asked", "node", "count"),
    [
        ({}, {}, 1),
        ({"num_engines": 7}, {}, 1),
        ({"num_engines": 8}, {}, 2),
        ({}, {"gpus": 1}, 2),
        ({"share_gpus": True}, {"gpus": 1}, 1),
        ({"share_gpus": True, "num_engines": 8, "num_learners": 7}, {}, 1),
        # An engine lies on one machine: two of 5 GPUs do not share 8, and learners fill the rest.
        ({"num_engines": 2, "tensor_parallel_size": 5, "num_learners": 6}, {}, 2),
        ({"num_engines": 2, "tensor_parallel_size": 5, "num_learners": 7}, {}, 3),
        # CPUs may be what runs out, with and without GPUs.
        ({"num_engines": 4, "engine_cpus": 16.0}, {"cpus": 32}, 3),
        ({"num_engines": 3, "num_learners": 1}, {"gpus": 0, "cpus": 2}, 2),
        ({"num_engines": 3, "num_learners": 1, "use_gpu": False}, {"cpus": 2}, 2),
    ],
)
def test_machines_hold_what_the_run_asks_for(asked, node, count):
    nodes = nodes_for(ResourcesConfig(**asked), NodeConfig(**node))
    assert nodes.count == count
    assert nodes.gpus == (0 if asked.get("use_gpu") is False else node.get("gpus", 8))


@pytest.mark.parametrize(
    ("asked", "node", "counts"),
    [
        ({}, {}, (1, 1)),
        # A learner and seven engines fill the first machine.
        ({"max_engines": 7}, {}, (1, 1)),
        ({"max_engines": 8}, {}, (1, 2)),
        ({"num_engines": 8, "max_engines": 16}, {}, (2, 3)),
        ({"max_engines": 3, "engine_cpus": 2.0}, {"gpus": 0, "cpus": 2}, (2, 4)),
    ],
)
def test_machines_may_come_for_engines_that_join(asked, node, counts):
    nodes = nodes_for(ResourcesConfig(**asked), NodeConfig(**node))
    assert (nodes.count, nodes.most) == counts


@pytest.mark.parametrize(
    ("asked", "node", "sentence"),
    [
        ({"tensor_parallel_size": 9}, {}, "resources.tensor_parallel_size must not exceed"),
        ({"engine_cpus": 33.0}, {}, "resources.engine_cpus must not exceed node.cpus = 32, got 33"),
        ({"learner_cpus": 33.0}, {}, "resources.learner_cpus must not exceed node.cpus"),
        ({"share_gpus": True, "learner_cpus": 32.0}, {}, "learner_cpus must not exceed .*got 33"),
        ({"use_gpu": True}, {"gpus": 0}, "node.gpus must be at least 1"),
    ],
)
def test_a_machine_too_small_for_one_part_is_refused(asked, node, sentence):
    with pytest.raises(UserError, match=sentence):
        nodes_for(ResourcesConfig(**asked), NodeConfig(**node))
