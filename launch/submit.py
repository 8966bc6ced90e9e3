"""Run a training as a job: `python -m launch.submit address=http://head:8265 -- experiment=...`.

Before `--` are settings of the job (conf/submit.yaml), after it the run's overrides, as for
`python -m launch.train`; both are checked before anything is sent. The project's files go along,
uncommitted changes included, and are installed wherever an actor of the job runs. The job's output
is streamed and its status becomes the exit code.

`form=ray`, `form=kuberay` and `form=slurm` print the same job for other programs instead.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import hydra
from omegaconf import DictConfig

from conf.programs import register
from launch.jobs.submission import submit
from launch.program import build, run_program, start

RUN_OVERRIDES: list[str] = []
"""What stands after `--` on the command line."""
register()


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split at `--` into the job's overrides and the run's."""
    if "--" not in arguments:
        return list(arguments), []
    at = list(arguments).index("--")
    return list(arguments[:at]), list(arguments[at + 1 :])


@hydra.main(version_base="1.3", config_path="../conf", config_name="submit")
def main(composed: DictConfig) -> None:
    """Submit as configured."""
    run_program(lambda: submit(build(composed), RUN_OVERRIDES))


if __name__ == "__main__":
    own, RUN_OVERRIDES = split_arguments(sys.argv[1:])
    sys.argv[1:] = own
    start(main)
