"""A run that is stopped anywhere goes on: nothing lost, nothing doubled, the same in the end."""

import asyncio
import json
import shutil
import signal
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from launch.cli.refusals import NothingToDoError
from launch.program import RunError, UserError
from launch.record.checkpoint import MANIFEST, newest_checkpoint, read_checkpoint
from launch.record.restarts import read_restarts
from launch.record.startup import Startup
from launch.run import checkpoints, recovery, training
from launch.run.deaths import PartDied
from launch.run.inputs import prepare
from launch.run.interruption import Interruption, StoppedError
from launch.run.resume import check_goes_on, find_checkpoint
from launch.run.training import TrainingRun
from rollout.places import EngineError
from tests.composing import composed
from tests.launch.run.system import Data, Learners, LocalSystem

ONE_ROUND = ["allocator@scheduler.allocator=square_root"]
SEVERAL_ROUNDS = ["recipe=dapo"]
SCORED_ROUNDS = ["recipe=gvm_grpo"]


@pytest.fixture(autouse=True)
def no_cluster_and_no_picture(monkeypatch):
    monkeypatch.setattr(recovery.ray, "put", Data)
    # It takes longer than all else here.
    monkeypatch.setattr(training, "draw_picture", lambda *arguments, **named: None)


@pytest.fixture
def make_inputs(tmp_path):
    """Compose and check a run."""

    def build(*overrides, folder="run"):
        config = composed(
            "train",
            "experiment=quickstart",
            f"run_dir={tmp_path / folder}",
            "task.num_prompts=12",
            "held_out.num_prompts=2",
            "rollout.max_tokens=16",
            "loop.num_steps=8",
            "scheduler.tickets_per_step=4",
            "scheduler.group_size=4",
            "evaluation.before=false",
            "evaluation.after=false",
            "checkpoint.every_steps=1",
            "resume=auto",
            "~tracker.ray",
            "~tracker.console",
            *overrides,
        )
        return prepare(config)

    return build


def start(inputs, interruption=None):
    """Return a run that can be awaited, and its system."""
    system = LocalSystem(inputs.config, inputs.prompts)
    run = TrainingRun(inputs, system, began=time.time(), quiet=True, interruption=interruption)
    # Steps take no time here: each waits for the checkpoint before it.
    run._checkpoints.due = lambda step: inputs.config.checkpoint.every_steps == 1
    return run, system


@pytest.fixture
def begin(make_inputs):
    return lambda *overrides, folder="run": start(make_inputs(*overrides, folder=folder))


def metrics_in(folder):
    found = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    # What is measured in seconds is not the same twice; nor is what was spent on checkpoints.
    return [
        {
            k: v
            for k, v in line.items()
            if "second" not in k and k != "time" and "checkpoint" not in k
        }
        for line in found
    ]


def run_to_end(run):
    asyncio.run(run.run(Startup(quiet=True)))


@pytest.mark.parametrize("staleness", [0, 1])
@pytest.mark.parametrize(
    "kind", [ONE_ROUND, SEVERAL_ROUNDS, SCORED_ROUNDS], ids=["one_round", "rounds", "scored"]
)
def test_a_run_that_was_killed_goes_on_exactly(begin, tmp_path, kind, staleness):
    kind = [*kind, f"loop.max_staleness={staleness}", "checkpoint.keep_last=99"]
    run, whole = begin(*kind, folder="whole")
    run_to_end(run)
    for step in (1, 3, 7):
        # The folder as a kill after a later step leaves it: its newest checkpoint is of this one.
        killed = tmp_path / f"killed-{step}"
        shutil.copytree(tmp_path / "whole", killed)
        for path in (killed / "checkpoints").iterdir():
            if int(path.name.removeprefix("step-")) > step:
                shutil.rmtree(path)
        run, system = begin(*kind, folder=killed.name)
        run_to_end(run)
        found, expected = (metrics_in(folder) for folder in (killed, tmp_path / "whole"))
        assert [line["step"] for line in found] == list(range(1, 9)), step
        assert system.learners.weights == whole.learners.weights, step
        if staleness == 0:
            assert found == expected, step
        # What was measured for a batch that was drawn and not learned is not lost.
        scored = [lines[-1]["cost/score_flops"] for lines in (found, expected)]
        assert scored[0] == scored[1] and (scored[0] > 0) == (kind[0] == SCORED_ROUNDS[0]), step
        (restart,) = read_restarts(killed)
        assert (restart.step, restart.lost_steps) == (step, 8 - step)


@pytest.mark.parametrize("kind", [ONE_ROUND, SEVERAL_ROUNDS], ids=["one_round", "rounds"])
@pytest.mark.parametrize("staleness", [0, 1])
def test_a_signal_at_any_moment_loses_nothing(make_inputs, tmp_path, kind, staleness):
    kind = [*kind, f"loop.max_staleness={staleness}"]
    run, whole = start(make_inputs(*kind, folder="whole"))
    run_to_end(run)
    expected = metrics_in(tmp_path / "whole")[-1]
    for moment in (7, 20, 45):
        folder = tmp_path / f"run-{moment}"
        system = stopped_again_and_again(make_inputs(*kind, folder=folder.name), folder, moment)
        assert system.version == 8, moment
        assert [line["step"] for line in metrics_in(folder)] == list(range(1, 9)), moment
        if staleness == 0:
            assert system.learners.weights == whole.learners.weights, moment
        last = metrics_in(folder)[-1]
        for key in ("cost/tickets", "cost/failed_tickets"):
            assert last[key] == expected[key], moment
        useful = [m["cost/generated_tokens"] - m["cost/wasted_tokens"] for m in (last, expected)]
        assert staleness or useful[0] == useful[1], moment


def stopped_again_and_again(inputs, folder, moment):
    """Go on until the end with a signal every few events, later each time; return the system."""
    signals = 0
    while True:
        inputs = replace(inputs, saved=find_checkpoint("auto", folder))
        interruption = Interruption()
        run, system = start(inputs, interruption)
        events_left = moment + signals

        def count(interruption=interruption):
            nonlocal events_left
            events_left -= 1
            if events_left == 0:
                interruption.arrive(signal.SIGTERM)

        system.scheduler.on_event = count
        try:
            run_to_end(run)
        except StoppedError as error:
            signals += 1
            assert error.status == 143
            assert str(error).startswith("stopped by SIGTERM after step ")
        else:
            assert signals > 0, moment
            return system


@pytest.mark.parametrize("saved", [True, False])
@pytest.mark.parametrize("part", ["scheduler", "learner"])
def test_a_part_that_dies_is_restored_from_the_newest_checkpoint(
    begin, tmp_path, monkeypatch, part, saved
):
    run, whole = begin("loop.max_staleness=0", folder="whole")
    run_to_end(run)
    run, system = begin("loop.max_staleness=0")
    run._checkpoints.due = lambda step: saved and step == 2
    if part == "scheduler":
        system.scheduler.dies_at = ("select", 5)
    else:
        monkeypatch.setattr(Learners, "dies_at", 4)
    run_to_end(run)
    assert system.resets == [part == "learner"]
    assert system.learners.weights == whole.learners.weights
    assert metrics_in(tmp_path / "run") == metrics_in(tmp_path / "whole")
    (restart,) = read_restarts(tmp_path / "run")
    assert (restart.step, restart.lost_steps) == ((2, 2) if saved else (0, 4))
    assert "was killed" in restart.reason


def test_a_part_that_dies_again_and_again_ends_the_run(begin, monkeypatch):
    run, system = begin("checkpoint.max_recoveries=2")

    async def die(*arguments, **named):
        raise PartDied("learner 0", "was killed", "/logs")

    monkeypatch.setattr(Learners, "update", die)
    with pytest.raises(Exception, match=r"learner 0 was killed; logs are in /logs; the policy"):
        run_to_end(run)
    assert system.resets == [True, True]


@pytest.mark.parametrize("where", ["reset", "load"])
def test_a_recovery_that_fails_leaves_the_checkpoints_and_takes_nothing_for_learned(
    begin, tmp_path, where
):
    run, whole = begin("loop.max_staleness=0", folder="whole")
    run_to_end(run)
    run, system = begin("loop.max_staleness=0", "checkpoint.keep_last=1")
    run._checkpoints.due = lambda step: step == 2
    # Between two steps, so that nothing is half learned.
    system.scheduler.dies_at = ("draw", 5)
    work = getattr(system, where)

    async def fail(*arguments):
        if where == "reset":
            await work(*arguments)
        raise EngineError("rollout actor 0 died 3 times")

    setattr(system, where, fail)
    with pytest.raises(EngineError) as found:
        run_to_end(run)
    said = "; ".join([str(found.value), *found.value.__notes__])
    assert "go on from step 2" in said and "as learned" not in said
    assert system.learners.saved == []
    assert newest_checkpoint(tmp_path / "run")[0].step == 2
    run, system = begin("loop.max_staleness=0")
    run_to_end(run)
    assert system.learners.weights == whole.learners.weights


def test_a_recovery_begins_nothing_anew_while_there_are_checkpoints(begin, tmp_path, monkeypatch):
    run, system = begin("loop.max_staleness=0", "checkpoint.keep_last=9")
    monkeypatch.setattr(Learners, "dies_at", 4)
    update = system.learners.update

    async def break_all(*arguments, **named):
        if named["step"] == 4:
            await run._checkpoints.finish()
            for path in (tmp_path / "run" / "checkpoints").iterdir():
                (path / "run.npz").unlink(missing_ok=True)
        return await update(*arguments, **named)

    system.learners.update = break_all
    with pytest.raises(RunError, match=r"^learner 0 was killed; .*run\.npz must be readable: "):
        run_to_end(run)
    assert system.resets == []


@pytest.mark.parametrize("step", [4, 5])
def test_an_evaluation_that_went_on_at_a_checkpoint_is_in_the_folder_once(begin, tmp_path, step):
    """It is short, and ends before the next step does."""
    settings = ("loop.max_staleness=0", "evaluation.every=4", "evaluation.background=true")
    run, _ = begin(*settings, "checkpoint.keep_last=99", folder="whole")
    run_to_end(run)
    killed = tmp_path / "killed"
    shutil.copytree(tmp_path / "whole", killed)
    for path in (killed / "checkpoints").iterdir():
        if int(path.name.removeprefix("step-")) > step:
            shutil.rmtree(path)
    run, _ = begin(*settings, folder="killed")
    run_to_end(run)
    for folder in (tmp_path / "whole", killed):
        lines = (folder / "evaluations.jsonl").open()
        assert [json.loads(line)["version"] for line in lines] == [4, 8], folder.name


@pytest.mark.parametrize("saved", [True, False], ids=["checkpoint", "start"])
def test_a_run_that_lost_a_part_tells_what_it_measured_before_and_after(begin, tmp_path, saved):
    run, system = begin("evaluation.before=true", "evaluation.after=true")
    run._checkpoints.due = lambda step: saved and step == 2
    system.scheduler.dies_at = ("select", 5)
    run_to_end(run)
    check_evaluations(tmp_path / "run")


def test_a_run_that_was_killed_tells_what_it_measured_before_and_after(begin, tmp_path):
    settings = ("evaluation.before=true", "evaluation.after=true", "checkpoint.keep_last=99")
    run, _ = begin(*settings)
    run_to_end(run)
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        if int(path.name.removeprefix("step-")) > 3:
            shutil.rmtree(path)
    run, _ = begin(*settings)
    run_to_end(run)
    check_evaluations(tmp_path / "run")


def check_evaluations(folder):
    """The summary tells of both evaluations, as the file does."""
    summary = json.loads((folder / "summary.json").read_text())
    lines = [json.loads(line) for line in (folder / "evaluations.jsonl").open()]
    assert [line["when"] for line in lines] == ["before", "after"]
    for line in lines:
        assert summary[f"pass_rate_{line['when']}"] == line["sampled"]["held_out"]["avg"]["mean"]
    assert summary["pass_rate_change"] is not None
    assert summary["seconds"]["evaluate"] >= sum(line["seconds"] for line in lines)


class Tracker:
    """Goes on under the id that it is given, as wandb does."""

    def __init__(self):
        self.ids = []

    def open(self, run):
        own = run.state.get("id", f"id-{len(self.ids)}")
        self.ids.append(own)
        nothing = dict.fromkeys(("log", "samples", "cells", "close"), lambda *arguments: None)
        return SimpleNamespace(**nothing, state_dict=lambda: {"id": own})


@pytest.mark.parametrize("saved", [True, False])
def test_trackers_go_on_with_the_same_run_from_a_checkpoint_and_from_the_start(
    begin, monkeypatch, saved
):
    run, system = begin("loop.max_staleness=0")
    run._config.tracker["mine"] = tracker = Tracker()
    run._checkpoints.due = lambda step: saved and step == 2
    system.scheduler.dies_at = ("select", 5)
    run_to_end(run)
    assert tracker.ids == ["id-0", "id-0"]


def test_what_killed_runs_left_is_removed_when_the_run_goes_on(begin, make_inputs, tmp_path):
    run, _ = begin()
    run_to_end(run)
    folder = tmp_path / "run" / "checkpoints"
    (folder / ".step-00000007.partial" / "learner").mkdir(parents=True)
    make_inputs()
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000007", "step-00000008"]


@pytest.mark.parametrize("background", [False, True])
def test_the_checkpoint_of_the_last_step_is_written_once_unless_an_evaluation_ends_later(
    begin, monkeypatch, background
):
    sealed, seal = [], checkpoints.seal
    monkeypatch.setattr(
        checkpoints,
        "seal",
        lambda partial, step, *rest: sealed.append(step) or seal(partial, step, *rest),
    )
    run, _ = begin("evaluation.every=8", f"evaluation.background={background}")
    run_to_end(run)
    assert sealed == [*range(1, 9), *([8] if background else [])]


def test_what_dies_in_a_recovery_is_recovered_from_too(begin, tmp_path):
    run, whole = begin("loop.max_staleness=0", folder="whole")
    run_to_end(run)
    run, system = begin("loop.max_staleness=0")
    system.scheduler.dies_at = ("draw", 5)
    reset = system.reset

    async def die_once(*arguments):
        system.reset = reset
        raise PartDied("learner 1", "was lost with its node", "/logs")

    system.reset = die_once
    run._checkpoints.due = lambda step: step == 2
    run_to_end(run)
    assert system.resets == [True]
    (restart,) = read_restarts(tmp_path / "run")
    assert (restart.step, restart.lost_steps) == (2, 2)
    assert system.learners.weights == whole.learners.weights
    assert metrics_in(tmp_path / "run") == metrics_in(tmp_path / "whole")


def test_a_signal_gives_a_recovery_up_and_leaves_the_checkpoint(make_inputs, tmp_path):
    interruption = Interruption()
    run, system = start(make_inputs("loop.max_staleness=0"), interruption)
    run._checkpoints.due = lambda step: step == 2
    system.scheduler.dies_at = ("draw", 5)

    async def never(*arguments):
        interruption.arrive(signal.SIGTERM)
        await asyncio.Event().wait()

    async def main():
        async with asyncio.timeout(60):
            await run.run(Startup(quiet=True))

    system.reset = never
    told = r"^stopped by SIGTERM while a part was started anew; go on from step 2 with "
    with pytest.raises(StoppedError, match=told):
        asyncio.run(main())
    assert newest_checkpoint(tmp_path / "run")[0].step == 2


def test_settings_that_may_change_are_noted_and_others_refused(begin, tmp_path):
    run, _ = begin("loop.num_steps=2", "checkpoint.every_steps=0")
    run_to_end(run)
    run, _system = begin("loop.num_steps=8")
    run_to_end(run)
    (restart,) = read_restarts(tmp_path / "run")
    assert restart.step == 8 or restart.changed
    with pytest.raises(UserError, match=r"^learner\.lr must stay .* got 0\.5; begin a new run"):
        begin("learner.lr=0.5")


@pytest.mark.parametrize(("target", "steps"), [("0.4", 2), ("0.5", 2), ("0.6", 8), ("null", 8)])
def test_a_run_that_reached_its_target_goes_on_only_towards_a_higher_one(begin, target, steps):
    """Every evaluation finds 0.5, the first after step 2."""
    settings = ("loop.max_staleness=0", "evaluation.every=2")
    run, system = begin(*settings, "evaluation.target=0.4")
    run_to_end(run)
    assert system.version == 2
    run, system = begin(*settings, f"evaluation.target={target}")
    run_to_end(run)
    assert system.version == steps


def test_another_task_is_refused(begin):
    run, _ = begin()
    run_to_end(run)
    with pytest.raises(UserError, match=r"^task\.seed must stay"):
        begin("task.seed=77")


def test_a_broken_checkpoint_gives_way_to_the_one_before(begin, tmp_path, capsys):
    run, _ = begin()
    run_to_end(run)
    newest, _ = newest_checkpoint(tmp_path / "run")
    whole = (newest.path / "run.npz").read_bytes()
    (newest.path / "run.npz").write_bytes(b"")
    run, _system = begin("checkpoint.at_end=false")
    run._checkpoints.due = lambda step: False
    assert "a checkpoint is passed over" in capsys.readouterr().out
    assert run._inputs.saved.step == 7
    run_to_end(run)
    # It may have been a fault of the disk that is over: what is in no other checkpoint stays.
    aside = newest.path.with_name(f"{newest.path.name}.aside")
    (aside / "run.npz").write_bytes(whole)
    assert read_checkpoint(shutil.copytree(aside, tmp_path / newest.path.name)).step == 8
    run, _system = begin()
    assert run._inputs.saved.step == 7
    run_to_end(run)
    assert newest_checkpoint(tmp_path / "run")[0].step == 8 and not aside.exists()
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        (path / MANIFEST).write_text("{}")
    with pytest.raises(UserError, match=r"must have a whole checkpoint to go on from"):
        begin()


def test_a_run_at_its_end_is_not_begun_for_the_results_that_it_has(begin, make_inputs, tmp_path):
    bound = "loop.max_generated_tokens={}"
    for folder, ended_by, more in (
        ("steps", [], {"num_steps": 9}),
        ("tokens", [bound.format(300)], {"max_generated_tokens": 10**6}),
    ):
        run_to_end(begin(*ended_by, folder=folder)[0])
        found = tmp_path / folder
        (found / "policy").mkdir(exist_ok=True)
        # Without its picture there is something to do.
        inputs = make_inputs(*ended_by, folder=folder)
        assert inputs.saved is not None
        (found / "run.png").touch()
        before = {path.name: path.read_bytes() for path in found.glob("*.*")}
        with pytest.raises(NothingToDoError, match=r"at its end, step \d; set loop\.num_steps, or"):
            make_inputs(*ended_by, folder=folder)
        assert before == {path.name: path.read_bytes() for path in found.glob("*.*")}
        longer = replace(inputs.config, loop=replace(inputs.config.loop, **more))
        check_goes_on(longer, inputs.saved, inputs.changed)
        # It is measured anew.
        assert make_inputs(*ended_by, "evaluation.num_samples=3", folder=folder).saved is not None
