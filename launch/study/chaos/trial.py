"""One trial: a run is started, struck, started again until it ends, and looked at.

start -> steps in metrics.jsonl -> strike -> output, end -> leftovers -> start again ... -> Trial
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from conf.chaos import ChaosConfig
from launch.record.run_folder import METRICS
from launch.study.chaos.outcomes import Trial, names, read_trained
from launch.study.chaos.session import POLL_SECONDS, VARIABLE, Session
from launch.study.chaos.strikes import DRIVER, Strike
from rollout.processes import look

STEP_SECONDS = 2.0
"""Taken for the time of a step before two of them were seen."""
BLOCKS_SECONDS = 2.0
"""Between two looks at shared memory."""


class StruckRun:
    """A run that is struck once.

    Args:
        config: The study.
        folder: Of the trial, absolute and empty.
        number: Of the trial.
        strike: None for a run that nothing disturbs.
    """

    def __init__(
        self, config: ChaosConfig, folder: Path, number: int, strike: Strike | None
    ) -> None:
        self._config = config
        self._folder = folder
        self._run_dir = folder / "run"
        self._number = number
        self._strike = strike
        self._session = Session(folder)
        self._rng = np.random.default_rng([config.seed, number])
        self._deadline = time.monotonic() + config.deadline_seconds
        self._begins: list[float] = []
        self._pid: int | None = None
        self._struck = 0.0
        self._at_step = 0
        self._continue = False
        self._named: tuple[float, str] | None = None
        self._read = 0

    def run(self) -> Trial:
        """Return what became of it; nothing of it runs any more."""
        began, statuses, left = time.monotonic(), [], list[str]()
        try:
            for start in range(1, self._config.most_starts + 1):
                statuses.append(self._start(self._folder / f"output-{start}.txt"))
                if statuses[-1] is None:
                    break
                left += self._session.leftovers(self._config.grace_seconds)
                self._session.end()
                if statuses[-1] == 0:
                    break
        finally:
            self._session.end()
        return Trial(
            number=self._number,
            strike=self._strike,
            pid=self._pid,
            at_step=self._at_step,
            statuses=tuple(statuses),
            named_seconds=self._named[0] if self._named else None,
            named=self._named[1] if self._named else "",
            leftovers=tuple(left),
            seconds=time.monotonic() - began,
            trained=read_trained(self._run_dir),
        )

    def _start(self, output: Path) -> int | None:
        """Start the run, or go on with it; returns its exit status, or None at the deadline."""
        overrides = [*self._config.base, f"loop.num_steps={self._config.num_steps}"]
        command = [sys.executable, "-m", "launch.train", *overrides]
        environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
        self._read = output.stat().st_size if output.exists() else 0
        with output.open("ab") as file:
            driver = subprocess.Popen(
                [*command, f"run_dir={self._run_dir}", "resume=auto"],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment | {VARIABLE: str(self._folder), "PYTHONUNBUFFERED": "1"},
                start_new_session=True,
            )
        looked = 0.0
        try:
            while driver.poll() is None and time.monotonic() < self._deadline:
                time.sleep(POLL_SECONDS)
                self._listen(output)
                if time.monotonic() - looked > BLOCKS_SECONDS:
                    self._session.note_blocks(driver.pid)
                    looked = time.monotonic()
                self._strike_when_due(driver.pid)
            self._listen(output)
            return driver.poll()
        finally:
            if driver.poll() is None:
                driver.kill()
                driver.wait()

    def _strike_when_due(self, driver: int) -> None:
        strike, now = self._strike, time.monotonic()
        if self._continue and now - self._struck > self._config.stopped_seconds:
            # Nobody can notice for a driver that it stands still; whoever stopped it lets it go on.
            os.kill(driver, signal.SIGCONT)
            self._continue = False
        if strike is None or self._pid is not None:
            return
        path = self._run_dir / METRICS
        if not path.exists():
            return
        step = path.read_bytes().count(b"\n") + 1
        self._begins += [now] * (step - len(self._begins))
        if step < strike.step:
            return
        begins = self._begins[: strike.step]
        seconds = begins[-1] - begins[-2] if len(begins) > 1 else STEP_SECONDS
        if now < begins[-1] + strike.share * seconds:
            return
        victim = self._session.find(strike.part, driver, self._rng)
        if victim is None or look(victim.pid) is None:
            return
        os.kill(victim.pid, signal.Signals[strike.signal])
        self._pid, self._struck, self._at_step = victim.pid, time.monotonic(), step - 1
        self._continue = strike.part == DRIVER and strike.signal == "SIGSTOP"

    def _listen(self, output: Path) -> None:
        """Take in what was printed, and when the part that was struck is named first."""
        with output.open("rb") as file:
            file.seek(self._read)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._read += len(whole)
        if self._pid is None or self._strike is None or self._named is not None:
            return
        for line in whole.decode(errors="replace").splitlines():
            if names(self._strike.part, line):
                self._named = (time.monotonic() - self._struck, line.strip())
                return
