"""What happens around the loop, with a hand-written system in place of a cluster."""

import asyncio
import copy
import json
import signal
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import ray
from hydra import compose, initialize_config_dir

from conf.resources import ResourcesConfig
from cost.draws.distribution import DrawDistribution
from cost.state_file import save_state
from cost.types import Draw, LengthReport, RewardStatus, Selection, Ticket
from launch.cli.refusals import RunError, UserError
from launch.record.checkpoint import newest_checkpoint
from launch.record.report.runs import read_runs
from launch.record.run_folder import at_versions, metric_columns, read_steps
from launch.record.startup import Startup
from launch.run import cluster, training
from launch.run.checkpoints import read_run
from launch.run.inputs import prepare
from launch.run.interruption import StoppedError
from launch.run.parity import ParityError
from launch.run.training import TrainingRun
from learner.team import DivergedError
from rollout.places import EngineError
from rollout.types import GroupRef
from tests.composing import composed

NUM_PROMPTS = 6


@pytest.fixture
def picture():
    """Asked for by tests that look at the picture."""


@pytest.fixture(autouse=True)
def no_picture(request, monkeypatch):
    """For all others it takes longer than all else here."""
    if "picture" not in request.fixturenames:
        monkeypatch.setattr(training, "draw_picture", lambda *arguments, **named: None)


class FakeScheduler:
    """Draws 16 tickets a batch, of two responses each."""

    async def draw(self, batch, folded, gradient_norms):
        ids = tuple(range(16 * batch, 16 * batch + 16))
        tickets = [Ticket(i, i % NUM_PROMPTS, 2, 0.1, 1.0, 8) for i in ids]
        return Draw(tickets, ids, (), False)

    async def learned(self, batch, feedback):
        assert feedback.engine_seconds >= 0 and feedback.learner_seconds >= 0

    async def select(self, batch, attempts, epoch, progress, penalties):
        assert attempts == [0] * 16
        one = np.ones(2)
        ids = range(16 * batch, 16 * batch + 16)
        return [Selection(ticket_id, one > 0, one, one, one) for ticket_id in ids]

    async def call(self, method, *arguments):
        if method == "snapshot":
            return None
        if method == "write":
            return save_state(Path(*arguments), {})
        if method == "metrics":
            return {"cost/generated_tokens": 10.0}
        even = np.full(NUM_PROMPTS, 1 / NUM_PROMPTS)
        distribution = DrawDistribution(even, even, even, even, even)
        assert method in ("distribution", "draw_cells")
        return distribution if method == "distribution" else distribution.cells()


class FakeRollouts:
    num_retries, num_replaced, num_in_flight, num_in_use = 2, 1, 3, 1
    crashes_from, crashed = None, 1
    """The first ticket for which the reward crashes, and for how many of its two responses."""

    def report(self, ticket):
        n = ticket.num_samples
        if self.crashes_from is not None and self.crashes_from <= ticket.ticket_id < 2**60:
            status = np.where(np.arange(n) < self.crashed, int(RewardStatus.CRASHED), 0)
            return replace(self.scored(ticket), status=status, reward_failure="KeyError: 'lost'")
        return self.scored(ticket)

    def scored(self, ticket):
        n = ticket.num_samples
        return LengthReport(
            ticket.ticket_id, ticket.prompt_index, 3, 3, np.full(n, 4), np.zeros(n, bool),
            np.arange(n) % 2.0, np.zeros(n, np.int64), np.ones(n), np.arange(n), 0.1, 0,
        )  # fmt: skip

    def signs(self):
        return 0

    async def run(self, ticket, prompt):
        return GroupRef(self.report(ticket), None)

    async def evaluate(self, ticket, prompt, sampling):
        return self.report(ticket)


class FakeLearners:
    def __init__(self, diverges_at):
        self.saved, self.diverges_at = [], diverges_at

    async def update(self, groups, selections, *, step, epoch, progress):
        if step == self.diverges_at:
            raise DivergedError("the loss was not finite in 3 optimiser steps in a row")
        return {"learner/loss": 0.1, "learner/skipped_steps": 0.0}

    async def save(self, path, tokenizer_path):
        self.saved.append(path)

    async def snapshot(self, path):
        assert Path(path).is_dir()

    async def written(self):
        pass


@pytest.fixture
def make_run(tmp_path):
    def build(*overrides, diverges_at=None, folder="run"):
        config = composed(
            "train",
            "experiment=quickstart",
            f"run_dir={tmp_path / folder}",
            f"task.num_prompts={NUM_PROMPTS}",
            "held_out.num_prompts=4",
            "loop.num_steps=3",
            "~tracker.ray",
            *overrides,
        )
        inputs = prepare(config)

        async def publish(version, groups):
            system.version = version
            return {"publish/seconds": 0.1}

        async def guard(work):
            return await work

        async def checked():
            pass

        system = SimpleNamespace(
            guard=guard, checked=checked, state_dict=dict,
            scheduler=FakeScheduler(), rollouts=FakeRollouts(), learners=FakeLearners(diverges_at),
            publish=publish, sleep=checked, version=0, max_logprob_difference=1e-6,
            startup_seconds={}, shared_gpus=1,
        )  # fmt: skip
        return TrainingRun(inputs, system, began=time.monotonic()), system, tmp_path / folder

    return build


@pytest.mark.usefixtures("picture")
def test_a_run_leaves_a_complete_folder(make_run):
    run, system, folder = make_run("loop.save_every=2")
    asyncio.run(run.run(Startup()))
    assert system.learners.saved == [str(folder / "policy-2"), str(folder / "policy")]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["num_steps"] == 3 and summary["versions_published"] == 4
    assert summary["shared_gpus"] == 1
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
    checkpoint, faults = newest_checkpoint(folder)
    assert checkpoint.step == 3 and not faults


def test_a_loss_that_stays_infinite_ends_the_run_with_the_last_good_weights_saved(make_run):
    run, system, folder = make_run(diverges_at=1)
    with pytest.raises(UserError, match=r"not finite in 3 .*last good weights are in .*policy"):
        asyncio.run(run.run(Startup()))
    assert system.learners.saved == [str(folder / "policy")]
    assert json.loads((folder / "summary.json").read_text())["num_steps"] == 1


def test_a_reward_that_always_crashes_ends_the_run_before_it_learns_from_that(make_run):
    run, system, folder = make_run()
    system.rollouts.crashes_from, system.rollouts.crashed = 16, 2
    with pytest.raises(
        UserError,
        match=r"crashed for 32 of 32 responses of step 2; the first:\nKeyError: 'lost'; the policy",
    ):
        asyncio.run(run.run(Startup()))
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["num_steps"] == 1 and not summary["completed"]
    assert summary["first_reward_failure"] == "KeyError: 'lost'"


def test_a_run_whose_reward_crashes_at_times_goes_on_and_ends_with_the_first(make_run, capsys):
    run, system, folder = make_run()
    system.rollouts.crashes_from = 32
    asyncio.run(run.run(Startup()))
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["completed"] and summary["reward_crashed"] == 16
    assert summary["first_reward_failure"] == "KeyError: 'lost'"
    assert "KeyError: 'lost'" in capsys.readouterr().out


def test_an_evaluation_without_rewards_ends_a_run_before_it_begins_and_not_after(make_run):
    for when, overrides in (("before", []), ("after", ["evaluation.before=false"])):
        run, system, _ = make_run(*overrides, folder=when)
        evaluate = system.rollouts.evaluate

        async def crash(ticket, prompt, sampling, evaluate=evaluate):
            report = await evaluate(ticket, prompt, sampling)
            status = np.full(ticket.num_samples, int(RewardStatus.CRASHED))
            return replace(report, status=status, reward_failure="KeyError: 'lost'")

        system.rollouts.evaluate = crash
        if when == "before":
            with pytest.raises(UserError, match=r"responses of the evaluation of held_out; the f"):
                asyncio.run(run.run(Startup()))
            # Whoever has mended the reward can ask for it again in its folder.
            make_run(*overrides, folder=when)
        else:
            asyncio.run(run.run(Startup()))
            assert system.learners.saved


class InterruptedByUserError(Exception):
    """Stands for the user's Ctrl-C."""


FAILURES = [
    UserError("reward.max_crashed_share: 9 of 16 responses crashed"),
    ParityError("version 2: engine and learner differ"),
    EngineError("rollout actors died 4 times"),
    ray.exceptions.RayError("the worker died"),
    TimeoutError("learner update took longer than learner.update_deadline_seconds"),
    KeyError("a bug"),
    InterruptedByUserError(),
]


def fail_in(part, system, error):
    """Let one part of a run raise an error the second time that it is used."""
    calls = []

    async def raise_in_second(*arguments, **named):
        calls.append(arguments)
        if len(calls) > 1:
            if isinstance(error, InterruptedByUserError):
                if len(calls) == 2:
                    signal.raise_signal(signal.SIGINT)
                await asyncio.sleep(9)
            raise error
        return await working(*arguments, **named)

    holder, name = {
        "publish": (system, "publish"),
        "update": (system.learners, "update"),
        "roll": (system.rollouts, "run"),
        "select": (system.scheduler, "select"),
    }[part]
    working = getattr(holder, name)
    setattr(holder, name, raise_in_second)


def failure_of(run):
    """Run, and return what ended it with all that its message says."""
    try:
        asyncio.run(run.run(Startup()))
    except BaseException as error:
        return error, "\n".join([str(error), *getattr(error, "__notes__", ())])
    raise AssertionError("the run did not fail")


@pytest.fixture
def interruptible():
    """SIGINT interrupts, also where a shell started the tests in the background and ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("part", ["publish", "update", "roll", "select"])
@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
def test_whatever_ends_a_run_the_policy_is_saved_and_the_message_says_where(
    make_run, capsys, part, error
):
    error = copy.copy(error)
    run, system, folder = make_run("evaluation.before=false", "loop.save_final=false")
    fail_in(part, system, error)
    found, message = failure_of(run)
    assert system.learners.saved == [str(folder / "policy")]
    where = f"the policy as learned until then is in {folder / 'policy'}"
    if isinstance(error, InterruptedByUserError):
        assert isinstance(found, KeyboardInterrupt) and where in capsys.readouterr().err
    else:
        assert found is error and where in message
    assert json.loads((folder / "summary.json").read_text())["completed"] is False


@dataclass
class FailingTracker:
    """A tracker that fails in one of its methods."""

    method: str

    def open(self, run):
        def fail(*arguments):
            raise OSError(f"no space left in {self.method}")

        methods = dict.fromkeys(("log", "samples", "cells", "close"), lambda *arguments: None)
        return SimpleNamespace(**methods | {self.method: fail})


@pytest.mark.parametrize("method", ["log", "samples", "cells", "close"])
def test_a_tracker_that_fails_is_told_of_and_the_run_goes_on(make_run, capsys, method):
    run, system, folder = make_run("evaluation.before=false")
    run._config.tracker["mine"] = FailingTracker(method)
    asyncio.run(run.run(Startup()))
    assert json.loads((folder / "summary.json").read_text())["completed"]
    assert system.learners.saved == [str(folder / "policy")]
    first, *more = capsys.readouterr().err.splitlines()
    assert first.startswith("tracker.mine failed") and f"(no space left in {method})" in first
    assert len(more) == (method in ("log", "cells"))


@pytest.mark.usefixtures("picture")
def test_what_cannot_be_written_at_the_end_is_told_with_the_way_to_the_policy(make_run, capsys):
    run, _, folder = make_run()
    for name in ("evaluations.jsonl", "summary.json", "run.png"):
        (folder / name).mkdir()
    found, message = failure_of(run)
    assert isinstance(found, RunError) and message == (
        f"evaluations.jsonl could not be written (Is a directory: {folder / 'evaluations.jsonl'}); "
        f"summary.json could not be written (Is a directory: {folder / 'summary.json'}); run.png "
        f"could not be written (Is a directory: {folder / 'run.png'}); the policy is in "
        f"{folder / 'policy'}"
    )
    printed = capsys.readouterr()
    assert "held-out prompts" in printed.out
    (line,) = printed.err.splitlines()
    assert line.startswith("evaluations.jsonl could not be written (Is a directory: ")
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 3
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("final", ["true", "false"])
def test_an_evaluation_that_fails_after_training_leaves_the_policy(make_run, final):
    run, system, folder = make_run("evaluation.before=false", f"loop.save_final={final}")

    async def fail(ticket, prompt, sampling):
        raise EngineError("no engine")

    system.rollouts.evaluate = fail
    _, message = failure_of(run)
    assert system.learners.saved == [str(folder / "policy")]
    assert str(folder / "policy") in message


def test_a_run_that_fails_before_it_learns_saves_nothing_and_can_be_asked_for_again(make_run):
    run, system, folder = make_run()

    async def fail(ticket, prompt, sampling):
        raise EngineError("no engine")

    system.rollouts.evaluate = fail
    found, message = failure_of(run)
    assert isinstance(found, EngineError) and message == "no engine"
    assert system.learners.saved == []
    assert [path.name for path in folder.iterdir()] == ["config.yaml"]
    make_run()


@pytest.mark.parametrize("error", FAILURES[:-1], ids=lambda error: type(error).__name__)
def test_a_save_or_a_tracker_that_fails_too_does_not_hide_the_first_error(make_run, capsys, error):
    error = copy.copy(error)
    run, system, folder = make_run("evaluation.before=false")
    run._config.tracker["mine"] = FailingTracker("close")

    async def no_space(path, tokenizer_path):
        raise OSError("no space left on the device\nand more")

    system.learners.save = no_space
    fail_in("publish", system, error)
    found, message = failure_of(run)
    assert found is error
    assert f"could not be saved in {folder / 'policy'}: no space left on the device" in message
    assert "(no space left in close)" in capsys.readouterr().err


def test_an_evaluation_that_a_full_disk_did_not_take_is_written_at_the_end(make_run):
    run, _, folder = make_run()
    (folder / "evaluations.jsonl").mkdir()
    close = run._recorder.close

    def with_room(*arguments, **named):
        (folder / "evaluations.jsonl").rmdir()
        return close(*arguments, **named)

    run._recorder.close = with_room
    asyncio.run(run.run(Startup()))
    assert [each["when"] for each in evaluations_in(folder)] == ["before", "after"]


def test_a_policy_that_its_folder_cannot_take_is_saved_elsewhere(
    make_run, tmp_path, monkeypatch, capsys
):
    (elsewhere := tmp_path / "elsewhere").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(elsewhere))
    run, system, folder = make_run("loop.save_every=2")
    # What somebody else put where they thought that it would come.
    (elsewhere / "run-policy").mkdir()
    tried = []

    async def no_space_but_elsewhere(path, tokenizer_path):
        tried.append(Path(path))
        if tried[-1].parent == folder or tried[-1].name == "policy-2":
            raise OSError(28, "No space left on device")
        assert not tried[-1].exists()
        tried[-1].mkdir()

    system.learners.save = no_space_but_elsewhere
    with pytest.raises(RunError) as failure:
        asyncio.run(run.run(Startup()))
    assert str(failure.value) == (
        f"the policy could not be saved in {folder}; the policy is in {tried[-1]}"
    )
    assert failure.value.status == 1
    assert [path.name for path in tried] == ["policy-2", "policy-2", "policy", "policy"]
    assert [path.parent for path in tried[::2]] == [folder, folder]
    assert {path.parent.parent for path in tried[1::2]} == {elsewhere}
    # Of the one that had no room there either nothing is left.
    assert {path.name for path in elsewhere.iterdir()} == {"run-policy", tried[-1].parent.name}
    assert tried[-1].parent.name.startswith("run-") and not any(
        (elsewhere / "run-policy").iterdir()
    )
    err = capsys.readouterr().err
    assert "policy-2 could not be saved (No space left on device); the run goes on" in err
    where = f"it is in {tried[-1]} on the node of learner 0"
    assert f"{folder / 'policy'} (No space left on device); {where}" in err


def test_an_error_on_the_cluster_is_told_with_the_way_to_the_policy(monkeypatch):
    for name in ("connect", "ray_logs", "begin_watch", "leave"):
        monkeypatch.setattr(cluster, name, lambda *arguments: "/logs")
    error = ParityError("version 2: they differ")
    error.add_note("the policy is in runs/mine/policy")
    with pytest.raises(RunError) as raised, cluster.cluster(ResourcesConfig()):
        raise error
    assert str(raised.value).split("\n") == [
        "version 2: they differ",
        "the policy is in runs/mine/policy",
        "logs of all actors on this node: /logs",
    ]


def test_the_configuration_in_the_run_folder_makes_the_same_run_again(make_run, tmp_path):
    make_run("learner.lr=3e-5")
    with initialize_config_dir(str(tmp_path / "run"), version_base="1.3"):
        again = prepare(compose("config", [f"run_dir={tmp_path / 'again'}"]))
    with initialize_config_dir(str(tmp_path / "again"), version_base="1.3"):
        once_more = prepare(compose("config", [f"run_dir={tmp_path / 'once_more'}"]))
    assert again.config.learner.lr == once_more.config.learner.lr == 3e-5
    assert again.config.scheduler == once_more.config.scheduler
    assert [p.text for p in again.prompts] == [p.text for p in once_more.prompts]


def test_a_reward_of_a_file_is_found_again_from_any_folder(make_run, tmp_path, monkeypatch):
    (tmp_path / "of_a_file.py").write_text("def f(response_text):\n    return 1\n")
    monkeypatch.chdir(tmp_path)
    make_run("reward=function", "reward.path=of_a_file.py:f")
    monkeypatch.chdir("/")
    with initialize_config_dir(str(tmp_path / "run"), version_base="1.3"):
        again = prepare(compose("config", [f"run_dir={tmp_path / 'again'}"]))
    assert again.config.reward.path == f"{tmp_path / 'of_a_file.py'}:f"


def test_a_reward_that_fails_at_once_is_refused_and_no_folder_is_made(make_run, tmp_path):
    (tmp_path / "at_once.py").write_text("def f(response_text):\n    return [1][1]\n")
    with pytest.raises(UserError, match=r"^reward must give .*at_once\.py:2: IndexError: list ind"):
        make_run("reward=function", f"reward.path={tmp_path / 'at_once.py'}:f")
    assert not (tmp_path / "run").exists()


SECOND_SET = (
    "+evaluation_set@evaluation.sets.ends=chain_two_ends",
    "evaluation.sets.ends.task.num_prompts=3",
    "evaluation.num_samples=2",
)


def evaluations_in(folder):
    return [json.loads(line) for line in (folder / "evaluations.jsonl").open()]


def test_every_set_is_measured_before_on_the_way_and_after(make_run):
    run, _, folder = make_run(*SECOND_SET, "evaluation.every=2")
    asyncio.run(run.run(Startup()))
    logged = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    assert ["evaluation/pass_rate" in metrics for metrics in logged] == [False, True, False]
    assert logged[1]["evaluation/ends/pass_rate"] == logged[1]["evaluation/pass_rate"] == 0.5
    assert logged[1]["evaluation/version"] == logged[1]["evaluation/last_version"] == 2
    found = evaluations_in(folder)
    assert [(e["when"], e["version"]) for e in found] == [
        ("before", 0),
        ("on the way", 2),
        ("after", 3),
    ]
    assert found[0]["sampled"]["ends"]["num_prompts"] == 3
    assert "greedy" in found[0] and "greedy" not in found[1]


@pytest.mark.parametrize(("target", "num_steps"), [(0.5, 2), (0.6, 9)])
def test_a_target_ends_a_run_with_the_first_evaluation_that_reaches_it(make_run, target, num_steps):
    """Every evaluation finds 0.5, the first after step 2."""
    run, _, folder = make_run(
        "loop.num_steps=9", "loop.max_staleness=0", "evaluation.every=2",
        f"evaluation.target={target}",
    )  # fmt: skip
    asyncio.run(run.run(Startup()))
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["num_steps"] == num_steps and summary["completed"]
    assert summary["compute_flops"] > 0 or summary["compute_flops"] is None


def test_in_the_background_learning_goes_on_and_results_name_their_versions(make_run):
    run, system, folder = make_run(
        *SECOND_SET, "evaluation.every=1", "evaluation.background=true", "evaluation.before=false"
    )
    seen, evaluate = [], system.rollouts.evaluate

    async def slow(ticket, prompt, sampling):
        # The first evaluation answers when the second version is out.
        while not seen and system.version < 2:
            await asyncio.sleep(0)
        seen.append(system.version)
        return await evaluate(ticket, prompt, sampling)

    async def publish(version, groups):
        await asyncio.sleep(0.01)
        system.version = version
        return {}

    system.rollouts.evaluate, system.publish = slow, publish
    asyncio.run(run.run(Startup()))
    logged = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    assert "evaluation/pass_rate" not in logged[0]
    assert [logged[1][f"evaluation/{key}"] for key in ("version", "last_version")] == [1, 2]
    # The last one ends after the last step, whose line has that of the version before.
    assert [line["step"] for line in logged] == [1, 2, 3, 3]
    assert [line["evaluation/version"] for line in logged[2:]] == [2, 3]
    assert logged[3].keys() - {"step", "time"} == {
        key for key in logged[2] if key.startswith("evaluation/")
    }
    columns = metric_columns(read_steps(folder))
    rates = at_versions(columns, "evaluation/pass_rate")
    assert columns["step"].tolist() == [1, 2, 3] and np.isfinite(rates).all()
    on_the_way = [e for e in evaluations_in(folder) if e["when"] == "on the way"]
    assert [e["version"] for e in on_the_way] == [1, 2, 3]
    # Only what the loop stood still for is taken off the run's seconds.
    summary = json.loads((folder / "summary.json").read_text())
    after = evaluations_in(folder)[-1]
    assert summary["seconds"]["evaluate"] == pytest.approx(after["seconds"])


def test_an_evaluation_that_fails_in_the_background_ends_the_run(make_run):
    run, system, _ = make_run(
        "evaluation.every=1", "evaluation.background=true", "evaluation.before=false"
    )

    async def fail(ticket, prompt, sampling):
        raise RuntimeError("no engine")

    system.rollouts.evaluate = fail
    with pytest.raises(RuntimeError, match="no engine"):
        asyncio.run(run.run(Startup()))


def test_a_signal_gives_up_what_goes_on_in_the_background_after_the_last_step(make_run):
    run, system, folder = make_run(
        "evaluation.every=3", "evaluation.background=true", "evaluation.before=false"
    )
    loop_ended = run._recorder.loop_ended

    def stop():
        loop_ended()
        asyncio.get_running_loop().call_soon(run._interruption.arrive, signal.SIGTERM)

    async def never(ticket, prompt, sampling):
        await asyncio.Event().wait()

    run._recorder.loop_ended, system.rollouts.evaluate = stop, never

    async def main():
        async with asyncio.timeout(60):
            await run.run(Startup())

    with pytest.raises(StoppedError, match=r"^stopped by SIGTERM after the last step; the policy"):
        asyncio.run(main())
    checkpoint, _ = newest_checkpoint(folder)
    # Who goes on from it makes that evaluation once more.
    assert checkpoint.step == 3 and read_run(checkpoint)["recorder"]["evaluations"]["going_on"]


def test_sets_travel_with_the_configuration_in_the_run_folder(make_run, tmp_path):
    make_run(*SECOND_SET)
    with initialize_config_dir(str(tmp_path / "run"), version_base="1.3"):
        again = prepare(compose("config", [f"run_dir={tmp_path / 'again'}"]))
    assert {name: len(prompts) for name, prompts in again.sets.items()} == {
        "held_out": 4,
        "ends": 3,
    }


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["evaluation.pass_at=[9]"], r"^evaluation\.pass_at must lie in .*\[1, 8\], got \[9\]"),
        (["+evaluation_set@evaluation.sets.held_out=chain_two_ends"], r"other than held_out"),
        (
            ["evaluation.background=true", "rollout.update_mode=drain"],
            r"^evaluation\.background must be false with rollout\.update_mode=drain",
        ),
        (
            [
                "+evaluation_set@evaluation.sets.mine=dataset",
                "evaluation.sets.mine.task.path=nowhere.jsonl",
            ],
            r"^evaluation\.sets\.mine\.task\.path cannot be read",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(make_run, overrides, message):
    with pytest.raises(UserError, match=message):
        make_run(*overrides)
