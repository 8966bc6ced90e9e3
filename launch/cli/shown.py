"""`--cfg job`: the configuration that a program would run with, printed in place of running it.

Hydra prints what it composes. What a plug of the user's takes the place of is taken out of that
later, and so is what an evaluation has of a training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from omegaconf import Container, DictConfig, OmegaConf

from launch.cli.measured import evaluation_of
from launch.cli.own_code import settle_plugs
from launch.cli.previewed import drop_preview
from launch.cli.refusals import UserError

_OPTIONS = {"--cfg": 2, "-c": 2, "--package": 2, "-p": 2, "--resolve": 1}
"""What asks for it, with the number of its words."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What is to be printed.

    Attributes:
        package: The part of the configuration; None for all of it.
        resolve: Whether interpolations are.
    """

    package: str | None
    resolve: bool


def without_shown(arguments: Sequence[str]) -> tuple[Shown | None, list[str]]:
    """Return what `--cfg job` asks for, and the other arguments; None where it is not there."""
    asked = get_args_parser().parse_args([each for each in arguments if each != "--version"])
    if asked.cfg != "job":
        return None, list(arguments)
    others, words = [], iter(arguments)
    for word in words:
        option, _, value = word.partition("=")
        if option not in _OPTIONS:
            others.append(word)
        elif _OPTIONS[option] == 2 and not value:
            next(words)
    package = None if asked.package == "_global_" else asked.package
    return Shown(package, bool(asked.resolve)), others


def show(program: str, shown: Shown, run: Callable[[Callable[[], None]], NoReturn]) -> None:
    """Print the configuration of a program, whose arguments are in `sys.argv`.

    Args:
        program: Its name.
        shown: What of it.
        run: Calls what prints and exits, a refusal being one line.
    """

    @hydra.main(version_base="1.3", config_path="../../conf", config_name=program)
    def main(composed: DictConfig) -> None:
        def printing() -> None:
            overrides = HydraConfig.get().overrides.task
            config = evaluation_of(composed, overrides) if program == "evaluate" else composed
            settle_plugs(config, overrides)
            drop_preview(config)
            print(_text(config, shown), end="")

        run(printing)

    main()


def _text(config: DictConfig, shown: Shown) -> str:
    part = OmegaConf.select(config, shown.package) if shown.package else config
    if part is None:
        raise UserError(f"--package must name a part of what is set, got {shown.package!r}")
    if not isinstance(part, Container):
        return f"{part}\n"
    if shown.resolve:
        OmegaConf.resolve(part)
    head = f"# @package {shown.package}\n" if shown.package else ""
    return head + OmegaConf.to_yaml(part)
