"""Configurations of programs, composed as the command line does."""

import pickle
from functools import cache

from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from conf.programs import register
from launch.cli.measured import evaluation_of
from tests.places import CONF

register()


def composed(program: str, *overrides: str) -> DictConfig:
    """Return what a program's overrides compose, to change freely.

    Hydra reads and merges some thirty files for each composition, and sets single values last.
    Many tests ask for other values of the same files, so the files are merged once.
    """
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    values = [override for override in parsed if _sets_a_value(override)]
    picks = [override.input_line for override in parsed if override not in values]
    config = pickle.loads(_of_files(program, tuple(picks)))
    ConfigLoaderImpl._apply_overrides_to_config(values, config)
    return evaluation_of(config, overrides) if program == "evaluate" else config


def composed_by_hydra(program: str, *overrides: str) -> DictConfig:
    """Return the same, the slow way."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(program, list(overrides))


@cache
def _of_files(program: str, picks: tuple[str, ...]) -> bytes:
    # A copy takes seven times as long.
    return pickle.dumps(composed_by_hydra(program, *picks))


def _sets_a_value(override: Override) -> bool:
    key = override.key_or_group
    return (
        override.package is None
        and not override.is_sweep_override()
        and not override.is_hydra_override()
        and not (CONF / key).is_dir()
    )
