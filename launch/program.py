"""From hydra's configuration to typed objects, with errors a user can act on."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from hydra.errors import HydraException, InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, MissingMandatoryValue, OmegaConfBaseException

from conf.rewards import with_functions


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
        return instantiate(with_functions(config), _convert_="object")
    except InstantiationException as error:
        raise UserError(_plug_sentence(error, config)) from error
    except OmegaConfBaseException as error:
        raise UserError(_key_sentence(error)) from error
    except (ValueError, TypeError) as error:
        raise UserError(" ".join(str(error).split())) from error


def _plug_sentence(error: InstantiationException, config: DictConfig) -> str:
    """What hydra's wrapping hides: the plug's own complaint, under the key the user wrote.

    A plug speaks of its settings under the name of its kind ("task.num_prompts"); which key holds
    it ("held_out") only hydra knows.
    """
    found = re.search(r"^full_key: (.+)$", str(error), flags=re.MULTILINE)
    key = found[1] if found else ""
    plug: Any = OmegaConf.select(config, key) or {}
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    reason = " ".join(str(cause).split())
    if not isinstance(cause, ValueError):
        settings = {name: value for name, value in plug.items() if name != "_target_"}
        return f"{key}: {plug.get('_target_')} does not fit ({reason}), got {settings!r}"
    setting = re.match(r"\w+\.(\w+)", reason)
    if reason.startswith(f"{key}."):
        return reason
    if setting and setting[1] in plug:
        return f"{key}.{setting[1]}{reason[setting.end() :]}"
    return f"{key}: {reason}"


def one_line(error: Exception) -> str:
    """What hydra says over several lines, in one, without the lines that name its own types."""
    chain: list[BaseException] = [error, *([error.__cause__] if error.__cause__ else [])]
    lines = [line.strip() for part in chain for line in str(part).splitlines()]
    noise = ("object_type", "reference_type")
    facts = dict.fromkeys(line for line in lines if line and not line.startswith(noise))
    return "; ".join(facts)


def _key_sentence(error: OmegaConfBaseException) -> str:
    key = error.full_key
    if isinstance(error, MissingMandatoryValue):
        return f"{key} must be set, got ???"
    reason = str(error).splitlines()[0]
    if isinstance(error, InterpolationKeyError):
        reason += "; set it, or choose groups that go together"
    return f"{key}: {reason}" if key else reason


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


def prepare_run_dir(path: Path, config: DictConfig, program: str) -> Path:
    """Create the run folder and write the resolved configuration into it.

    `config.yaml` is a configuration of its own: the program runs from it alone.

    Args:
        path: The folder.
        config: As composed.
        program: "train" or "evaluate".

    Raises:
        UserError: If the folder cannot be written or already holds something.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        if any(path.iterdir()):
            raise UserError(f"run_dir must be new or empty, got {str(path)!r}; choose another")
        text = HEADER.format(program=program, path=path) + OmegaConf.to_yaml(config, resolve=True)
        (path / "config.yaml").write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"run_dir must be writable, got {str(path)!r}: {error.strerror}") from error
    return path


HYDRA_OPTIONS_WITH_VALUE = (
    "--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn",
    "--config-dir", "-cd", "--experimental-rerun", "--info", "-i",
)  # fmt: skip


def with_words(arguments: Sequence[str], key: str | None) -> list[str]:
    """Turn the bare words of a command line into an override of one list key.

    A bare word has no `=`, begins with none of `-`, `+` and `~`, and is no value of an option of
    hydra's. Words reach the program letter for letter: nothing in them means anything to hydra.

    Example: with_words(["runs/a", "out=x.html", "b c"], "runs") is ["runs=['runs/a','b c']",
    "out=x.html"].

    Args:
        arguments: The command line without the program's name.
        key: The list key that holds the words; None for a program that takes none.

    Raises:
        UserError: If there are words for a program that takes none.
    """
    places = list(_bare_words(arguments))
    if not places:
        return list(arguments)
    words = [arguments[place] for place in places]
    if key is None:
        raise UserError(f"settings must be written as KEY=VALUE, got {words[0]!r}")
    override = f"{key}=[{','.join(_quoted(word) for word in words)}]"
    first = places[0]
    rest = [arguments[i] for i in range(first + 1, len(arguments)) if i not in places]
    return [*arguments[:first], override, *rest]


def _bare_words(arguments: Sequence[str]) -> Iterator[int]:
    for place, argument in enumerate(arguments):
        is_value = place > 0 and arguments[place - 1] in HYDRA_OPTIONS_WITH_VALUE
        if "=" not in argument and not argument.startswith(("-", "+", "~")) and not is_value:
            yield place


def with_reward_files(arguments: Sequence[str]) -> list[str]:
    """Write out `reward=FILE.py:NAME`: the member `function` of the group, and its path.

    Example: with_reward_files(["reward=a.py:f"]) is ["reward=function", "reward.path='a.py:f'"].

    Args:
        arguments: Overrides, in which other packages of the group (`reward@KEY=`) count too.
    """
    return [part for argument in arguments for part in _reward_file(argument)]


def _reward_file(argument: str) -> list[str]:
    found = re.fullmatch(r"(\+*reward(?:@([\w.]+))?)=['\"]?([^'\"]+\.py:[\w.]+)['\"]?", argument)
    if found is None:
        return [argument]
    group, package, path = found.groups()
    return [f"{group}=function", f"{package or 'reward'}.path={_quoted(path)}"]


def _quoted(word: str) -> str:
    """Quote a word for hydra's grammar, which leaves all but interpolations as they are."""
    # Backslashes count only before what they could escape.
    plain = re.sub(r"(\\*)\$\{", r"\1\1\\${", word)
    plain = re.sub(r"(\\*)'", r"\1\1\\'", plain)
    trailing = "\\" * (len(plain) - len(plain.rstrip("\\")))
    return f"'{plain}{trailing}'"


def start(main: Callable[[], None], *, words: str | None = None) -> NoReturn:
    """Call a program decorated with `hydra.main`, and put hydra's own refusals into one line.

    Hydra prints several lines for a key or group it does not know, and hides the traceback of
    bugs; asked for full errors it raises, and both can be done better here.

    Args:
        main: The program.
        words: The list key that the command line's bare words fill, see `with_words`.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        sys.argv[1:] = with_reward_files(with_words(sys.argv[1:], words))
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except (HydraException, OmegaConfBaseException) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(2)
    sys.exit(0)


def run_program(main: Callable[[], None]) -> NoReturn:
    """Run a program's main and exit: 2 for what the user can change, 1 for a part that failed.

    Either is one line on stderr. Any other exception is a bug and keeps its traceback.
    """
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OmegaConfBaseException as error:
        print(f"error: {_key_sentence(error)}", file=sys.stderr)
        sys.exit(2)
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    sys.exit(0)
