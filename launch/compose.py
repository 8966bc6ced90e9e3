"""From hydra's configuration to typed objects, with errors a user can act on."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException


class UserError(Exception):
    """Something asked for cannot be done; the message is one sentence on what to change."""


class RunError(Exception):
    """A running part failed; the message has the first failure and where its logs are."""


def build(config: DictConfig) -> Any:
    """Instantiate a composed configuration into its schema's dataclass, plugs included.

    Raises:
        UserError: With the range check's or the plug's own sentence.
    """
    try:
        return instantiate(config, _convert_="object")
    except InstantiationException as error:
        raise UserError(_sentence(error)) from error
    except (ValueError, TypeError, OmegaConfBaseException) as error:
        raise UserError(_sentence(error)) from error


def _sentence(error: BaseException) -> str:
    """The innermost message, without hydra's wrapping."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())


def prepare_run_dir(path: Path, config: DictConfig) -> Path:
    """Create the run folder and write the resolved configuration into it.

    Raises:
        UserError: If the folder cannot be written or already holds something.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        if any(path.iterdir()):
            raise UserError(f"run_dir must be new or empty, got {str(path)!r}; choose another")
        (path / "config.yaml").write_text(OmegaConf.to_yaml(config, resolve=True), encoding="utf-8")
    except OSError as error:
        raise UserError(f"run_dir must be writable, got {str(path)!r}: {error.strerror}") from error
    return path


def run_program(main: Callable[[], None]) -> NoReturn:
    """Run a program's main; a UserError or ValueError becomes one line and exit status 2."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    sys.exit(0)
