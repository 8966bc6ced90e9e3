"""What an interrupted run left is kept, and a signal ends a comparison in one line."""

import asyncio
import os
import signal
from types import SimpleNamespace

import pytest

from launch.record import counter
from launch.record.counter import Counter
from launch.run.interruption import StoppedError
from launch.study.comparison import running
from launch.study.comparison.plan import plan_runs
from launch.study.comparison.running import run_all, set_aside
from tests.launch.study.comparison.planned import finish


def test_what_an_interrupted_run_left_is_kept(make_config):
    run = plan_runs(make_config())[0]
    for count in (1, 2):
        finish(run, completed=False)
        aside = set_aside(run.run_dir)
        assert not run.run_dir.exists()
        assert aside == run.run_dir.parent / f"seed-0.interrupted-{count}"
        assert (aside / "summary.json").exists()
    assert set_aside(run.run_dir) is None


class FakeSystem:
    """Counts how often it was made and ended; a signal may come while it is reset."""

    def __init__(self, signal_in_reset=None):
        self.made, self.closed, self.signal_in_reset = 0, 0, signal_in_reset

    async def create(self, config, prompts, startup):
        self.made += 1
        return self

    async def reset(self, config, prompts):
        if self.signal_in_reset is not None:
            os.kill(os.getpid(), self.signal_in_reset)
            await asyncio.sleep(60)

    async def close(self):
        self.closed += 1


@pytest.fixture
def fake_runs(monkeypatch):
    """Runs that leave a summary at once; the given one gets a signal first."""

    def make(planned, system, interrupted=None, number=None):
        class FakeRun:
            def __init__(self, inputs, system, *, began, quiet, label, interruption):
                self._run, self._interruption = inputs.run, interruption
                self._counter = Counter(label, 1.0)

            async def run(self, startup):
                if self._run is interrupted:
                    os.kill(os.getpid(), number)
                    await self._interruption.wait()
                    raise StoppedError(self._interruption.signal, "after step 1")
                with self._counter:
                    self._counter.to(0.5, "step 20, 50%")
                finish(self._run, seconds={"total": 60.0})

        def prepare(composed):
            (run,) = (run for run in planned if composed.run_dir == str(run.run_dir))
            return SimpleNamespace(
                run=run, config=SimpleNamespace(model=SimpleNamespace(path="model")), prompts=None
            )

        monkeypatch.setattr(running, "prepare", prepare)
        monkeypatch.setattr(running, "System", system)
        monkeypatch.setattr(running, "TrainingRun", FakeRun)

    return make


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_comparison_and_finished_runs_are_kept(make_config, fake_runs, number):
    planned, system = plan_runs(make_config()), FakeSystem()
    fake_runs(planned, system, interrupted=planned[2], number=number)
    with pytest.raises(StoppedError) as stopped:
        asyncio.run(run_all(planned))
    assert stopped.value.status == 128 + number
    assert str(stopped.value) == f"stopped by {number.name} after step 1; {running.KEPT}"
    assert [run.summary() is not None for run in planned] == [True, True, False, False]
    assert (system.made, system.closed) == (1, 1)
    # The same command goes on with the others.
    fake_runs(planned, system)
    asyncio.run(run_all(planned))
    assert all(run.summary() is not None for run in planned)


def test_a_signal_while_a_run_is_starting_ends_the_comparison_too(make_config, fake_runs):
    planned, system = plan_runs(make_config()), FakeSystem(signal.SIGTERM)
    fake_runs(planned, system)
    with pytest.raises(StoppedError, match="by SIGTERM while aware seed 0 was starting; finished"):
        asyncio.run(run_all(planned))
    assert planned[0].summary() is not None and planned[1].summary() is None
    assert system.closed == 1


def test_a_comparison_says_how_far_the_arm_and_the_whole_are(
    make_config, fake_runs, monkeypatch, capsys
):
    planned, system = plan_runs(make_config()), FakeSystem()
    fake_runs(planned, system)
    monkeypatch.setattr(counter, "EVERY_SECONDS", 0.0)
    asyncio.run(run_all(planned))
    lines = [line.split("  ", 1)[1] for line in capsys.readouterr().out.splitlines()]
    assert lines[0].startswith("1/4 plain seed 0: step 20, 50%, left ")
    assert lines[1].startswith("1/4 plain seed 0: pass@1 ")
    assert lines[1].endswith("60 s; 3 runs left, about 3m00s")
    assert len(lines) == 8 and lines[-1].endswith(" 60 s")
