"""Who shares a GPU with whom, on clusters of any size."""

import itertools

import pytest

from conf.resources import ResourcesConfig
from launch.run.layout import describe, lay_out, learner_share, learner_shares


def resources(**changes):
    return ResourcesConfig(**changes)


@pytest.mark.parametrize(
    ("asked", "num_gpus", "shared", "taken"),
    [
        ({}, 2, 0, 2),
        ({}, 1, 1, 1),
        ({"share_gpus": False}, 1, 0, 2),
        ({"share_gpus": True}, 8, 1, 1),
        ({"engines_sleep": True, "num_engines": 2}, 8, 1, 2),
        ({"num_engines": 2}, 2, 1, 2),
        ({"num_engines": 2, "num_learners": 2}, 3, 1, 3),
        ({"num_engines": 2, "num_learners": 2}, 2, 2, 2),
        # Two learners share no GPU, nor do two engines: what is asked is more than there is.
        ({"num_engines": 2, "num_learners": 2}, 1, 2, 2),
        ({"num_engines": 3}, 1, 1, 3),
        # An engine of two GPUs has them for itself.
        ({"tensor_parallel_size": 2}, 2, 0, 3),
    ],
)
def test_as_many_share_as_need_be(asked, num_gpus, shared, taken):
    layout = lay_out(resources(**asked), num_gpus, on_gpu=True)
    assert (layout.num_shared, layout.num_gpus) == (shared, taken)


def test_weights_go_over_nccl_only_where_every_process_has_a_gpu_of_its_own():
    for engines, learners, gpus in itertools.product((1, 2, 3), (1, 2, 3), range(1, 7)):
        asked = resources(num_engines=engines, num_learners=learners)
        layout = lay_out(asked, gpus, on_gpu=True)
        assert (layout.weight_backend == "nccl") == (gpus >= engines + learners)
        # Over CUDA IPC where all there is shares one.
        assert (layout.weight_backend == "ipc") == (engines == learners == gpus == 1)
        assert lay_out(asked, gpus, on_gpu=False).weight_backend == "gloo"


def test_a_system_without_cuda_ipc_sends_weights_through_the_host():
    for cuda_ipc, backend, said in ((True, "ipc", "CUDA IPC"), (False, "gloo", "gloo")):
        asked = resources(cuda_ipc=cuda_ipc)
        layout = lay_out(asked, 1, on_gpu=True)
        assert layout.weight_backend == backend
        assert describe(layout, asked, 1)[0].endswith(f"; weights travel over {said}")
        assert lay_out(asked, 2, on_gpu=True).weight_backend == "nccl"


def test_without_gpus_or_learners_nothing_is_shared():
    assert lay_out(resources(), 0, on_gpu=False).num_gpus == 0
    alone = lay_out(resources(), 1, on_gpu=True, learners=False)
    assert (alone.num_shared, alone.num_gpus) == (0, 1)


@pytest.mark.parametrize("share", [0.05, 0.4, 0.9])
def test_the_split_of_a_shared_gpu_leaves_something_to_all(share):
    asked = resources(engine_memory_share=share)
    assert 0 < learner_share(asked) < 1
    (said,) = describe(lay_out(asked, 1, on_gpu=True), asked, 1)
    assert f"{share:.0%} for the engine, {learner_share(asked):.0%} for the learner" in said


def test_a_learner_has_the_memory_of_an_engine_that_sleeps():
    asked = resources(engines_sleep=True, engine_memory_share=0.6)
    assert learner_share(asked) == 0.95
    (said,) = describe(lay_out(asked, 1, on_gpu=True), asked, 1)
    assert "60% for the engine, 95% for the learner while the engine sleeps, 5% spare" in said


def test_only_learners_that_share_a_gpu_leave_memory_to_others():
    asked = resources(num_engines=2, num_learners=3, engine_memory_share=0.5)
    for num_gpus, num_shared in ((5, 0), (4, 1), (3, 2)):
        shares = learner_shares(lay_out(asked, num_gpus, on_gpu=True), asked)
        assert shares == [learner_share(asked)] * num_shared + [1.0] * (3 - num_shared)
    assert learner_shares(lay_out(asked, 0, on_gpu=False), asked) == [1.0] * 3


def test_idle_gpus_are_named():
    asked = resources()
    (said,) = describe(lay_out(asked, 4, on_gpu=True), asked, 4.0)
    assert said.startswith("2 of 4 free GPUs stay idle; a larger resources.num_engines or ")
    assert describe(lay_out(asked, 2, on_gpu=True), asked, 2.0) == []
    assert describe(lay_out(asked, 4, on_gpu=False), asked, 4.0) == []


def test_an_engine_of_several_gpus_cannot_be_asked_to_share():
    with pytest.raises(ValueError, match=r"^resources\.tensor_parallel_size must be 1 .*got 2$"):
        resources(share_gpus=True, tensor_parallel_size=2)
    with pytest.raises(ValueError, match=r"resources\.engines_sleep=true, got 2$"):
        resources(engines_sleep=True, tensor_parallel_size=2)


def test_engines_sleep_only_for_who_shares_their_gpu():
    with pytest.raises(
        ValueError, match=r"^resources\.share_gpus must be true or null .*got False"
    ):
        resources(engines_sleep=True, share_gpus=False)
