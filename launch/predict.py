"""What is known of prompts, and what it saves: `python -m launch.predict`.

Samples responses to every prompt of a task and takes their gradients. Some responses are visits of
a run that stands still; what the scheduler's plugs then believe is held against the others:

    R^2 of the pass rate and of the chance of a mixed group, and how far those chances are off
    (sum p c) (sum V / p), over that of uniform draws: cost times second moment of the gradient
    (sum q c) (sum V / q - B), over that of an epoch: cost times variance of a pass

p are the draws of `allocator=square_root` and q the chances of `allocator=passes`, c what a draw
costs, V the squared norm of a group's gradient and B that of its mean, in the plain metric and in
Adam's. An epoch, plain GRPO's, has q = 1; draws given those before have B = 0. 0 visits are of half
of the prompts, judged on the other half. Each row is one choice of what predictors may read.
"""

from __future__ import annotations

from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from conf.prediction import PredictConfig
from conf.programs import register
from launch.program import build, run_program, start

register()


@hydra.main(version_base="1.3", config_path="../conf", config_name="predict")
def main(composed: DictConfig) -> None:
    """Measure, print and write as configured."""

    def program() -> None:
        from launch.record.json_file import require_place, write_json
        from launch.study.prediction.study import measure
        from launch.study.prediction.tables import print_tables

        config: PredictConfig = build(composed)
        for key in ("data", "out"):
            path = getattr(config, key)
            if path is not None:
                require_place(key, path)
        report = measure(config, HydraConfig.get().runtime.choices["task"])
        print_tables(report)
        if config.out is not None:
            write_json(Path(config.out), report)

    run_program(program)


if __name__ == "__main__":
    start(main)
