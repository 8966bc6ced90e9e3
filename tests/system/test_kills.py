"""Parts that are killed, and a run whose terminal is closed, on the real stack."""

import os
import signal
import time
from functools import partial

import pytest

from launch.record.restarts import read_restarts
from tests.processes import engine_of, titled
from tests.system.program import finished, lines_of, train, wait_for_step
from tests.terminal import Terminal

pytestmark = pytest.mark.system


def test_whatever_is_killed_the_run_goes_on_and_a_closed_terminal_ends_it(tmp_path):
    run_dir, terminal = tmp_path / "run", Terminal()
    # Whatever else goes on here, the step that a signal comes into is finished.
    settings = ("loop.max_staleness=1", "loop.num_steps=400", "checkpoint.grace_seconds=300")
    with train(run_dir, *settings, **terminal.options()) as process:
        for step, victim in (
            (2, partial(titled, "ray::SchedulerActor")),
            (8, engine_of),
            (14, partial(titled, "ray::LearnerWorker")),
        ):
            wait_for_step(process, run_dir, step)
            os.kill(victim(process.pid), signal.SIGKILL)
            # What was learned after the newest checkpoint is learned anew.
            time.sleep(5)
        wait_for_step(process, run_dir, 18)
        terminal.close()
        # As a shell tells its jobs: Ray's own processes hear of it as well.
        os.killpg(process.pid, signal.SIGHUP)
        status, out = finished(process)
    assert status == 128 + signal.SIGHUP and "cluster died" not in out, out
    last = out.strip().splitlines()[-1]
    steps = [line["step"] for line in lines_of(run_dir)]
    assert steps == list(range(1, len(steps) + 1))
    assert f"stopped by SIGHUP after step {steps[-1]}; the policy as learned until then is" in last
    assert f"go on from step {steps[-1]} with `python -m launch.train resume={run_dir}`" in last
    reasons = [restart.reason.split(";")[0] for restart in read_restarts(run_dir)]
    assert len(reasons) == 2
    assert reasons[0].startswith("scheduler ") and reasons[1].startswith("learner 0 ")
    found = lines_of(run_dir)[-1]
    assert found["cost/failed_tickets"] == 0
    # Those of the batches learned, none twice; of the next one what had been reported by then.
    assert 4 * len(steps) <= found["cost/tickets"] <= 4 * len(steps) + 4
