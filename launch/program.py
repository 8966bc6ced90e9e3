"""From hydra's configuration to typed objects, with errors a user can act on."""

from __future__ import annotations

import logging
import os
import shlex
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from conf.checks import check_keys, check_values
from conf.keys import GROUPS
from conf.own_code import with_own_code
from conf.secrets import check_secrets, recorded
from launch.cli.built import built
from launch.cli.command_line import (
    check_options,
    check_overrides,
    options_last,
    quoted,
    with_quotes,
    with_words,
    without_config_dirs,
)
from launch.cli.folder_lock import lock_folder
from launch.cli.held_out import with_held_out
from launch.cli.help import help_of
from launch.cli.measured import with_measured
from launch.cli.output import end_quietly, open_streams
from launch.cli.own_code import settle_plugs, with_own_files
from launch.cli.previewed import drop_preview, with_preview
from launch.cli.recipes import with_whole_members, without_outranked
from launch.cli.recorded import with_resumed
from launch.cli.refusals import (
    NothingToDoError,
    RunError,
    UserError,
    composition_sentence,
    key_sentence,
    plug_sentence,
    reason_of,
)
from launch.cli.shown import show, without_shown
from launch.cli.signals import Interrupted, handled, interrupt, refuse
from launch.cli.visible import VisibleFilter, visible


def compose_run(
    overrides: Sequence[str], program: str = "train", base: Sequence[str] = ()
) -> DictConfig:
    """Compose a training run from overrides of `conf/train.yaml`, or what another program takes.

    Folders of `--config-dir` count, those among the overrides and that of this program. The members
    of a recipe among the overrides take the place of those in `base`, which comes before them.

    Raises:
        UserError: With what is wrong with them.
    """
    (folders, base), (named, overrides) = map(without_config_dirs, (base, overrides))
    folders += named
    if HydraConfig.initialized():
        sources = HydraConfig.get().runtime.config_sources
        folders += [each.path for each in sources if each.provider == "command-line"]
    places = ",".join(quoted(f"file://{folder}") for folder in folders)
    GlobalHydra.instance().clear()
    with initialize_config_module("conf", version_base="1.3"):
        try:
            base = without_outranked(base, overrides, program, folders)
            overrides = _written_out([*base, *overrides], program, folders)
            check_overrides(overrides)
            search = [f"hydra.searchpath=[{places}]"] if folders else []
            composed = compose(program, overrides=[*overrides, *search])
            settle_plugs(composed, overrides)
        except UserError:
            raise
        except Exception as error:
            raise UserError(composition_sentence(error)) from error
    return composed


def _written_out(arguments: Sequence[str], program: str, folders: Sequence[str] = ()) -> list[str]:
    arguments = with_preview(with_held_out(arguments, program, folders), program)
    arguments = with_quotes(with_own_files(arguments, program))
    return with_whole_members(arguments, program, folders)


def build(config: DictConfig) -> Any:
    """Instantiate a composed configuration into its schema's dataclass, plugs included.

    Raises:
        UserError: With the range check's or the plug's own sentence.
    """
    try:
        if HydraConfig.initialized():
            settle_plugs(config, HydraConfig.get().overrides.task)
        drop_preview(config)
        check_keys(config)
        check_values(config)
        check_secrets(config)
        return built(with_own_code(config))
    except InstantiationException as error:
        raise UserError(plug_sentence(error, config)) from error
    except OmegaConfBaseException as error:
        raise UserError(key_sentence(error)) from error
    except (ValueError, TypeError) as error:
        raise UserError(" ".join(str(error).split())) from error


HEADER = """\
# Run again: python -m launch.{program} --config-path {path} --config-name config run_dir=NEW
defaults:
  - {program}_schema
  - override hydra/job_logging: stdout
  - _self_
hydra:
  output_subdir: null
  run:
    dir: .
"""
PARTIAL = ".config.yaml.partial"


def prepare_run_dir(path: Path, config: DictConfig, program: str, *, again: bool = False) -> Path:
    """Create the run folder and write the resolved configuration into it.

    `config.yaml` is a configuration of its own: the program runs from it alone, or with what it
    took from the environment.

    Args:
        path: The folder.
        config: As composed.
        program: "train" or "evaluate".
        again: Whether the folder may hold the same run already, which begins anew or goes on.

    Raises:
        UserError: If the folder cannot be written, already holds something else than the
            configuration of a start that came to nothing, or another program is at work in it.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        ours = hold_folder(path)
        used = any(path.iterdir()) and not (ours and _came_to_nothing(path))
        if again and used and not (path / "config.yaml").exists():
            raise UserError(
                f"run_dir must be new, empty or hold a run, got {str(path)!r}, which has no "
                "config.yaml; choose another"
            )
        if not again and used:
            raise UserError(f"run_dir must be new or empty, got {str(path)!r}; choose another")
        header = HEADER.format(program=program, path=shlex.quote(str(path)))
        text = header + OmegaConf.to_yaml(OmegaConf.create(recorded(config)))
        partial = path / PARTIAL
        partial.write_text(text, encoding="utf-8")
        partial.replace(path / "config.yaml")
    except OSError as error:
        raise UserError(
            f"run_dir must be writable, got {str(path)!r}: {reason_of(error)}"
        ) from error
    return path


def hold_folder(path: Path) -> bool | None:
    """Lock a run folder as `launch.cli.folder_lock.lock_folder` does.

    Raises:
        UserError: If another program is at work in it.
    """
    ours = lock_folder(path)
    if ours is False:
        raise UserError(
            f"run_dir must not be in use by another program, got {str(path)!r}; choose another, or "
            "wait until that has ended"
        )
    return ours


def _came_to_nothing(path: Path) -> bool:
    """Whether a folder holds nothing but what a start wrote that ended before its first result."""
    names = {each.name for each in path.iterdir()} - {PARTIAL}
    try:
        return not names or (
            names == {"config.yaml"}
            and (path / "config.yaml")
            .read_text(encoding="utf-8")
            .startswith(HEADER.partition("{")[0])
        )
    except UnicodeDecodeError:
        return False


def start(
    main: Callable[[], None],
    *,
    words: str | None = None,
    resumes: bool = False,
    measures: bool = False,
) -> NoReturn:
    """Call a program decorated with `hydra.main`, and put hydra's own refusals into one line.

    Hydra prints several lines for a key or group it does not know, and hides the traceback of
    bugs; asked for full errors it raises, and both can be done better here.

    Args:
        main: The program.
        words: The list key that the command line's bare words fill, see `with_words`.
        resumes: Whether `resume=RUN` takes the configuration of that run, see `with_resumed`.
        measures: Whether the bare word RUN takes it, and the run's policy, see `with_measured`.
    """
    open_streams()
    os.environ["HYDRA_FULL_ERROR"] = "1"
    # A folder of configurations that is not there would otherwise be passed over.
    warnings.filterwarnings("error", message=r"provider=.* is not available")
    with handled(refuse):
        _start(main, words, resumes, measures)
    sys.exit(0)


def _start(main: Callable[[], None], words: str | None, resumes: bool, measures: bool) -> None:
    try:
        program = Path(sys.argv[0]).stem
        if text := help_of(sys.argv[1:], program, GROUPS):
            print(text)
            sys.exit(0)
        if measures:
            sys.argv[1:] = with_measured(sys.argv[1:])
        sys.argv[1:] = with_words(sys.argv[1:], words)
        sys.argv[1:] = _written_out(sys.argv[1:], program)
        if resumes:
            sys.argv[1:] = with_resumed(sys.argv[1:])
        sys.argv[1:] = options_last(sys.argv[1:])
        check_options(sys.argv[1:])
        check_overrides(sys.argv[1:])
        shown, sys.argv[1:] = without_shown(sys.argv[1:])
        if shown is None:
            main()
        else:
            show(program, shown, run_program)
    except UserError as error:
        _refuse(error)
    except BrokenPipeError:
        # Whoever read has seen enough, as `head` has.
        pass
    except Exception as error:
        if _is_of_the_program(error):
            raise
        # Nothing but the command line and configuration files was looked at yet.
        _refuse(UserError(composition_sentence(error)))
    finally:
        HydraConfig.instance().cfg = None
        end_quietly()


def _is_of_the_program(error: Exception) -> bool:
    """Whether an exception comes out of what `run_program` called, and not of the composition."""
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(frame.f_code is run_program.__code__ for frame in frames)


def _refuse(error: Exception, status: int = 2) -> NoReturn:
    print(f"error: {visible(' '.join(str(error).split()))}", file=sys.stderr)
    sys.exit(status)


def run_program(main: Callable[[], None]) -> NoReturn:
    """Run a program's main and exit: 2 for what the user can change, 1 for a part that failed.

    The former is one line on stderr, and so is a signal. Any other exception is a bug and keeps its
    traceback.
    """
    for handler in logging.getLogger().handlers:
        handler.addFilter(VisibleFilter())
    try:
        with handled(interrupt):
            main()
    except Interrupted as stopped:
        _refuse(RunError(f"stopped by {stopped.signal.name}"), 128 + stopped.signal)
    except UserError as error:
        _refuse(error)
    except OmegaConfBaseException as error:
        _refuse(UserError(key_sentence(error)))
    except NothingToDoError as done:
        print(visible(str(done)))
    except RunError as error:
        print(f"error: {visible(str(error))}", file=sys.stderr)
        sys.exit(error.status)
    sys.exit(0)
