"""Train the shipped chain model from nothing: `python -m launch.warmstart out=models/chain`.

About four minutes on one core. With `base=DIR` a given model learns conversations of a script.
Every setting of `conf.models.WarmStartConfig` is an override.
"""

import hydra
from omegaconf import DictConfig

from conf.models import WarmStartConfig
from conf.programs import register
from launch.program import build, run_program, start

register()


@hydra.main(version_base="1.3", config_path="../conf", config_name="warmstart")
def main(composed: DictConfig) -> None:
    """Run the warm start that the command line describes."""

    def program() -> None:
        from launch.models.warmstart import warm_start

        config: WarmStartConfig = build(composed)
        print(f"saved {warm_start(config)}")

    run_program(program)


if __name__ == "__main__":
    start(main)
