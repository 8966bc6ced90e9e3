"""What each thinning rule adds to the variance, exactly: `python -m launch.variance`.

Samples batches of groups from a model, scores them with the task's reward and takes the gradient of
every response over all parameters. With G_i the norm of response i's part of the batch's gradient
and q_i its probability to be kept independently of the others, thinning adds

    sum_i G_i^2 (1 / q_i - 1)    reported over    sum_i G_i^2,

sums over the usable responses whose advantage is not 0. Budgets are shares of their tokens. The
oracle knows G and is what no proxy can beat. Systematic sampling, which training uses, has the same
q and by negative correlation usually less variance.

Beside that it prints what sizes follow from (cost/draws/sizing.py): the alignment of responses to a
prompt and the gradient noise scale in groups, +- half of a 95% interval, Student's t over batches.

With `layer=lm_head` gradients are by the output head's weights alone, for models whose backward
pass is dear; `layer=both` holds these norms against those by all weights.

PODS and D3S undo no probability: given the batch they add bias, not variance. For them the squared
distance of the batch's gradient from the full one is reported over the same sum: as it is, and
after the best common factor, which a learning rate could make up for. The variance of the rules
above averages out over batches; a bias stays.
"""

from __future__ import annotations

from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from conf.programs import register
from conf.studies import VarianceConfig
from launch.program import build, run_program, start

register()


@hydra.main(version_base="1.3", config_path="../conf", config_name="variance")
def main(composed: DictConfig) -> None:
    """Measure, print and write as configured."""

    def program() -> None:
        from launch.record.json_file import require_place, write_json
        from launch.study.variance.study import measure
        from launch.study.variance.tables import print_tables

        config: VarianceConfig = build(composed)
        if config.out is not None:
            require_place("out", config.out)
        report = measure(config, HydraConfig.get().runtime.choices["task"])
        print_tables(report)
        if config.out is not None:
            write_json(Path(config.out), report)

    run_program(program)


if __name__ == "__main__":
    start(main)
