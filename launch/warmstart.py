"""Train the shipped chain model from nothing: `python -m launch.warmstart out=models/chain`.

About four minutes on one core. Every setting of `launch.models.warmstart.WarmStartConfig` is an
override.
"""

from typing import cast

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from launch.models.warmstart import WarmStartConfig, warm_start

ConfigStore.instance().store(name="warmstart_schema", node=WarmStartConfig)


@hydra.main(version_base=None, config_path="../conf", config_name="warmstart")
def main(config: DictConfig) -> None:
    """Run the warm start that the command line describes."""
    settings = cast(WarmStartConfig, OmegaConf.to_object(config))
    print(f"saved {warm_start(settings)}")


if __name__ == "__main__":
    main()
