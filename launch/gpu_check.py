"""Try everything on one GPU: `python -m launch.gpu_check [PART...] [model=FOLDER] [out=FILE]`.

    torch         first of all, on a GPU: whether torch finds it; the others need that
    kernels       attention in one call against pieces and the square; log-probabilities in chunks
    system        engine and learner on one GPU: start, rollouts, publishing, parity; CUDA graphs
    learner       an optimiser step: tokens per second, utilisation, memory
    quickstart    20 steps of it
    sleep         3 steps whose engine sleeps while the learner works
    model_*       `system` and `learner` of the folder `model`

Each part is a process with a deadline; one that fails is recorded with its error and stops no
other. All of it is in bfloat16 and needs no network. The JSON file has every part's status and
findings, the machine, and of what failed the ends of logs; it is written after each part. The exit
status is 1 where a part failed. `make gpu-check` installs first.
"""

from functools import partial
from pathlib import Path

import hydra
from omegaconf import DictConfig

from conf.gpu_check import GpuCheckConfig
from conf.programs import register
from launch.cli.refusals import RunError, UserError
from launch.program import build, run_program, start

register()


@hydra.main(version_base="1.3", config_path="../conf", config_name="gpu_check")
def main(composed: DictConfig) -> None:
    """Check as configured."""

    def program() -> None:
        from launch.record.json_file import write_json
        from launch.study.gpu_check.check import run_check, stopping
        from launch.study.gpu_check.gpu import one_gpu

        config: GpuCheckConfig = build(composed)
        out = Path(config.out).absolute()
        if not out.parent.is_dir():
            raise UserError(f"out must be a file in a folder that exists, got {config.out!r}")
        if config.device == "gpu" and one_gpu() is None:
            raise UserError(
                "device must be cpu where nvidia-smi shows no GPU, got 'gpu'; on CPUs what needs "
                "one is left out"
            )
        with stopping(f"before all parts were tried; {out} has what was found"):
            found = run_check(
                config, lambda line: print(line, flush=True), partial(write_json, out)
            )
        print(f"{out}: {found['verdict']}", flush=True)
        if not found["passed"]:
            raise RunError(f"{found['verdict']}; {out} has the errors")

    run_program(program)


if __name__ == "__main__":
    start(main, words="parts")
