"""What happens around the loop, with a hand-written system in place of a cluster."""

import asyncio
import json
from types import SimpleNamespace

import numpy as np
import pytest
from hydra import compose, initialize_config_dir, initialize_config_module

from conf.schema import register
from cost.distribution import DrawDistribution
from cost.types import Draw, LengthReport, Selection, Ticket
from launch.compose import UserError
from launch.progress import Startup
from launch.report.run_folder import read_runs
from launch.train import TrainingRun, prepare
from learner.team import DivergedError
from rollout.types import GroupRef

NUM_PROMPTS = 6


class FakeScheduler:
    """Draws 16 tickets a batch, of two responses each."""

    async def draw(self, batch, folded_batches):
        ids = tuple(range(16 * batch, 16 * batch + 16))
        tickets = [Ticket(i, i % NUM_PROMPTS, 2, 0.1, 1.0, 8) for i in ids]
        return Draw(tickets, ids, (), False)

    async def spend(self, batch, engine_seconds, learner_seconds):
        assert engine_seconds >= 0 and learner_seconds >= 0

    async def select(self, batch, reports, epoch, progress, penalties):
        assert [r.ticket_id // 16 for r in reports] == [batch] * 16
        one = np.ones(2)
        return [Selection(r.ticket_id, one > 0, one, one, one) for r in reports]

    async def call(self, method):
        if method == "metrics":
            return {"cost/generated_tokens": 10.0}
        even = np.full(NUM_PROMPTS, 1 / NUM_PROMPTS)
        distribution = DrawDistribution(even, even, even, even, even)
        assert method in ("distribution", "draw_cells")
        return distribution if method == "distribution" else distribution.cells()


class FakeRollouts:
    num_retries, num_replaced = 2, 1

    def report(self, ticket):
        n = ticket.num_samples
        return LengthReport(
            ticket.ticket_id, ticket.prompt_index, 3, 3, np.full(n, 4), np.zeros(n, bool),
            np.arange(n) % 2.0, np.zeros(n, np.int64), np.ones(n), np.arange(n), 0.1, 0,
        )  # fmt: skip

    async def run(self, ticket, prompt):
        return GroupRef(self.report(ticket), 14, None)

    async def evaluate(self, ticket, prompt, temperature):
        return self.report(ticket)


class FakeLearners:
    def __init__(self, diverges_at):
        self.saved, self.diverges_at = [], diverges_at

    async def update(self, groups, selections, *, step, epoch):
        if step == self.diverges_at:
            raise DivergedError("the loss was not finite in 3 optimiser steps in a row")
        return {"learner/loss": 0.1, "learner/skipped_steps": 0.0}

    async def save(self, path, tokenizer_path):
        self.saved.append(path)


@pytest.fixture
def make_run(tmp_path):
    register()

    def build(*overrides, diverges_at=None):
        with initialize_config_module("conf", version_base="1.3"):
            composed = compose(
                "train",
                [
                    "experiment=quickstart",
                    f"run_dir={tmp_path / 'run'}",
                    f"task.num_prompts={NUM_PROMPTS}",
                    "held_out.num_prompts=4",
                    "loop.num_steps=3",
                    *overrides,
                ],
            )
        inputs = prepare(composed)

        async def publish(version):
            system.version = version
            return {"publish/seconds": 0.1}

        system = SimpleNamespace(
            scheduler=FakeScheduler(), rollouts=FakeRollouts(), learners=FakeLearners(diverges_at),
            publish=publish, version=0, max_logprob_difference=1e-6, startup_seconds={},
        )  # fmt: skip
        return TrainingRun(inputs, system), system, tmp_path / "run"

    return build


def test_a_run_leaves_a_complete_folder(make_run):
    run, system, folder = make_run("loop.save_every=2")
    asyncio.run(run.run(Startup()))
    assert system.learners.saved == [str(folder / "policy-2"), str(folder / "policy")]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["num_steps"] == 3 and summary["versions_published"] == 4
    assert summary["pass_rate_before"] == summary["pass_rate_after"] == 0.5
    logged = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    assert [metrics["step"] for metrics in logged] == [1, 2, 3]
    assert logged[0]["rollout/retries"] == 2 and logged[0]["rollout/replaced_actors"] == 1
    assert summary["objective"].startswith("uniform over prompts")
    mapped = [json.loads(line) for line in (folder / "cells.jsonl").open()]
    assert [cells["step"] for cells in mapped] == [1, 2, 3]
    assert mapped[0]["num_prompts"] == [NUM_PROMPTS]
    (read,) = read_runs([folder])
    assert read.steps.tolist() == [1, 2, 3] and len(read.cells) == 3
    assert (folder / "run.png").is_file() and (folder / "config.yaml").is_file()


def test_a_loss_that_stays_infinite_ends_the_run_with_the_last_good_weights_saved(make_run):
    run, system, folder = make_run(diverges_at=1)
    with pytest.raises(UserError, match=r"not finite in 3 .*last good weights are in .*policy"):
        asyncio.run(run.run(Startup()))
    assert system.learners.saved == [str(folder / "policy")]
    assert json.loads((folder / "summary.json").read_text())["num_steps"] == 1


def test_the_configuration_in_the_run_folder_makes_the_same_run_again(make_run, tmp_path):
    make_run("learner.lr=3e-5")
    with initialize_config_dir(str(tmp_path / "run"), version_base="1.3"):
        again = prepare(compose("config", [f"run_dir={tmp_path / 'again'}"]))
    with initialize_config_dir(str(tmp_path / "again"), version_base="1.3"):
        once_more = prepare(compose("config", [f"run_dir={tmp_path / 'once_more'}"]))
    assert again.config.learner.lr == once_more.config.learner.lr == 3e-5
    assert again.config.scheduler == once_more.config.scheduler
    assert [p.text for p in again.prompts] == [p.text for p in once_more.prompts]
