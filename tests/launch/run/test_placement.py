"""What is reserved for whom, without a cluster."""

import asyncio

import pytest

from conf.resources import ResourcesConfig
from launch.run import placement as module
from launch.run.placement import PlacementError


def reserve(*arguments, **options):
    return asyncio.run(module.reserve(*arguments, **options))


class Group:
    def __init__(self, bundles, strategy):
        self.bundle_specs, self.id, self.state = bundles, None, "CREATED"

    def wait(self, seconds):
        return True


@pytest.fixture
def cluster_of(monkeypatch):
    """A cluster with so many GPUs, all of them free."""

    def make(num_gpus):
        has = {"CPU": 16.0, "GPU": float(num_gpus)}
        monkeypatch.setattr("ray.available_resources", lambda: has)
        monkeypatch.setattr("ray.cluster_resources", lambda: has)
        monkeypatch.setattr(module, "built_for_cpus", lambda: False)
        monkeypatch.setattr(module, "placement_group", Group)
        monkeypatch.setattr(module, "placement_group_table", lambda group: {"state": group.state})
        monkeypatch.setattr(
            module,
            "PlacementGroupSchedulingStrategy",
            lambda group, placement_group_bundle_index=0: (group, placement_group_bundle_index),
        )

    return make


def test_engine_and_learner_share_one_gpu_in_one_bundle(cluster_of):
    cluster_of(1)
    said = []
    placed = reserve(ResourcesConfig(engine_cpus=2), say=said.append)
    assert [group.bundle_specs for group in placed.groups] == [[{"CPU": 3.0, "GPU": 1}]]
    engine, learner = placed.engine_options(0, 2), placed.learner_options(0, 1)
    assert engine["scheduling_strategy"] == learner["scheduling_strategy"]
    assert (engine["num_gpus"], learner["num_gpus"]) == (0.5, 0.5)
    assert len(said) == 1 and said[0].startswith("1 GPU(s) shared by an engine and a learner")


@pytest.mark.parametrize(
    ("num_gpus", "use_gpu", "hidden"),
    [(2, False, True), (0, False, False), (0, None, False), (2, None, False)],
)
def test_learners_without_a_gpu_see_none(cluster_of, num_gpus, use_gpu, hidden):
    cluster_of(num_gpus)
    options = reserve(ResourcesConfig(use_gpu=use_gpu), say=lambda _: None).learner_options(0, 1)
    variables = options.get("runtime_env", {}).get("env_vars")
    assert variables == ({"CUDA_VISIBLE_DEVICES": ""} if hidden else None)


def test_packages_for_cpus_leave_gpus_alone(cluster_of, monkeypatch):
    cluster_of(2)
    monkeypatch.setattr(module, "built_for_cpus", lambda: True)
    said = []
    assert reserve(ResourcesConfig(), say=said.append).layout.num_gpus == 0
    assert said[0].startswith("2 GPU(s) stay idle, as the packages here are those for CPUs")
    assert reserve(ResourcesConfig(use_gpu=True), say=lambda _: None).layout.num_gpus == 2


def test_what_asks_for_more_than_its_bundle_is_none(cluster_of):
    """Whatever shares, all actors of a bundle fit into it, and every part has a place."""
    for engines in (1, 2, 3):
        for learners in (1, 2, 3):
            for gpus in range(max(engines, learners), 7):
                cluster_of(gpus)
                asked = ResourcesConfig(num_engines=engines, num_learners=learners)
                placed = reserve(asked, say=lambda _: None)
                taken = {}
                options = [placed.engine_options(k, 1) for k in range(engines)]
                options += [placed.learner_options(k, 1) for k in range(learners)]
                for one in options:
                    group, index = one["scheduling_strategy"]
                    before = taken.get((id(group), index), (0, 0))
                    taken[id(group), index] = (
                        before[0] + one["num_cpus"],
                        before[1] + one["num_gpus"],
                    )
                room = {
                    (id(group), k): (bundle["CPU"], bundle["GPU"])
                    for group in placed.groups
                    for k, bundle in enumerate(group.bundle_specs)
                }
                assert taken == room
                assert sum(gpu for _, gpu in room.values()) == min(gpus, engines + learners)


def test_parts_of_cores_that_add_up_to_all_of_them_fit(cluster_of):
    """As floats, 7 * 2.2 + 0.6 is a little more than 16."""
    cluster_of(0)
    asked = ResourcesConfig(num_engines=7, engine_cpus=2.2, num_learners=1, learner_cpus=0.6)
    assert len(reserve(asked, say=lambda _: None).engines) == 7


def test_an_engine_that_joins_has_a_group_of_its_own_from_then_on(cluster_of, monkeypatch):
    cluster_of(4)
    placed = reserve(ResourcesConfig(num_engines=2, max_engines=3), say=lambda _: None)
    assert len(placed.engines) == 2
    (group, _) = placed.engine_options(2, 1)["scheduling_strategy"]
    assert placed.engines[2] is group and group.bundle_specs == [{"CPU": 1, "GPU": 1}]
    # Its replacement has the same.
    assert placed.engine_options(2, 1)["scheduling_strategy"][0] is group
    assert len(placed.groups) == 4
    removed = []
    monkeypatch.setattr(module, "remove_placement_group", removed.append)
    placed.give_back(2)
    assert removed == [group]


def test_an_engine_whose_node_is_lost_waits_for_room_with_a_new_group(cluster_of, monkeypatch):
    cluster_of(4)
    removed = []
    monkeypatch.setattr(module, "remove_placement_group", removed.append)
    placed = reserve(ResourcesConfig(num_engines=2), say=lambda _: None)
    first, second = placed.engines
    second.state = "RESCHEDULING"
    assert placed.engine_options(0, 1)["scheduling_strategy"][0] is first
    (group, _) = placed.engine_options(1, 1)["scheduling_strategy"]
    assert removed == [second] and group is not second
    assert placed.engines == [first, group] and group.bundle_specs == second.bundle_specs


def test_engines_cannot_join_where_gpus_are_shared(cluster_of):
    cluster_of(1)
    with pytest.raises(
        PlacementError, match=r"^resources\.max_engines must be null where .* got 4$"
    ):
        reserve(ResourcesConfig(max_engines=4), say=lambda _: None)


def test_nodes_with_learners_are_told_from_the_others(cluster_of, monkeypatch):
    cluster_of(4)
    placed = reserve(ResourcesConfig(num_engines=2), say=lambda _: None)
    at = dict(zip(map(id, placed.groups), ["a", "b", "b"], strict=True))
    monkeypatch.setattr(
        module, "placement_group_table", lambda group: {"bundles_to_node_id": {0: at[id(group)]}}
    )
    assert placed.nodes() == {"a": False, "b": True}


def test_a_wait_for_room_is_given_up_with_all_that_was_reserved(cluster_of, monkeypatch):
    cluster_of(0)
    removed = []
    monkeypatch.setattr(module, "remove_placement_group", removed.append)
    monkeypatch.setattr(Group, "wait", lambda self, seconds: len(self.bundle_specs) == 2)
    asked = ResourcesConfig(num_engines=1, num_learners=2, placement_deadline_seconds=0.5)

    async def given_up():
        waiting = asyncio.create_task(module.reserve(asked, say=lambda _: None))
        await asyncio.sleep(0)
        waiting.cancel()
        await waiting

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(given_up())
    assert len(removed) == 2
    message = r"^resources: no node could hold \[{'CPU': 1(\.0)?}\] within 0\.5 s, free was "
    with pytest.raises(PlacementError, match=message):
        reserve(asked, say=lambda _: None)
    assert len(removed) == 4
