"""Errors a user can act on: whatever composition, a plug or a reader raises, as one sentence.

hydra, OmegaConf  -> composition_sentence, key_sentence, plug_sentence
a reader of files -> reading
a check's own     -> refusing
UserError         -> one line on stderr, exit status 2
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hydra.errors import HydraException, InstantiationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, MissingMandatoryValue, OmegaConfBaseException

from launch.cli.hydra_errors import reworded


class UserError(Exception):
    """Something asked for cannot be done; the message is one sentence on what to change."""


class NothingToDoError(Exception):
    """What was asked for is there already; the message says so, and the program ends with 0."""


class RunError(Exception):
    """A running part failed; the message has the first failure and where its logs are."""

    status = 1
    """What the program exits with."""


LONGEST_REASON = 300
"""Characters of what somebody else's code says that a sentence repeats."""


def reason_of(error: BaseException) -> str:
    """Return what an exception of somebody else's code says, in one line that stands alone."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split())[:LONGEST_REASON]
    if isinstance(error, ValueError | OSError) and text:
        return text
    # The text of the others is a bare key, a type or nothing.
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@contextmanager
def reading(sentence: str, got: object) -> Iterator[None]:
    """Turn what goes wrong in a reader of foreign content into a sentence.

    Wrap nothing but the reading: libraries raise exceptions of every class for content they do not
    understand, so that a mistake of ours in here would be taken for the user's.

    Args:
        sentence: Begins with key or file, and says what it must be and what to do.
        got: What the user gave, for the end of the sentence.

    Raises:
        UserError: In place of whatever the reader raised.
    """
    try:
        yield
    except (UserError, RunError):
        raise
    except Exception as error:
        raise UserError(f"{sentence} ({reason_of(error)}), got {got!r}") from error


@contextmanager
def refusing(
    kinds: type[Exception] | tuple[type[Exception], ...] = ValueError,
) -> Iterator[None]:
    """Let the sentence of a check refuse what is asked for.

    Args:
        kinds: Of exceptions that say what to change.

    Raises:
        UserError: With that sentence.
    """
    try:
        yield
    except kinds as error:
        raise UserError(str(error)) from error


def one_line(error: BaseException) -> str:
    """What hydra says over several lines, in one, without the lines that name its own types."""
    chain: list[BaseException] = [error, *([error.__cause__] if error.__cause__ else [])]
    lines = [line.strip() for part in chain for line in str(part).splitlines()]
    noise = ("object_type", "reference_type", "^", "See https://hydra.cc")
    # The parser's own cause has no text at times, and is None then.
    facts = dict.fromkeys(
        line for line in lines if line not in ("", "None") and not line.startswith(noise)
    )
    return "; ".join(facts)


def composition_sentence(error: Exception) -> str:
    """Say what is wrong with a command line or a configuration file that does not compose."""
    if isinstance(error, HydraException | OmegaConfBaseException):
        return reworded(one_line(error))
    if isinstance(error, OSError):
        return (
            "the configuration's files and folders must be usable; look at hydra.run.dir, "
            f"--config-path and --config-dir ({reason_of(error)}), got {error.filename!r}"
        )
    return (
        "the command line and the configuration's files must compose; look at the override or file "
        f"that this speaks of ({reason_of(error)})"
    )


def plug_sentence(error: InstantiationException, config: DictConfig) -> str:
    """What hydra's wrapping hides: the plug's own complaint, under the key the user wrote.

    A plug speaks of its settings under the name of its kind ("task.num_prompts"); which key holds
    it ("held_out") only hydra knows.
    """
    found = re.search(r"^full_key: (.+)$", str(error), flags=re.MULTILINE)
    key = found[1] if found else ""
    if OmegaConf.select(config, key) is None:
        # OmegaConf names the first of a list "tools0", and what is in it "tools[0].key".
        key = re.sub(r"\d+$", r"[\g<0>]", key)
    plug: Any = OmegaConf.select(config, key) if key else None
    if not OmegaConf.is_dict(plug):
        plug = {}
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    reason = " ".join(str(cause).split())
    if not isinstance(cause, ValueError):
        # Not resolved, for what comes from the environment may be a secret.
        written: Any = OmegaConf.to_container(OmegaConf.create(plug), resolve=False)
        settings = {name: value for name, value in written.items() if name != "_target_"}
        reason = re.sub(r" full_key: \S+$", "", reason)
        return f"{key}: {plug.get('_target_')} does not fit ({reason}), got {settings!r}"
    setting = re.match(r"\w+\.(\w+)", reason)
    if reason.startswith(f"{key}."):
        return reason
    if setting and setting[1] in plug:
        return f"{key}.{setting[1]}{reason[setting.end() :]}"
    return f"{key}: {reason}"


def key_sentence(error: OmegaConfBaseException) -> str:
    """Say which key OmegaConf could not read, and why."""
    key = error.full_key
    if isinstance(error, MissingMandatoryValue):
        return f"{key} must be set, got ???"
    reason = str(error).splitlines()[0]
    if isinstance(error, InterpolationKeyError):
        reason += "; set it, or choose groups that go together"
    return f"{key}: {reason}" if key else reason
