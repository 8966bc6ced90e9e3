"""One training run on a started system: what happens around the loop.

evaluate -> loop -> save -> evaluate -> summary.json, run.png
            ^  |
            |  +-- after each step: metrics, evaluation, checkpoint, policy
            +----- a part that died, or the program itself: on from the newest checkpoint
a signal: checkpoint, end
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Coroutine
from functools import partial, reduce
from pathlib import Path
from typing import Any

from cost.draws.distribution import DrawDistribution
from launch.record.counter import Counter
from launch.record.notices import Unwritten
from launch.record.picture import draw_picture
from launch.record.progress import print_result
from launch.record.run_folder import PICTURE
from launch.record.startup import Startup
from launch.record.startup_times import StartupTimes
from launch.record.step import StepResult
from launch.run import loop
from launch.run.best import BestPolicy
from launch.run.checkpoints import Checkpoints
from launch.run.deaths import PartDied
from launch.run.inputs import Inputs
from launch.run.interruption import Interruption, StoppedError
from launch.run.parts import plan_of
from launch.run.position import Position
from launch.run.recorder import Recorder
from launch.run.recovery import Recovery
from launch.run.rescue import rescue, save_by_the_way, save_somewhere, say_where
from launch.run.system import System, parts_of


async def train(inputs: Inputs, *, began: float) -> None:
    """Start a system on a connected cluster, train on it, and end it.

    Args:
        inputs: What the run starts from.
        began: When the program began, in seconds of `time.monotonic`.

    Raises:
        UserError: If the cluster has too little, or the loss stayed non-finite.
        StoppedError: If a signal ended the run.
        Exception: Whatever else ends the run; the policy as learned until then is saved.
    """
    startup = Startup(last=StartupTimes(inputs.config.model.path))
    with Interruption.listening() as interruption:
        system = await interruption.ends(
            System.create(inputs.config, inputs.prompts, startup), "while the run was starting"
        )
        # What is there now is there to the end: no collection of garbage need look at it again,
        # which takes a third of a second where there are a million prompts.
        gc.collect()
        gc.freeze()
        try:
            await TrainingRun(inputs, system, began=began, interruption=interruption).run(startup)
        finally:
            # Or libraries count what they find at the program's end as leaked.
            gc.unfreeze()
            await system.close()


class TrainingRun:
    """One run on a started system.

    Args:
        inputs: What the run starts from, or goes on from.
        system: Its running parts.
        began: When it began, in seconds of `time.monotonic`.
        quiet: Whether to leave the results to the caller.
        label: A name under which it shows how far it is, where no tracker does.
        interruption: Says when to stop; None where nobody does.
    """

    def __init__(
        self,
        inputs: Inputs,
        system: System,
        *,
        began: float,
        quiet: bool = False,
        label: str = "",
        interruption: Interruption | None = None,
    ) -> None:
        self._inputs = inputs
        self._config = config = inputs.config
        self._system = system
        self._quiet = quiet
        self._counter = Counter(label, 1.0, quiet=not label)
        self._run_dir = Path(config.run_dir)
        self._recorder = Recorder(inputs, system, began=began, label=label)
        self._checkpoints = Checkpoints(config.checkpoint, self._run_dir, system, inputs.about)
        self._recovery = Recovery(inputs, system, self._recorder, plan_of(config))
        self._interruption = interruption or Interruption()
        self._position: Position | None = None
        # Whether the learners may have learned something that is saved nowhere else.
        self._learning = False
        # Where the policy was saved at the end of the steps.
        self._kept: Path | None = None
        self._best = BestPolicy(config.checkpoint.keep_best, self._run_dir, self._save)

    async def run(self, startup: Startup) -> None:
        """Evaluate, train, save, evaluate; the run folder is complete whatever happens.

        Raises:
            UserError: If the loss stayed non-finite; the last good weights are saved.
            StoppedError: If a signal ended the run.
            RunError: If the run was whole but not all that it leaves could be written in place.
            BaseException: What else ended the run; where the policy is saved is said with it.
        """
        try:
            distribution = await self._through_deaths(partial(self._begin, startup))
        except BaseException as error:
            said = await self._end(error)
            if said is error:
                raise
            raise said from error
        unwritten = Unwritten()
        if self._kept is not None and self._kept.parent != self._run_dir:
            unwritten.sentences.append(f"the policy could not be saved in {self._run_dir}")
        finished = self._recorder.close(unwritten, completed=True)
        with unwritten.noted(PICTURE):
            draw_picture(self._run_dir, distribution, summary=finished, title=self._config.name)
        await self._best.finish(self._kept, self._config.loop, unwritten)
        if not self._quiet:
            with unwritten.noted("the result"):
                print_result(finished, self._run_dir)
        unwritten.check(f"the policy is in {self._kept}" if self._kept else "no policy was saved")

    async def _through_deaths(
        self, work: Callable[[], Coroutine[Any, Any, DrawDistribution]]
    ) -> DrawDistribution:
        """Do the work of the run to its end; after a death, on from the newest checkpoint."""
        while True:
            try:
                return await self._system.guard(work())
            except PartDied as death:
                if self._kept is not None and self._checkpoints.last_step < self._recorder.step:
                    # A policy that is finished is not put at risk by learning it once more.
                    raise
                self._recovery.accept(death)
                work = partial(self._begin_again, death)

    async def _begin(self, startup: Startup) -> DrawDistribution:
        if self._inputs.saved is None:
            self._recovery.remember_start()
        else:
            with startup.part(f"checkpoint of step {self._inputs.saved.step}"):
                self._position = await self._recovery.begin(self._inputs.saved)
        return await self._to_the_end(startup)

    async def _begin_again(self, death: PartDied) -> DrawDistribution:
        await self._checkpoints.finish()
        recovery = self._recovery.recover(death)
        self._position = await self._interruption.ends(recovery, "while a part was started anew")
        # It may be of steps that are learned again.
        self._kept = None
        return await self._to_the_end(Startup(quiet=True))

    async def _to_the_end(self, startup: Startup) -> DrawDistribution:
        """Train from where the run is, save the policy and measure it."""
        whole, evaluations = self._interruption.ends, self._recorder.evaluations
        at_start = self._recorder.step == 0
        self._best.go_back(self._recorder.step)
        if at_start and self._config.evaluation.before and not evaluations.knows_before:
            with startup.part("held-out evaluation"):
                await whole(evaluations.take("before"), "before the first step")
        self._recorder.open()
        if at_start:
            self._recovery.remember_start()
        self._learning = True
        with self._counter:
            await self._loop()
        await self._system.checked()
        self._recorder.loop_ended()
        await self._save_at_end()
        if self._config.evaluation.after:
            found = await whole(evaluations.take("after"), "after the last step")
            await self._best.look(self._recorder.step, found)
        distribution: DrawDistribution = await self._system.scheduler.call("distribution")
        return distribution

    async def _save_at_end(self) -> None:
        background = self._recorder.evaluations.finish_background()
        told = await self._interruption.ends(background, "after the last step")
        self._recorder.write_afterwards(told)
        await self._checkpoints.finish()
        # Where an evaluation ended since, that of the last step does not know it.
        new = told or self._checkpoints.last_step != self._recorder.step
        if self._config.checkpoint.at_end and new:
            await self._checkpoint()
        if self._config.loop.save_final:
            self._kept = await self._save("policy")
        await self._checkpoints.finish()

    async def _loop(self) -> None:
        """Run the loop from where it is, until its end or a signal.

        Raises:
            StoppedError: After a signal; there is a checkpoint, if one could be written.
        """
        self._checkpoints.last_step = self._recovery.step
        until_signal, plan = self._interruption.ends, plan_of(self._config)
        self._position = position = self._position or Position(plan)
        # The learners are still at the step whose evaluation a signal cut off.
        found = await until_signal(self._recorder.evaluations.make_up(), self._where)
        position.budget.evaluated(found)
        self._recorder.write_afterwards(found)
        await self._best.look(self._recorder.step, found)
        parts = parts_of(self._system, self._inputs, self._recorder.watch)
        work = loop.train(plan, parts, self._on_step, position)
        await until_signal(work, self._where, self._grace_seconds)

    def _where(self) -> str:
        return f"after step {self._recorder.step}"

    def _grace_seconds(self) -> float:
        return 0.0 if self._between_steps else self._config.checkpoint.grace_seconds

    @property
    def _between_steps(self) -> bool:
        """Whether the learners are at a version that is written down, and nothing is half done."""
        position = self._position
        if position is None or self._recovery.blank:
            return False
        return not position.learning and position.batch == self._recorder.step

    async def _on_step(self, result: StepResult) -> None:
        metrics = await self._evaluate(result.step) | self._checkpoints.metrics()
        assert self._position is not None
        self._position.budget.evaluated(metrics)
        share = self._position.budget.progress(result.step)
        metrics["loop/done_share"] = share
        self._counter.to(share, f"step {result.step}, {share:.0%}")
        await self._recorder.write(result, metrics)
        await self._best.look(result.step, metrics)
        self._recovery.progress()
        if (every := self._config.loop.save_every) and result.step % every == 0:
            await save_by_the_way(self._save, f"policy-{result.step}")
        if self._interruption.signal is not None:
            raise StoppedError(self._interruption.signal, self._where())
        if self._checkpoints.due(result.step):
            await self._checkpoint()

    async def _evaluate(self, step: int) -> dict[str, float]:
        try:
            return await self._interruption.ends(self._recorder.evaluations.after_step(step), "")
        except StoppedError:
            # The step is written down without it, and can be saved.
            return {}

    async def _checkpoint(self) -> None:
        assert self._position is not None
        await self._system.checked()
        state = {"recorder": self._recorder.state_dict(), "system": self._system.state_dict()}
        await self._checkpoints.save(self._position, state)

    async def _end(self, error: BaseException) -> BaseException:
        """Save what was learned after a failure, close the run folder, and return what to raise."""
        self._recorder.evaluations.cancel()
        if self._kept is not None:
            error = say_where(error, f"the policy is in {self._kept}")
            error = say_where(error, self._checkpoints.way_on)
        elif self._learning:
            await self._checkpoints.last(self._checkpoint if self._between_steps else None)
            if not self._recovery.blank:
                error = say_where(error, await rescue(self._save, self._run_dir / "policy"))
            error = say_where(error, self._checkpoints.way_on)
        elif not self._recorder.step:
            return error  # There is nothing to tell, and the folder stays as good as it was.
        unwritten = Unwritten()
        with unwritten.noted("the run folder"):
            self._recorder.close(unwritten, completed=False)
        return reduce(say_where, unwritten.sentences, error)

    async def _save(self, name: str) -> Path:
        save, model = self._system.learners.save, self._config.model.path
        return await save_somewhere(lambda path: save(str(path), model), self._run_dir / name)
