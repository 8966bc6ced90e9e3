"""Fetch SmolLM2-135M-Instruct and convert it: `python -m launch.smollm2 out=models/smollm2`."""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from conf.models import SmolLM2Config
from conf.programs import register
from launch.program import build, run_program, start

register()


@hydra.main(version_base="1.3", config_path="../conf", config_name="smollm2")
def main(composed: DictConfig) -> None:
    """Make the model as configured."""

    def program() -> None:
        from launch.models.smollm2 import make_model

        config: SmolLM2Config = build(composed)
        make_model(Path(config.out))
        print(f"saved {config.out}")

    run_program(program)


if __name__ == "__main__":
    start(main)
