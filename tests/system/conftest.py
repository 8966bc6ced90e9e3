"""Real runs on a Ray cluster of their own, as `python -m launch.train` makes them."""

import asyncio
import os
from contextlib import contextmanager
from functools import partial

import pytest

from tests.composing import composed


def pytest_collection_modifyitems(config, items):
    """Leave out the runs of every kind of model, half an hour, unless they are asked for."""
    if "models" not in config.option.markexpr:
        left_out = [item for item in items if item.get_closest_marker("models")]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)


@pytest.fixture(autouse=True, scope="session")
def no_cluster_of_others():
    """Whatever cluster the shell that tests are started from works with."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="session")
def prepared_in():
    """Compose and check a configuration for a folder; returns `launch.run.inputs.Inputs`."""
    from launch.run.inputs import prepare

    def build(folder, *overrides):
        config = composed(
            "train",
            "experiment=quickstart",
            f"run_dir={folder / 'run'}",
            "task.num_prompts=24",
            "held_out.num_prompts=8",
            "rollout.max_tokens=64",
            "model.max_model_len=256",
            "evaluation.num_samples=2",
            "scheduler.tickets_per_step=4",
            "scheduler.group_size=4",
            *overrides,
        )
        return prepare(config)

    return build


@pytest.fixture
def prepared(prepared_in, tmp_path):
    """The same for a folder of the test's own."""
    return partial(prepared_in, tmp_path)


@pytest.fixture
def evaluate_config(tmp_path):
    """Compose an EvaluateConfig that fits what `prepared` trains."""
    from launch.program import build

    def make(*overrides):
        config = composed(
            "evaluate",
            "experiment=quickstart_engine",
            f"run_dir={tmp_path / 'evaluation'}",
            "rollout.max_tokens=64",
            "model.max_model_len=256",
            "evaluation.num_samples=2",
            *overrides,
        )
        return build(config)

    return make


@pytest.fixture(scope="session")
def on_cluster():
    """Run a coroutine function on a cluster started for it."""
    from launch.run.cluster import cluster

    @contextmanager
    def threads():
        before = os.environ.get("OMP_NUM_THREADS")
        os.environ["OMP_NUM_THREADS"] = "1"
        yield
        if before is None:
            del os.environ["OMP_NUM_THREADS"]

    def run(resources, main):
        with threads(), cluster(resources):
            return asyncio.run(main())

    return run
