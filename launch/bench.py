"""Measure this machine: `python -m launch.bench [NAME...] [overrides]`.

    one started system:        startup, rollout, publish
    this process, afterwards:  learner, gradient_norms, cost, long_context
    with learner:              gradient_norms and long_context as well
    each by itself:            layouts, of learner an optimiser step alone
                               kernels, of the learner: attention and log-probabilities
                               endurance, runs of many steps in simulated time
                               scaling, the driver with many simulated engines
                               memory, learners' beside what the plan predicts
                               turns, several with a slow tool against single ones
                               rewards, scored one at a time and side by side
                               peer, or peer=trl, a training beside one by TRL's GRPOTrainer
    all but the last nine:      all, which is what is measured when no bench is named

One JSON object on stdout, everything else on stderr. The configuration is that of
`launch.train experiment=quickstart`; overrides are hydra's, e.g. `learner.row_tokens=2048`.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from typing import TextIO

import hydra
from omegaconf import DictConfig

from conf.programs import register
from launch.program import build, run_program, start

# Imported for the moment at which the process began, which it takes down.
from launch.study import bench  # noqa: F401

register()


@contextlib.contextmanager
def only_ours_on_stdout() -> Iterator[TextIO]:
    """Send what this process and its children write to stdout to stderr; yield the real stdout."""
    sys.stdout.flush()
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as stdout:
        os.dup2(2, 1)
        try:
            with contextlib.redirect_stdout(sys.stderr):
                yield stdout
        finally:
            os.dup2(stdout.fileno(), 1)


@hydra.main(version_base="1.3", config_path="../conf", config_name="bench")
def main(composed: DictConfig) -> None:
    """Measure as configured."""

    def program() -> None:
        from launch.run.model_folder import resolve_model
        from launch.study.bench.suite import measure

        composed.model.path = resolve_model(composed.model.path)
        config = build(composed)
        with only_ours_on_stdout() as stdout:
            print(json.dumps(measure(config), indent=2), file=stdout)

    run_program(program)


if __name__ == "__main__":
    start(main, words="benches")
