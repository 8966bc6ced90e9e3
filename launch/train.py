"""Train a policy: `python -m launch.train experiment=quickstart`.

    config -> prompts -> plan -> cluster -> system -> evaluate -> loop -> evaluate -> run folder

Everything that can be refused is refused before an actor starts. The run folder holds
`config.yaml`, `metrics.jsonl`, `samples.jsonl`, `cells.jsonl`, `evaluations.jsonl`, `summary.json`,
`run.png` and the trained policy under `policy/`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import hydra
from omegaconf import DictConfig

from conf.programs import register
from launch.cli.previewed import is_asked
from launch.program import run_program, start
from launch.run.inputs import prepare, read_inputs, say_whose_code
from rollout.loading import begin_loading, loading

PROCESS_START = time.monotonic()
register()


@hydra.main(version_base="1.3", config_path="../conf", config_name="train")
def main(composed: DictConfig) -> None:
    """Train as configured."""

    def program() -> None:
        from launch.record.progress import print_plan
        from launch.run.interruption import stopped
        from launch.run.plan_text import derived_plan
        from launch.run.preview import preview

        say_whose_code(composed)
        if is_asked(composed):
            print(preview(read_inputs(composed)), flush=True)
            return
        starting = partial(stopped, "while the run was starting")
        with starting(), loading():
            inputs = prepare(composed)
            print_plan(derived_plan(inputs))
        # Heavy packages, for which no refusal has to wait; most of them load while Ray starts.
        train = begin_loading(load_training)
        from launch.run.cluster import cluster

        with cluster(inputs.config.resources):
            with starting():
                run = train.result()
            asyncio.run(run(inputs, began=PROCESS_START))

    run_program(program)


def load_training() -> Callable[..., Coroutine[Any, Any, None]]:
    """Import what trains, and return it."""
    from launch.run.training import train

    return train


if __name__ == "__main__":
    start(main, resumes=True)
