"""Run a training as a job: `python -m launch.submit address=http://head:8265 -- experiment=...`.

Before `--` are settings of the job (conf/submit.yaml), after it the run's overrides, as for
`python -m launch.train`, or with `program=compare` those of `python -m launch.compare`; both are
checked before anything is sent. The project's files and those of your own folder go along,
uncommitted changes included, and are installed wherever an actor of the job runs. The job's output
is streamed and its status becomes the exit code.

`python -m launch.submit list`, `stop NAME` and `resume NAME`, with the same `address=...`, show the
jobs of a cluster, have one end in order, and let one go on from its run folder.

`form=ray`, `form=kuberay` and `form=slurm` print the same job for other programs instead.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import hydra
from omegaconf import DictConfig

from conf.programs import register
from launch.jobs.submission import submit, training
from launch.program import build, run_program, start

PROGRAM_OVERRIDES: list[str] = []
"""What stands after `--` on the command line."""
register()


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split at `--` into the job's overrides and the program's."""
    if "--" not in arguments:
        return list(arguments), []
    at = list(arguments).index("--")
    return list(arguments[:at]), list(arguments[at + 1 :])


@hydra.main(version_base="1.3", config_path="../conf", config_name="submit")
def main(composed: DictConfig) -> None:
    """Submit as configured."""

    def program() -> None:
        from launch.study.comparison.checks import first_run

        submit(build(composed), PROGRAM_OVERRIDES, {"train": training, "compare": first_run})

    run_program(program)


if __name__ == "__main__":
    own, PROGRAM_OVERRIDES = split_arguments(sys.argv[1:])
    sys.argv[1:] = own
    start(main, words="action")
