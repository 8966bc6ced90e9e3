"""The runs of a comparison, one after the other on one system.

planned runs -> run_all; each: reset engines, learners, scheduler -> launch.train's run -> summary
"""

import time
from pathlib import Path

from launch.record.console import get_console, print_line
from launch.record.formatting import seconds_text
from launch.record.startup import Startup
from launch.record.startup_times import StartupTimes
from launch.run.inputs import prepare
from launch.run.interruption import Interruption, StoppedError
from launch.run.rescue import say_where
from launch.run.system import System
from launch.run.training import TrainingRun
from launch.study.comparison.plan import PlannedRun

KEPT = "finished runs are kept: the same command goes on with the others"


async def run_all(planned: list[PlannedRun]) -> None:
    """Run what has not finished, on one system.

    Raises:
        StoppedError: If a signal ended a run; those before it are kept.
    """
    with Interruption.listening() as interruption:
        try:
            await _run_all(planned, interruption)
        except StoppedError as stopped:
            raise say_where(stopped, KEPT) from stopped


async def _run_all(planned: list[PlannedRun], interruption: Interruption) -> None:
    console = get_console()
    left = [run for run in planned if run.summary() is None]
    system: System | None = None
    seconds = 0.0
    try:
        for number, run in enumerate(left, len(planned) - len(left) + 1):
            aside = set_aside(run.run_dir)
            if aside is not None:
                print_line(f"{run.arm} seed {run.seed} was interrupted; kept in {aside}", console)
            label = f"{number}/{len(planned)} {run.arm} seed {run.seed}"
            inputs, began = prepare(run.composed.copy()), time.monotonic()
            beginning = f"while {run.arm} seed {run.seed} was starting"
            if system is None:
                startup = Startup(last=StartupTimes(inputs.config.model.path))
                starting = System.create(inputs.config, inputs.prompts, startup)
                system = await interruption.ends(starting, beginning)
            else:
                await interruption.ends(system.reset(inputs.config, inputs.prompts), beginning)
            training = TrainingRun(
                inputs, system, began=began, quiet=True, label=label, interruption=interruption
            )
            await training.run(Startup(quiet=True))
            done = run.summary()
            assert done is not None
            seconds += done["seconds"]["total"]
            others = len(planned) - number
            mean = seconds / (len(left) - others)
            print_line(
                f"{label}: pass@1 {done['pass_rate_after']:.3f}, {done['num_steps']} steps, "
                f"{done['generated_tokens']:,} tokens generated, {done['trained_tokens']:,} "
                f"trained, {done['seconds']['total']:.0f} s"
                + (f"; {others} runs left, about {seconds_text(others * mean)}" if others else ""),
                console,
            )
    finally:
        if system is not None:
            await system.close()


def set_aside(run_dir: Path) -> Path | None:
    """Rename what an interrupted run left, so that nothing is lost and the folder is free."""
    if not run_dir.exists() or not any(run_dir.iterdir()):
        return None
    count = 1
    while (aside := run_dir.with_name(f"{run_dir.name}.interrupted-{count}")).exists():
        count += 1
    run_dir.rename(aside)
    return aside
