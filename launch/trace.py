"""Show where the time of a run went: `python -m launch.trace RUN [step=N] [out=FILE]`.

run folder -> launch.record.trace -> a Chrome trace, to open in ui.perfetto.dev
"""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from conf.programs import TraceConfig, register
from launch.program import build, run_program, start

register()


@hydra.main(version_base="1.3", config_path="../conf", config_name="trace")
def main(composed: DictConfig) -> None:
    """Draw the trace as configured."""

    def program() -> None:
        from launch.record.trace import write_trace

        config: TraceConfig = build(composed)
        out = None if config.out is None else Path(config.out)
        path = write_trace(Path(config.runs[0]), config.step, out)
        print(f"{path} (open it in https://ui.perfetto.dev)")

    run_program(program)


if __name__ == "__main__":
    start(main, words="runs")
