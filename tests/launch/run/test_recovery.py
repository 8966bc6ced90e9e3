"""A run that is stopped anywhere goes on: nothing lost, nothing doubled, the same in the end."""

import asyncio
import json
import re
import shutil
import signal
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cost.draws.streams import generator_for
from cost.types import LengthReport, RewardStatus
from launch.cli.refusals import NothingToDoError, RunError, UserError
from launch.record.checkpoint import MANIFEST, newest_checkpoint, read_checkpoint
from launch.record.restarts import read_restarts
from launch.record.run_folder import at_versions, is_afterwards, metric_columns, read_steps
from launch.record.startup import Startup
from launch.record.summary import COUNTERS, PHASES
from launch.run import checkpoints, recovery, training
from launch.run.deaths import PartDied
from launch.run.guards import Guards
from launch.run.inputs import prepare
from launch.run.interruption import Interruption, StoppedError
from launch.run.resume import check_goes_on, find_checkpoint
from launch.run.training import TrainingRun
from rollout.places import EngineError
from tests.composing import composed
from tests.launch.run.system import Data, Learners, LocalSystem, Rollouts

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


def go_on(inputs):
    """Return the inputs of the same run, to go on from its newest checkpoint."""
    return replace(inputs, saved=find_checkpoint("auto", Path(inputs.config.run_dir)))


def start(inputs, interruption=None):
    """Return a run that can be awaited, and its system."""
    system = LocalSystem(inputs.config, inputs.prompts)
    run = TrainingRun(inputs, system, began=time.monotonic(), quiet=True, interruption=interruption)
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


@pytest.mark.parametrize(
    ("every", "tickets", "steps", "groups"),
    [(10, 1, [1], 1), (3, 2, [1, 4, 7], 2), (1, "null", range(1, 9), 4), (0, 1, [], 0)],
)
def test_responses_are_written_as_often_and_as_many_as_is_set(
    begin, tmp_path, every, tickets, steps, groups
):
    run, _ = begin(f"loop.samples_every={every}", f"loop.samples_tickets={tickets}")
    run_to_end(run)
    file = tmp_path / "run" / "samples.jsonl"
    rows = [json.loads(line) for line in file.open()] if file.exists() else []
    assert Counter(row["step"] for row in rows) == dict.fromkeys(steps, 4 * groups)


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


def test_a_run_that_is_made_shorter_has_no_step_more_and_may_be_made_longer_again(begin, tmp_path):
    kind = ["loop.max_staleness=2", "checkpoint.keep_last=99"]
    folder = tmp_path / "run"
    run_to_end(begin(*kind)[0])
    for path in (folder / "checkpoints").iterdir():
        if int(path.name.removeprefix("step-")) > 3:
            shutil.rmtree(path)
    for num_steps in (4, 8):
        # Batches of later steps had been drawn before the kill.
        run, system = begin(*kind, f"loop.num_steps={num_steps}")
        run_to_end(run)
        assert system.version == num_steps
        assert [line["step"] for line in metrics_in(folder)] == list(range(1, num_steps + 1))
    assert metrics_in(folder)[-1]["cost/failed_tickets"] == 0


@pytest.mark.parametrize("kind", [ONE_ROUND, SEVERAL_ROUNDS], ids=["one_round", "rounds"])
@pytest.mark.parametrize("staleness", [0, 1])
def test_a_signal_at_any_moment_loses_nothing(make_inputs, tmp_path, kind, staleness):
    kind = [*kind, f"loop.max_staleness={staleness}"]
    run, whole = start(make_inputs(*kind, folder="whole"))
    run_to_end(run)
    expected = metrics_in(tmp_path / "whole")[-1]
    for moment in (7, 20, 45):
        folder = tmp_path / f"run-{moment}"
        system = stopped_again_and_again(make_inputs(*kind, folder=folder.name), moment)
        assert system.version == 8, moment
        assert [line["step"] for line in metrics_in(folder)] == list(range(1, 9)), moment
        if staleness == 0:
            assert system.learners.weights == whole.learners.weights, moment
        last = metrics_in(folder)[-1]
        for key in ("cost/tickets", "cost/failed_tickets"):
            assert last[key] == expected[key], moment
        useful = [m["cost/generated_tokens"] - m["cost/wasted_tokens"] for m in (last, expected)]
        assert staleness or useful[0] == useful[1], moment


def stopped_again_and_again(inputs, moment):
    """Go on until the end with a signal every few events, later each time; return the system."""
    signals = 0
    while True:
        inputs = go_on(inputs)
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


async def never(*arguments):
    await asyncio.Event().wait()


def dying_once(system, part, holder, name, call=1):
    """Let a part die while a method is at work, as whoever watches over it finds out."""
    guards, calls, work = Guards(None), [], getattr(holder, name)

    async def at_work(*arguments):
        calls.append(name)
        if len(calls) == call:
            assert guards.end_innermost(PartDied(part, "was killed", "/logs"))
            await never()
        return await work(*arguments)

    system.guard = guards.hold
    setattr(holder, name, at_work)


@pytest.mark.parametrize(
    ("where", "part"),
    [
        ("before", "learner 0"),
        ("checkpoint", "learner 0"),
        ("save", "learner 0"),
        ("after", "learner 0"),
        ("after", "scheduler"),
        ("distribution", "scheduler"),
    ],
)
def test_a_part_that_dies_before_the_first_or_after_the_last_step_is_recovered_from(
    begin, tmp_path, where, part
):
    settings = ("evaluation.before=true", "evaluation.after=true", "loop.max_staleness=0")
    run, whole = begin(*settings, folder="whole")
    run_to_end(run)
    run, system = begin(*settings)
    if where == "save":
        dying_once(system, part, system.learners, "save")
    elif where == "checkpoint":
        dying_once(system, part, run, "_save_at_end")
    elif where == "distribution":
        system.scheduler.dies_at = ("distribution", 1)
    else:
        # Two prompts before the first step, sampled and greedy, and as many after the last one.
        dying_once(system, part, system.rollouts, "evaluate", 2 if where == "before" else 6)
    run_to_end(run)
    assert len(system.resets) == 1
    assert system.learners.weights == whole.learners.weights
    assert told_in(tmp_path / "run") == told_in(tmp_path / "whole")
    check_evaluations(tmp_path / "run")
    (restart,) = read_restarts(tmp_path / "run")
    assert (restart.step, restart.lost_steps) == (0 if where == "before" else 8, 0)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["completed"] and (summary["restarts"], summary["lost_steps"]) == (1, 0)
    assert summary["seconds"]["loop"] <= summary["seconds"]["total"]


def test_a_death_after_the_last_step_puts_no_policy_at_risk_that_no_checkpoint_has(begin, tmp_path):
    run, system = begin("evaluation.after=true", "checkpoint.at_end=false")
    run._checkpoints.due = lambda step: step == 2
    dying_once(system, "scheduler", system.rollouts, "evaluate")
    with pytest.raises(PartDied, match=rf"; the policy is in {tmp_path}/run/policy; go on from s"):
        run_to_end(run)
    assert system.resets == []


@pytest.mark.parametrize("step", [2, 8])
@pytest.mark.parametrize("background", [False, True], ids=["standing", "background"])
def test_an_evaluation_that_a_signal_cuts_off_is_made_up_for(
    make_inputs, tmp_path, step, background
):
    settings = (*EVALUATED, "loop.max_staleness=0", f"evaluation.background={background}")
    if not background:
        settings += ("checkpoint.keep_best=other",)
    inputs = make_inputs(*settings)
    run, system = start(inputs)
    measured(system)
    run_to_end(run)
    (tmp_path / "run").rename(tmp_path / "whole")
    (tmp_path / "run").mkdir()
    # Again and again, and at last not.
    for _ in range(2):
        interruption = Interruption()
        run, system = start(go_on(inputs), interruption)
        measured(system)
        cut_off(system, interruption, step)
        with pytest.raises(StoppedError, match=rf"^stopped by SIGTERM after (step {step}|the la)"):
            run_to_end(run)
    run, system = start(go_on(inputs))
    measured(system)
    run_to_end(run)
    found, expected = (told_in(tmp_path / folder) for folder in ("run", "whole"))
    rates = [rates_in(tmp_path / folder) for folder in ("run", "whole")]
    assert rates[0] == rates[1] and set(rates[0]) == {2, 4, 6, 8}
    for name in found.keys() - {"metrics.jsonl"}:
        assert found[name] == expected[name], name


def cut_off(system, interruption, step):
    """Let a signal arrive while the version of a step is evaluated."""
    evaluate = system.rollouts.evaluate

    async def stop(*arguments):
        if system.version != step:
            return await evaluate(*arguments)
        if interruption.signal is None:
            interruption.arrive(signal.SIGTERM)
        return await never()

    system.rollouts.evaluate = stop


def rates_in(folder):
    """What evaluations on the way found, by version."""
    columns = metric_columns(read_steps(folder))
    rates = at_versions(columns, "evaluation/other/pass_rate")
    return {int(s): r for s, r in zip(columns["step"], rates, strict=True) if np.isfinite(r)}


def test_an_evaluation_that_is_made_up_for_ends_a_run_that_reached_its_target(
    make_inputs, tmp_path
):
    """Every evaluation finds 0.5, the first after step 2."""
    inputs = make_inputs("loop.max_staleness=0", "evaluation.every=2", "evaluation.target=0.4")
    interruption = Interruption()
    run, system = start(inputs, interruption)
    cut_off(system, interruption, 2)
    with pytest.raises(StoppedError):
        run_to_end(run)
    run, system = start(go_on(inputs))
    run_to_end(run)
    assert system.version == 2


@pytest.mark.parametrize("lower", [True, False])
def test_the_best_policy_is_none_of_a_lost_step(begin, make_inputs, tmp_path, lower):
    """Steps are learned again with other results, as with any staleness."""
    run, system = begin(
        "checkpoint.keep_best=held_out", "evaluation.every=1", "loop.max_staleness=0"
    )
    # Of eight responses to a prompt.
    passed = {1: 1, 2: 4, 3: 2, 4: 5, 5: 7}
    again = {4: 3 if lower else 6}

    async def evaluate(ticket, prompt, sampling):
        report = await Rollouts.evaluate(system.rollouts, ticket, prompt, sampling)
        known = again if system.resets else passed
        rewards = np.arange(ticket.num_samples) < known.get(system.version, 0)
        return replace(report, rewards=rewards.astype(float))

    system.rollouts.evaluate = evaluate
    run._checkpoints.due = lambda step: step == 3
    system.scheduler.dies_at = ("draw", 6)
    run_to_end(run)
    best = json.loads((tmp_path / "run" / "best.json").read_text())
    step, rate = (2, 0.5) if lower else (4, 0.75)
    assert (best["step"], best["pass_rate"]) == (step, rate)
    (kept,) = (tmp_path / "run").glob("policy-best-*")
    assert best["policy"] == str(kept) and kept.name == f"policy-best-{step}"


EVALUATED = (
    "evaluation.before=true",
    "evaluation.after=true",
    "evaluation.every=2",
    "evaluation.num_samples=2",
    "+evaluation_set@evaluation.sets.other=chain_two_ends",
    "evaluation.sets.other.task.num_prompts=3",
)
BEST_KEPT = (
    "checkpoint.keep_best=other",
    "loop.max_generated_tokens=3000",
    "loop.max_seconds=10000",
)
IN_BACKGROUND = (
    "evaluation.background=true",
    "loop.max_trained_tokens=100000",
    "loop.max_compute_flops=1e10",
    "scheduler.accelerator_hour_price=2.0",
)


def measured(system):
    """Let evaluations depend on the weights, and every third ticket be tried twice."""
    run, rollouts = system.rollouts.run, system.rollouts

    async def evaluate(ticket, prompt, sampling):
        weights, version = system.published
        n = ticket.num_samples
        rng = generator_for(0, "evaluation", ticket.ticket_id, int(weights[:8], 16))
        return LengthReport(
            ticket.ticket_id, ticket.prompt_index, 3, 3, rng.integers(1, 9, n), np.zeros(n, bool),
            (rng.random(n) < 0.5).astype(float), np.zeros(n, np.int64), np.ones(n), np.arange(n),
            0.1, version,
        )  # fmt: skip

    async def run_again(ticket, prompt):
        rollouts.num_retries += ticket.ticket_id % 3 == 0
        return await run(ticket, prompt)

    rollouts.evaluate, rollouts.run = evaluate, run_again


def told_in(folder):
    """All that a run folder tells, but for what is not the same twice: seconds, their price."""

    def same(found):
        if isinstance(found, list):
            return [same(each) for each in found]
        if not isinstance(found, dict):
            return found
        other = re.compile("second|checkpoint|^(time|policy|restarts|lost_steps)$|currency")
        return {key: same(value) for key, value in found.items() if not other.search(key)}

    found = {path.parent.name: path.read_text() for path in folder.glob("policy*/weights")}
    for path in folder.glob("*.jsonl"):
        found[path.name] = [same(json.loads(line)) for line in path.open()]
    for path in {*folder.glob("*.json")} - {folder / "restarts.json"}:
        found[path.name] = same(json.loads(path.read_text()))
    return found


@pytest.mark.parametrize("kind", [BEST_KEPT, IN_BACKGROUND], ids=["best", "background"])
def test_a_run_that_was_disturbed_often_tells_what_one_that_was_not_tells(
    make_inputs, tmp_path, monkeypatch, kind
):
    inputs = make_inputs(*EVALUATED, *kind, "loop.max_staleness=0", "loop.num_steps=6")
    run, system = start(inputs)
    measured(system)
    run_to_end(run)
    (tmp_path / "run").rename(tmp_path / "whole")
    (tmp_path / "run").mkdir()

    run, system = start(inputs)
    measured(system)
    run._checkpoints.due = lambda step: step == 3
    # Once without a checkpoint, once with one.
    system.scheduler.dies_at = ("select", 2)
    monkeypatch.setattr(Learners, "dies_at", 4)
    run_to_end(run)
    # As if it had been killed before the last one.
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-00000006")
    run, system = start(go_on(inputs))
    measured(system)
    run._checkpoints.due = lambda step: step == 5
    system.scheduler.dies_at = ("draw", 2)
    run_to_end(run)

    restarts = read_restarts(tmp_path / "run")
    assert [(each.step, each.lost_steps) for each in restarts] == [(0, 1), (3, 1), (3, 3), (3, 1)]
    assert told_in(tmp_path / "run") == told_in(tmp_path / "whole")
    check_sums(tmp_path / "run")


def check_sums(folder):
    """The summary's seconds are those of the steps that are told, and nothing falls back."""
    steps = read_steps(folder)
    summary = json.loads((folder / "summary.json").read_text())
    for phase in PHASES:
        told = sum(step[f"loop/{phase}_seconds"] for step in steps)
        assert summary["seconds"][phase] == pytest.approx(told), phase
    assert summary["seconds"]["loop"] <= summary["seconds"]["total"]
    for key in (*COUNTERS, "rollout/retries", "loop/done_share"):
        values = [step[key] for step in steps if step.get(key) is not None]
        assert values == sorted(values), key
    assert (summary["restarts"], summary["lost_steps"]) == (4, 6)


def test_an_evaluation_after_the_last_step_that_is_made_again_is_told_once(make_inputs, tmp_path):
    settings = ("evaluation.every=4", "evaluation.background=true", "checkpoint.at_end=false")
    inputs = make_inputs(*settings, "loop.num_steps=4")
    run_to_end(start(inputs)[0])
    longer = replace(inputs.config, loop=replace(inputs.config.loop, num_steps=5))
    run_to_end(start(go_on(replace(inputs, config=longer)))[0])
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert [line["evaluation/version"] for line in lines if "evaluation/version" in line] == [4]
    assert [line["step"] for line in lines if not is_afterwards(line)] == [1, 2, 3, 4, 5]


def test_a_reward_that_failed_in_a_lost_step_alone_is_not_told(begin, tmp_path):
    run, system = begin("loop.max_staleness=0", "rollout.reward_max_crashed_share=1")
    work = system.rollouts.run

    async def crash(ticket, prompt):
        group = await work(ticket, prompt)
        if ticket.ticket_id == 9 and not system.resets:
            group.report.status[0] = RewardStatus.CRASHED
            object.__setattr__(group.report, "reward_failure", "ValueError: no number")
        return group

    system.rollouts.run = crash
    run._checkpoints.due = lambda step: step == 2
    system.scheduler.dies_at = ("draw", 5)
    run_to_end(run)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["reward_crashed"], summary["first_reward_failure"]) == (0, None)


def test_a_checkpoint_that_cannot_be_gone_on_from_leaves_the_folder_as_it_was(
    make_inputs, tmp_path, monkeypatch
):
    inputs = make_inputs("loop.num_steps=2")
    run_to_end(start(inputs)[0])
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").glob("*.json*")}

    def fail(*arguments):
        raise MemoryError("no room for groups")

    monkeypatch.setattr(recovery, "read_groups", fail)
    with pytest.raises(MemoryError):
        run_to_end(start(go_on(inputs))[0])
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").glob("*.json*")} == before


class Tracker:
    """Goes on under the id that it is given, as wandb does."""

    def __init__(self, opens=99):
        self.ids = []
        self.opens = opens

    def open(self, run):
        if len(self.ids) == self.opens:
            raise ConnectionError("no server answers")
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


def test_a_tracker_that_cannot_be_opened_after_a_death_is_left_out_and_keeps_its_state(
    begin, make_inputs, capsys
):
    inputs = make_inputs("loop.max_staleness=0")
    run, system = start(inputs)
    run._config.tracker["mine"] = tracker = Tracker(opens=1)
    system.scheduler.dies_at = ("select", 5)
    run_to_end(run)
    assert capsys.readouterr().err.splitlines()[-1] == (
        "tracker.mine cannot be opened (no server answers); the run goes on without it"
    )
    tracker.opens = 2
    again, _ = start(go_on(inputs))
    run_to_end(again)
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
    interruption, inputs = Interruption(), make_inputs("loop.max_staleness=0")
    run, system = start(inputs, interruption)
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
    # It did not go on then: what it lost is counted once, when it does.
    run_to_end(start(go_on(inputs))[0])
    (restart,) = read_restarts(tmp_path / "run")
    assert (restart.step, restart.lost_steps, restart.reason) == (2, 2, "started again")


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
